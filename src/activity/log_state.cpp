#include "activity/log_state.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <optional>
#include <string>
#include <system_error>

#include "activity/fork_mutex.hpp"
#include "weir/core/logger.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t min_ring_bytes = 128u << 10;
constexpr auto drain_interval = std::chrono::milliseconds(10), idle_interval = std::chrono::milliseconds(80);

Logger& logger_of(const LogOptions& options) noexcept { return options.logger != nullptr ? *options.logger : stderr_logger(); }

template <class C>
std::int64_t nanoseconds_of() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(C::now().time_since_epoch()).count();
}

/// Attributes whose texts fit a ring: the long ones redacted and cut already.
class Shortened {
 public:
  Shortened(const LogFormatter& formatter, Attributes attributes) {
    for (const Attribute& attribute : attributes) {
      attributes_.push_back(attribute);
      if (attribute.value.type() != AttributeValue::Type::string || attribute.value.text().size() <= formatter.max_value_bytes()) continue;
      texts_.push_back(formatter.shortened(attribute.key.view(), attribute.value.text()));
      attributes_.back().value = std::string_view(texts_.back());
    }
  }
  Attributes attributes() const noexcept { return std::span<const Attribute>(attributes_); }

  static bool needed(Attributes attributes, std::size_t max) noexcept {
    for (const Attribute& attribute : attributes)
      if (attribute.value.type() == AttributeValue::Type::string && attribute.value.text().size() > max) return true;
    return false;
  }

 private:
  std::vector<Attribute> attributes_;
  std::deque<std::string> texts_;
};

}  // namespace

// ---- all of them

/// Thread-safety: shared: safe.
struct LogStates {
  ForkMutex mutex;
  LogState *living = nullptr, *unused = nullptr;  // guarded by mutex
  std::uint64_t last_id = 0;

  static LogStates& instance() noexcept {
    alignas(LogStates) static std::byte memory[sizeof(LogStates)];
    static auto* const states = new (memory) LogStates;
    return *states;
  }

  /// Runs in exit(): what was said before is written, together within the longest time that one of them has.
  static void flush_all() noexcept {
    LogStates& states = instance();
    const auto begin = std::chrono::steady_clock::now();
    std::lock_guard lock(states.mutex);
    for (LogState* state = states.living; state != nullptr; state = state->next_) {
      const auto left = begin + state->options_.stop_timeout - std::chrono::steady_clock::now();
      state->flush(std::chrono::duration_cast<std::chrono::milliseconds>(left));
    }
  }
};

LogState* LogState::open(std::shared_ptr<LogSink> sink, const LogOptions& options) {
  watch_forks();
  LogStates& states = LogStates::instance();
  LogState* state = nullptr;
  std::uint64_t id = 0;
  {
    std::lock_guard lock(states.mutex);
    if (states.unused != nullptr) state = std::exchange(states.unused, states.unused->next_);
    id = ++states.last_id;
  }
  if (state == nullptr) state = new LogState;
  state->asynchronous_ = options.asynchronous;
  state->fork_ = fork_count();
  state->options_ = options;
  state->options_.ring_bytes = std::bit_ceil(std::clamp(options.ring_bytes, min_ring_bytes, std::size_t{1} << 30));
  state->options_.max_value_bytes = std::min(options.max_value_bytes, min_ring_bytes / 4);
  state->formatter_ = LogFormatter(state->options_);
  state->sink_ = std::move(sink);
  state->ticker_ = Ticker(options.clock);
  state->written_ = state->lost_by_sink_ = state->lost_full_ = 0;
  state->failing_ = state->woken_ = false;
  state->lost_with_rings_ = state->flush_wanted_ = state->flush_done_ = 0;
  state->stop_ = state->stopped_ = false;
  if (state->asynchronous_) {
    static const int at_exit = std::atexit([] { LogStates::flush_all(); });
    (void)at_exit;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      state->writer_ = std::thread([state] { state->run(); });
    } catch (const std::system_error& error) {
      state->asynchronous_ = false;
      const Attribute attributes[] = {{"what", std::string_view(error.what())}};
      logger_of(options).log(Logger::Level::warning, "no thread for the log: lines are written by the threads that make them", attributes);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  state->id_.store(id, std::memory_order_seq_cst);
  std::lock_guard lock(states.mutex);
  state->next_ = states.living;
  states.living = state;
  return state;
}

void LogState::close() noexcept {
  LogStates& states = LogStates::instance();
  id_.store(0, std::memory_order_seq_cst);
  {
    std::lock_guard lock(states.mutex);
    for (LogState** link = &states.living; *link != nullptr; link = &(*link)->next_) {
      if (*link != this) continue;
      *link = next_;
      break;
    }
  }
  if (is_copy()) return;  // its thread, rings and users are the parent's: they stay as they are
  const auto deadline = std::chrono::steady_clock::now() + options_.stop_timeout;
  bool in_time = true;
  if (asynchronous_) {
    std::unique_lock lock(mutex_);
    stop_ = true;
    changed_.notify_all();
    in_time = drained_.wait_until(lock, deadline, [this] { return stopped_; });
  }
  while (in_time && users_.load(std::memory_order_seq_cst) != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    in_time = std::chrono::steady_clock::now() < deadline;
  }
  if (!in_time) {  // the sink holds a thread up, which goes on with it
    if (writer_.joinable()) writer_.detach();
    logger_of(options_).log(Logger::Level::warning, "the log's sink has not taken all lines in time; they may be lost");
    return;
  }
  if (writer_.joinable()) writer_.join();
  for (LogRing* ring : rings_) ring->let_go();
  rings_.clear();
  sink_.reset();
  std::lock_guard lock(states.mutex);
  next_ = states.unused;
  states.unused = this;
}

bool LogState::is_copy() const noexcept { return fork_ != fork_count(); }

std::int64_t LogState::steady_now() const noexcept {
  return options_.clock != nullptr ? options_.clock->now().time_since_epoch().count() : nanoseconds_of<std::chrono::steady_clock>();
}

Timestamp LogState::wall_time(std::int64_t steady) noexcept {
  if (options_.clock != nullptr) return Timestamp{std::chrono::nanoseconds(steady)};
  if (steady >= next_offset_.load(std::memory_order_relaxed)) {  // once a second, so that steps of the wall clock are followed
    wall_offset_.store(nanoseconds_of<std::chrono::system_clock>() - nanoseconds_of<std::chrono::steady_clock>(),
                       std::memory_order_relaxed);
    next_offset_.store(steady + 1'000'000'000, std::memory_order_relaxed);
  }
  return Timestamp{std::chrono::nanoseconds(steady + wall_offset_.load(std::memory_order_relaxed))};
}

// ---- one activity

/// Keeps close() waiting while a thread writes.
struct LogState::InUse {
  InUse(LogState& used, std::uint64_t id) noexcept : state(used) {
    state.users_.fetch_add(1, std::memory_order_seq_cst);
    open = state.id_.load(std::memory_order_seq_cst) == id;
  }
  ~InUse() { state.users_.fetch_sub(1, std::memory_order_release); }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;
  LogState& state;
  bool open;
};

struct LogState::Following final : Tracking {
  Following(LogState& log, std::uint64_t log_id, std::uint64_t start, std::string_view what, bool is_packed) noexcept
      : state(log), id(log_id), began(start), said(what), packed(is_packed) {}

  void failed(const ActivityError& error) override {
    const LogExtra extra{"error", error.text};
    if (!packed || error.text.size() <= state.formatter_.max_value_bytes()) return say(LogRecord::failed, std::span(&extra, 1));
    const std::string text = state.formatter_.shortened(extra.key, error.text);
    const LogExtra shortened{extra.key, text};
    say(LogRecord::failed, std::span(&shortened, 1));
  }

  void changed(ActivityChange& change) override {
    LogExtra extras[2] = {{"change_id", change.id()}, {"change_data"}};
    std::string text;
    if (const AttributeValue* const value = change.value()) {
      extras[1].value = *value;
    } else if (change.has_data()) {
      if (const Result<std::string>& json = change.json()) {
        extras[1].value = *json;
        extras[1].json = true;
        if (packed && json->size() > Redactor::max_json_bytes) {
          const Result<std::string> summary = state.formatter_.redactor().truncate_json(*json);
          text = summary ? *summary : "!ERROR:" + summary.error().message;
          extras[1].json = summary.has_value();
          extras[1].value = text;
        }
      } else {
        text = "!ERROR:" + json.error().message;
        extras[1].value = text;
      }
    }
    for (LogExtra& extra : extras) {
      if (!packed || extra.json || extra.value.type() != AttributeValue::Type::string) continue;
      if (extra.value.text().size() <= state.formatter_.max_value_bytes()) continue;
      std::string shortened = state.formatter_.shortened(extra.key, extra.value.text());
      text = std::move(shortened);
      extra.value = text;
    }
    say(LogRecord::changed, std::span(extras, change.has_data() ? 2 : 1));
  }

  void ended() override { say(LogRecord::completed, {}); }

  void say(LogRecord::Kind kind, std::span<const LogExtra> extras) {
    if (packed && state.asynchronous()) return state.put(kind, id, began, said, extras);
    const InUse in_use(state, id);
    if (!in_use.open) return;
    const std::int64_t now = state.steady_now();
    std::optional<std::chrono::nanoseconds> duration;
    std::string_view fields = said;
    LineBuffer rendered;
    if (packed) {  // a child of a fork goes on with what its parent had begun
      std::vector<Attribute> attributes;
      state.formatter_.fields(rendered, unpack(reinterpret_cast<const std::byte*>(said.data()), attributes));
      fields = rendered.view();
      TickCalibration calibration(state.ticker_);
      calibration.update();
      duration = calibration.to_time(state.ticker_.now()) - calibration.to_time(began);
    } else {
      duration = std::chrono::nanoseconds(now - static_cast<std::int64_t>(began));
    }
    if (kind != LogRecord::completed) duration.reset();
    state.write_now(message_of(kind), now, fields, extras, duration);
  }

  LogState& state;
  const std::uint64_t id, began;  // steady nanoseconds, or ticks if packed
  const std::string_view said;
  const bool packed;
};

void LogState::start(ActivityStart& start) {
  const std::uint64_t id = id_.load(std::memory_order_relaxed);
  if (id == 0) return;  // closed
  const Context& context = start.context();
  LogFields fields{start.id(),        context.trace_id(), context.span_id(),    context.trace_flags(),
                   start.operation(), start.subject(),    context.request_id(), start.attributes()};
  if (asynchronous()) {
    std::optional<Shortened> shortened;
    if (Shortened::needed(fields.attributes, formatter_.max_value_bytes())) [[unlikely]]
      fields.attributes = shortened.emplace(formatter_, fields.attributes).attributes();
    const std::size_t size = packed_size(fields);
    auto* const memory = static_cast<std::byte*>(start.allocate(size));
    pack(memory, fields);
    const std::string_view packed(reinterpret_cast<const char*>(memory), size);
    const std::uint64_t now = ticker_.now();
    start.follow<Following>(*this, id, now, packed, true);
    put(LogRecord::started, id, now, packed, {});
    return;
  }
  const InUse in_use(*this, id);
  if (!in_use.open) return;
  LineBuffer rendered;
  formatter_.fields(rendered, fields);
  const std::int64_t now = steady_now();
  write_now(message_of(LogRecord::started), now, rendered.view(), {});
  auto* const memory = static_cast<char*>(start.allocate(rendered.size()));
  std::memcpy(memory, rendered.view().data(), rendered.size());
  start.follow<Following>(*this, id, static_cast<std::uint64_t>(now), std::string_view(memory, rendered.size()), false);
}

/// Requires: in use.
void LogState::write_now(const LogMessage& message, std::int64_t steady, std::string_view fields, std::span<const LogExtra> extras,
                         std::optional<std::chrono::nanoseconds> duration) noexcept {
  LineBuffer buffer;
  const std::size_t body = formatter_.line(buffer, wall_time(steady), message, fields, extras, duration);
  if (buffer.failed()) return count_full(1);
  const LogLine line = LogFormatter::view(buffer.view(), body, message.level);
  deliver(std::span(&line, 1));
}

void LogState::put(LogRecord::Kind kind, std::uint64_t id, std::uint64_t started_at, std::string_view packed,
                   std::span<const LogExtra> extras) noexcept {
  LogRing* ring = thread_log_rings.ring;
  if (thread_log_rings.tracker != id) [[unlikely]] {
    ring = attach(id);
    if (ring == nullptr) return;
  }
  std::size_t size = sizeof(LogRecord) + packed.size();
  for (const LogExtra& extra : extras) size += packed_size(extra.key, extra.value);
  bool half_full = false;
  std::byte* out = ring->reserve(size, half_full);
  if (half_full) [[unlikely]]
    wake();
  if (out == nullptr) return;
  new (out) LogRecord{{static_cast<std::uint32_t>(size), kind},
                      kind == LogRecord::started ? started_at : ticker_.now(),
                      started_at,
                      static_cast<std::uint32_t>(packed.size()),
                      static_cast<std::uint32_t>(extras.size())};
  out += sizeof(LogRecord);
  copy_words(out, reinterpret_cast<const std::byte*>(packed.data()), packed.size());
  out += packed.size();
  for (const LogExtra& extra : extras) out = pack(out, extra.key, extra.value, extra.json);
  ring->commit(size);
}

[[gnu::noinline, gnu::cold]] LogRing* LogState::attach(std::uint64_t id) noexcept {
  if (LogRing* const ring = thread_log_rings.find(id)) return ring;
  std::lock_guard lock(mutex_);
  if (id_.load(std::memory_order_relaxed) != id) return nullptr;  // closed
  LogRing* const ring = rings_.size() < options_.max_rings ? LogRing::create(id, options_.ring_bytes) : nullptr;
  if (ring != nullptr) {
    try {
      rings_.push_back(ring);
      if (thread_log_rings.add(*ring)) return ring;
      rings_.pop_back();
    } catch (const std::bad_alloc&) {}
    ring->let_go();
    ring->let_go();
  }
  count_full(1);
  return nullptr;
}

[[gnu::noinline, gnu::cold]] void LogState::wake() noexcept {
  if (!woken_.exchange(true, std::memory_order_relaxed)) changed_.notify_one();
}

void LogState::deliver(std::span<const LogLine> lines) noexcept {
  std::error_code error;
  const std::size_t taken = sink_->write(lines, error);
  written_.fetch_add(taken, std::memory_order_relaxed);
  if (taken == lines.size()) {
    if (failing_.load(std::memory_order_relaxed) && failing_.exchange(false)) {
      const Attribute attributes[] = {{"lost", lost_by_sink_.load(std::memory_order_relaxed)}};
      logger_of(options_).log(Logger::Level::info, "log lines are written again", attributes);
    }
    return;
  }
  lost_by_sink_.fetch_add(lines.size() - taken, std::memory_order_relaxed);
  if (failing_.exchange(true)) return;
  try {
    const std::string what = error.message();
    const Attribute attributes[] = {{"what", std::string_view(what)}};
    logger_of(options_).log(Logger::Level::error, "log lines cannot be written; they are lost, and counted, until they can", attributes);
  } catch (const std::bad_alloc&) {
    logger_of(options_).log(Logger::Level::error, "log lines cannot be written; they are lost, and counted, until they can");
  }
}

// ---- the writing thread

/// Lines on their way to the sink.
class LogState::Batch {
 public:
  static constexpr std::size_t max_bytes = 64u << 10;

  explicit Batch(LogState& state) : state_(state), calibration_(state.ticker_) {}

  void update_clock() noexcept { calibration_.update(); }
  void add(const LogRecord& record, const std::byte* payload) noexcept try {
    const LogFields values = unpack(payload, attributes_);
    payload += record.fields_size;
    extras_.clear();
    for (std::uint32_t i = 0; i < record.extra_count; ++i) payload = unpack(payload, extras_.emplace_back());
    fields_.clear();
    state_.formatter_.fields(fields_, values);
    const Timestamp time = calibration_.to_time(record.ticks);
    std::optional<std::chrono::nanoseconds> duration;
    if (record.head.kind == LogRecord::completed) duration = time - calibration_.to_time(record.started_at);
    add(message_of(static_cast<LogRecord::Kind>(record.head.kind)), time, duration);
  } catch (const std::bad_alloc&) {
    state_.count_full(1);
  }

  /// A line that says how many are missing, at most once a second.
  void report_lost(std::uint64_t lost) noexcept try {
    const Timestamp now = calibration_.to_time(state_.ticker_.now());
    if (lost == reported_ || now - reported_at_ < std::chrono::seconds(1)) return;
    fields_.clear();
    extras_.clear();
    extras_.push_back({"count", lost - reported_});
    add(lines_lost, now, {});
    reported_ = lost;
    reported_at_ = now;
  } catch (const std::bad_alloc&) {}

  void send() noexcept try {
    views_.clear();
    std::string_view rest = text_.view();
    for (const Line& line : lines_) {
      views_.push_back(LogFormatter::view(rest.substr(0, line.size), line.body, line.level));
      rest.remove_prefix(line.size);
    }
    if (!views_.empty()) state_.deliver(views_);
    text_.clear();
    lines_.clear();
  } catch (const std::bad_alloc&) {
    state_.count_full(lines_.size());
    text_.clear();
    lines_.clear();
  }

 private:
  struct Line {
    std::size_t size, body;
    Logger::Level level;
  };

  void add(const LogMessage& message, Timestamp time, std::optional<std::chrono::nanoseconds> duration) {
    const std::size_t begin = text_.size();
    const std::size_t body = state_.formatter_.line(text_, time, message, fields_.view(), extras_, duration);
    if (text_.failed()) {  // no memory: what is whole goes out
      text_.truncate(begin);
      state_.count_full(1);
      return send();
    }
    lines_.push_back({text_.size() - begin, body, message.level});
    if (text_.size() >= max_bytes) send();
  }

  LogState& state_;
  TickCalibration calibration_;
  LineBuffer fields_, text_;
  std::vector<Attribute> attributes_;
  std::vector<LogExtra> extras_;
  std::vector<Line> lines_;
  std::vector<LogLine> views_;
  std::uint64_t reported_ = 0;
  Timestamp reported_at_{};
};

void LogState::run() noexcept {
  Batch batch(*this);
  std::unique_lock lock(mutex_);
  for (auto interval = drain_interval;;) {
    changed_.wait_for(lock, interval, [this] { return stop_ || flush_wanted_ != flush_done_ || woken_.load(std::memory_order_relaxed); });
    const std::uint64_t wanted = flush_wanted_;
    const bool stopping = stop_;
    const std::uint64_t before = written_.load(std::memory_order_relaxed);
    lock.unlock();
    woken_.store(false, std::memory_order_relaxed);
    batch.update_clock();
    drain(batch);
    lock.lock();
    interval = written_.load(std::memory_order_relaxed) == before ? std::min(interval * 2, idle_interval) : drain_interval;
    flush_done_ = wanted;
    stopped_ = stopping;
    drained_.notify_all();
    if (stopping) return;
  }
}

/// What the rings hold now, the oldest first.
void LogState::drain(Batch& batch) noexcept {
  struct Cursor {
    LogRing* ring;
    std::uint64_t at, end;
    bool closed;
    std::uint64_t ticks = 0;

    /// To the next record; false: there is none.
    bool settle() noexcept {
      while (at != end) {
        LogRecordHead head;
        std::memcpy(&head, ring->at(at), sizeof head);
        if (head.kind != LogRecordHead::padding) {
          std::memcpy(&ticks, ring->at(at) + offsetof(LogRecord, ticks), sizeof ticks);
          return true;
        }
        at += head.size;
        ring->release(at);
      }
      return false;
    }
  };
  std::vector<Cursor> all, open;
  std::uint64_t lost = lost_full_.load(std::memory_order_relaxed);
  try {
    std::lock_guard lock(mutex_);
    all.reserve(rings_.size());
    open.reserve(rings_.size());
    for (LogRing* ring : rings_) {
      const bool closed = ring->closed();  // before its end is looked at
      all.push_back({ring, ring->tail(), ring->head(), closed});
      lost += ring->lost();
    }
    lost += lost_with_rings_;
  } catch (const std::bad_alloc&) {
    return;  // later
  }
  for (Cursor& cursor : all)
    if (cursor.settle()) open.push_back(cursor);
  while (!open.empty()) {
    auto oldest = open.begin();
    std::uint64_t next_ticks = UINT64_MAX;
    for (auto cursor = open.begin() + 1; cursor < open.end(); ++cursor) {
      if (cursor->ticks < oldest->ticks) {
        next_ticks = oldest->ticks;
        oldest = cursor;
      } else {
        next_ticks = std::min(next_ticks, cursor->ticks);
      }
    }
    bool more = true;
    while (more && oldest->ticks <= next_ticks) {
      LogRecord record;
      const std::byte* const bytes = oldest->ring->at(oldest->at);
      std::memcpy(&record, bytes, sizeof record);
      batch.add(record, bytes + sizeof record);
      oldest->at += record.head.size;
      oldest->ring->release(oldest->at);
      more = oldest->settle();
    }
    if (!more) open.erase(oldest);
  }
  batch.report_lost(lost);
  batch.send();
  std::lock_guard lock(mutex_);
  for (const Cursor& cursor : all) {
    if (!cursor.closed) continue;  // one that was closed before its end was looked at is empty now
    lost_with_rings_ += cursor.ring->lost();
    rings_.erase(std::find(rings_.begin(), rings_.end(), cursor.ring));
    cursor.ring->let_go();
  }
}

// ---- LogTracker

bool LogState::flush(std::chrono::milliseconds timeout) noexcept {
  if (!asynchronous()) return true;
  std::unique_lock lock(mutex_);
  const std::uint64_t wanted = ++flush_wanted_;
  changed_.notify_all();
  return drained_.wait_for(lock, timeout, [&] { return flush_done_ >= wanted || stopped_; });
}

LogStats LogState::stats() const noexcept {
  LogStats stats;
  stats.written = written_.load(std::memory_order_relaxed);
  stats.lost_by_sink = lost_by_sink_.load(std::memory_order_relaxed);
  stats.lost_full = lost_full_.load(std::memory_order_relaxed);
  if (!asynchronous()) return stats;
  std::lock_guard lock(mutex_);
  stats.lost_full += lost_with_rings_;
  for (const LogRing* ring : rings_) stats.lost_full += ring->lost();
  return stats;
}

}  // namespace weir::inline v0::detail

namespace weir::inline v0 {

LogTracker::LogTracker(std::shared_ptr<LogSink> sink, LogOptions options) : state_(detail::LogState::open(std::move(sink), options)) {}
LogTracker::~LogTracker() { state_->close(); }
void LogTracker::started(ActivityStart& start) { state_->start(start); }
bool LogTracker::flush(std::chrono::milliseconds timeout) noexcept { return state_->flush(timeout); }
LogStats LogTracker::stats() const noexcept { return state_->stats(); }

}  // namespace weir::inline v0
