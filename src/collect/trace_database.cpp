#include "weir/collect/trace_database.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "collect/trace_rows.hpp"

namespace weir::inline v0 {

namespace {

using detail::TraceRow;
using SteadyTime = std::chrono::steady_clock::time_point;
using std::chrono::milliseconds;

constexpr milliseconds first_pause{100}, last_pause{5000};
constexpr std::chrono::minutes say_interval{1};
constexpr std::size_t most_trace_bytes = 512u << 20;  // SQLite's own limit is 1e9
constexpr std::size_t most_batch_traces = 100'000;

SteadyTime steady_now() { return std::chrono::steady_clock::now(); }

Error invalid(std::string message) { return Error{std::make_error_code(std::errc::invalid_argument), std::move(message)}; }

std::size_t cost_of(const TraceRow& row) { return sizeof(TraceRow) + row.bytes(); }

/// Far from the ends of what clocks count.
template <class Duration>
Duration representable(Duration duration) {
  return std::clamp(duration, Duration{0}, std::chrono::duration_cast<Duration>(std::chrono::hours{24 * 3650}));
}

}  // namespace

struct TraceDatabase::State {
  State(std::string file, const TraceDatabaseOptions& given) : path(std::move(file)), options(given) {}

  const std::string path;
  const TraceDatabaseOptions options;
  Logger& logger = options.logger != nullptr ? *options.logger : stderr_logger();

  std::mutex rows_mutex;  // taken before `mutex`, if both are
  std::unique_ptr<detail::TraceRows> rows;

  mutable std::mutex mutex;
  std::condition_variable work, settled;
  // Guarded by mutex.
  std::deque<TraceRow> queue;       // the batch that is being written is at its front
  std::size_t queued_bytes = 0;     // of the queue
  std::uint64_t put = 0, done = 0;  // rows that came into the queue, and that left it
  std::uint64_t wanted_done = 0;    // flush() waits for
  std::uint64_t attempts = 0;       // that failed
  bool full = false;                // something had no room since the last batch left
  bool retry = false, closing = false, failing = false;
  SteadyTime close_by{};
  TraceDatabaseStats counters;

  // The writer's own.
  std::vector<TraceRow> batch;
  bool said = false;
  SteadyTime say_again = SteadyTime::min();

  std::mutex close_mutex;  // taken first; guards writer
  std::thread writer;

  Timestamp now() const { return options.clock != nullptr ? options.clock->now() : Timestamp{std::chrono::system_clock::now()}; }
  bool batch_is_full() const { return queue.size() >= options.batch_traces; }

  /// Counts the trace if it has no room. Requires: the lock.
  bool has_room(std::size_t bytes) {
    if (closing) {
      ++counters.dropped_closed;
    } else if (full || queued_bytes + bytes > options.max_queue_bytes) {
      full = true;
      ++(failing ? counters.dropped_unwritable : counters.dropped_full);
    } else {
      return true;
    }
    ++counters.traces;
    return false;
  }

  void store(const Trace& trace) {
    {
      std::lock_guard lock(mutex);
      if (!has_room(0)) return;
    }
    TraceRow row = detail::row_of(trace, now());
    const std::size_t bytes = cost_of(row);
    std::lock_guard lock(mutex);
    if (row.roots.size() > options.max_trace_bytes || bytes > options.max_queue_bytes) {
      ++counters.traces;
      ++counters.dropped_too_large;
      return;
    }
    if (!has_room(bytes)) return;
    queue.push_back(std::move(row));
    ++counters.traces;
    ++put;
    queued_bytes += bytes;
    if (queue.size() == 1 || queue.size() == options.batch_traces) work.notify_one();
  }

  void write_all() {
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return closing || !queue.empty(); });
      if (queue.empty()) return;
      work.wait_until(lock, steady_now() + options.batch_delay, [&] { return closing || done < wanted_done || batch_is_full(); });
      write_batch(lock);
    }
  }

  /// Until it is written, or given up.
  void write_batch(std::unique_lock<std::mutex>& lock) {
    batch.clear();
    for (std::size_t i = 0; i < queue.size() && i < options.batch_traces; ++i) batch.push_back(std::move(queue[i]));
    for (milliseconds pause = first_pause;; pause = std::min(pause * 2, last_pause)) {
      if (closing && steady_now() >= close_by) return give_up(&TraceDatabaseStats::dropped_closed);
      lock.unlock();
      const Result<detail::TraceRowsWritten> written = write();
      tell(written);
      lock.lock();
      failing = !written;
      if (written) return settle(*written);
      ++counters.failed_batches;
      ++attempts;
      settled.notify_all();
      if (closing) return give_up(&TraceDatabaseStats::dropped_unwritable);
      work.wait_until(lock, steady_now() + pause, [&] { return closing || std::exchange(retry, false); });
    }
  }

  Result<detail::TraceRowsWritten> write() {
    try {
      std::lock_guard lock(rows_mutex);
      return rows->write(batch, now());
    } catch (const std::bad_alloc&) {
      return Error{std::make_error_code(std::errc::not_enough_memory), "cannot write to the trace database '" + path + "': out of memory"};
    }
  }

  void settle(const detail::TraceRowsWritten& written) {
    for (const TraceRow& row : batch) queued_bytes -= cost_of(row);
    queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(batch.size()));
    done += batch.size();
    full = false;
    counters.stored += batch.size() - written.too_large;
    counters.dropped_too_large += written.too_large;
    counters.updated += written.updated;
    take_totals(written);
    settled.notify_all();
  }
  void take_totals(const detail::TraceRowsWritten& written) {
    counters.evicted += written.evicted;
    counters.kept_traces = written.kept;
    counters.bytes = written.bytes;
  }
  void give_up(std::uint64_t TraceDatabaseStats::*reason) {
    counters.*reason += queue.size();
    done += queue.size();
    queue.clear();
    queued_bytes = 0;
    settled.notify_all();
  }

  /// At most once a minute, so that a disk on the brink of being full does not fill the log.
  void tell(const Result<detail::TraceRowsWritten>& written) {
    if (written) {
      if (std::exchange(said, false)) logger.log(Logger::Level::warning, "the trace database '" + path + "' is written again");
      return;
    }
    if (said || steady_now() < say_again) return;
    said = true;
    say_again = steady_now() + say_interval;
    logger.log(Logger::Level::warning, written.error().message + "; traces wait for it to work again, and are dropped beyond " +
                                           std::to_string(options.max_queue_bytes) + " bytes");
  }

  void close(milliseconds timeout) {
    std::lock_guard only(close_mutex);
    {
      std::lock_guard lock(mutex);
      if (!std::exchange(closing, true)) close_by = steady_now() + representable(timeout);
      work.notify_all();
    }
    if (writer.joinable()) writer.join();
    std::lock_guard lock(rows_mutex);
    rows.reset();
  }
};

Result<TraceDatabase> TraceDatabase::open(std::string path, TraceDatabaseOptions options) {
  if (path.empty()) return invalid("cannot open a trace database: its path is empty");
  if (options.max_traces == 0 || options.max_bytes == 0 || options.max_age.count() <= 0 || options.max_queue_bytes == 0 ||
      options.max_trace_bytes == 0 || options.batch_traces == 0) {
    return invalid("cannot open the trace database '" + path + "': a bound is 0, and would keep nothing");
  }
  options.max_age = representable(options.max_age);
  options.batch_delay = representable(options.batch_delay);
  options.max_trace_bytes = std::min(options.max_trace_bytes, most_trace_bytes);
  options.batch_traces = std::min(options.batch_traces, most_batch_traces);
  auto state = std::make_unique<State>(std::move(path), options);
  Result<std::unique_ptr<detail::TraceRows>> rows = detail::open_trace_rows(state->path, options);
  if (!rows) return rows.error();
  state->rows = std::move(*rows);
  state->batch.reserve(options.batch_traces);
  // What is beyond the bounds leaves. A full disk has no room to forget either: then it is done with the first batch.
  if (const auto trimmed = state->rows->write({}, state->now()); trimmed) state->take_totals(*trimmed);
  try {
    state->writer = std::thread([state = state.get()] { state->write_all(); });
  } catch (const std::system_error& problem) {
    return Error{problem.code(), "cannot start the writer of the trace database '" + state->path + "': " + problem.code().message()};
  }
  return TraceDatabase(std::move(state));
}

TraceDatabase::TraceDatabase(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
TraceDatabase::TraceDatabase(TraceDatabase&&) noexcept = default;
TraceDatabase& TraceDatabase::operator=(TraceDatabase&& other) noexcept {
  if (this != &other) {
    if (state_) close(std::chrono::seconds{5});
    state_ = std::move(other.state_);
  }
  return *this;
}
TraceDatabase::~TraceDatabase() {
  if (state_) close(std::chrono::seconds{5});
}

Result<void> TraceDatabase::load(const std::function<void(const Trace& trace, Timestamp completed)>& each) {
  std::lock_guard lock(state_->rows_mutex);
  if (!state_->rows) return invalid("cannot read the trace database '" + state_->path + "': it is closed");
  const Timestamp oldest = state_->now() - state_->options.max_age;
  std::uint64_t unreadable = 0;
  std::string why;
  Result<void> read = state_->rows->load([&](const TraceRow& row) {
    if (row.completed < oldest) return;  // it could not be removed
    const Result<Trace> trace = detail::trace_of(row);
    if (trace) {
      each(*trace, row.completed);
    } else if (unreadable++ == 0) {
      why = trace.error().message;
    }
    std::lock_guard counting(state_->mutex);
    ++(trace ? state_->counters.loaded : state_->counters.unreadable);
  });
  if (unreadable != 0) {
    const Attribute attributes[] = {{"rows", unreadable}, {"first", std::string_view(why)}};
    state_->logger.log(Logger::Level::warning, "the trace database '" + state_->path + "' has rows that are no traces", attributes);
  }
  return read;
}

void TraceDatabase::store(const Trace& trace) noexcept {
  try {
    state_->store(trace);
  } catch (const std::bad_alloc&) {
    std::lock_guard lock(state_->mutex);
    ++state_->counters.traces;
    ++state_->counters.dropped_full;
  }
}

bool TraceDatabase::wanted() noexcept {
  std::lock_guard lock(state_->mutex);
  return state_->has_room(1);
}

bool TraceDatabase::flush(std::chrono::milliseconds timeout) noexcept {
  std::unique_lock lock(state_->mutex);
  const std::uint64_t target = state_->put, attempts = state_->attempts, dropped = state_->counters.dropped_unwritable;
  state_->wanted_done = std::max(state_->wanted_done, target);
  state_->retry = state_->failing;
  state_->work.notify_all();
  const auto over = [&] { return state_->done >= target || state_->attempts != attempts; };
  state_->settled.wait_until(lock, steady_now() + representable(timeout), over);
  return state_->done >= target && state_->counters.dropped_unwritable == dropped;
}

void TraceDatabase::close(std::chrono::milliseconds timeout) noexcept { state_->close(timeout); }

TraceDatabaseStats TraceDatabase::stats() const {
  std::lock_guard lock(state_->mutex);
  TraceDatabaseStats stats = state_->counters;
  stats.queued = state_->queue.size();
  return stats;
}

const std::string& TraceDatabase::path() const noexcept { return state_->path; }

std::string TraceDatabaseStats::to_json() const {
  const nlohmann::ordered_json json{{"traces", traces},
                                    {"stored", stored},
                                    {"updated", updated},
                                    {"dropped_full", dropped_full},
                                    {"dropped_unwritable", dropped_unwritable},
                                    {"dropped_too_large", dropped_too_large},
                                    {"dropped_closed", dropped_closed},
                                    {"failed_batches", failed_batches},
                                    {"evicted", evicted},
                                    {"loaded", loaded},
                                    {"unreadable", unreadable},
                                    {"queued", queued},
                                    {"kept_traces", kept_traces},
                                    {"bytes", bytes}};
  return json.dump();
}

}  // namespace weir::inline v0
