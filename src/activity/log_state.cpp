#include "activity/log_state.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "activity/fork_mutex.hpp"
#include "activity/held_signals.hpp"
#include "weir/core/logger.hpp"
#include "weir/operation/detail/slot.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t min_ring_bytes = 128u << 10, max_ring_bytes = 1u << 30;
constexpr auto drain_interval = std::chrono::milliseconds(10), idle_interval = std::chrono::milliseconds(80);
constexpr std::int64_t message_interval = 60'000'000'000;                     // ns
constexpr std::chrono::milliseconds longest_wait = std::chrono::hours(1000);  // longer ones would overflow

constexpr std::chrono::milliseconds bounded(std::chrono::milliseconds wait) noexcept {
  return std::clamp(wait, std::chrono::milliseconds(0), longest_wait);
}

/// Since when what is said goes to the sink at once, because nobody will come for it.
constinit std::atomic<bool> exiting{false};

template <class C>
std::int64_t nanoseconds_of() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(C::now().time_since_epoch()).count();
}

/// A thread that takes no signals. Throws std::system_error, std::bad_alloc.
template <class F>
std::thread start_thread(F body) {
  struct AllBlocked {
    AllBlocked() noexcept {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~AllBlocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    sigset_t before;
  } blocked;
  return std::thread(std::move(body));
}

/// Whether a message to stderr would not have to wait for somebody to read.
bool stderr_is_free() noexcept {
  pollfd entry{STDERR_FILENO, POLLOUT, 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & POLLOUT) != 0;
}

/// Attributes whose texts fit a ring: the long ones redacted and cut already.
class Shortened {
 public:
  /// Throws std::bad_alloc.
  Shortened(const LogFormatter& formatter, Attributes attributes, std::size_t max) {
    for (const Attribute& attribute : attributes) {
      attributes_.push_back(attribute);
      if (!LogFormatter::is_long(attribute.value, max)) continue;
      texts_.push_back(formatter.shortened(attribute.key.view(), attribute.value.text()));
      attributes_.back().value = std::string_view(texts_.back());
    }
  }
  Attributes attributes() const noexcept { return std::span<const Attribute>(attributes_); }

  static bool needed(Attributes attributes, std::size_t max) noexcept {
    for (const Attribute& attribute : attributes)
      if (LogFormatter::is_long(attribute.value, max)) return true;
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
  LogState *living = nullptr, *unused = nullptr, *given_up = nullptr;  // guarded by mutex, as what follows
  std::uint64_t last_id = 0;
  std::optional<Logger::Level> steered;
  std::uint64_t fork = 0;  // `unused` is of

  static LogStates& instance() noexcept {
    alignas(LogStates) static std::byte memory[sizeof(LogStates)];
    static auto* const states = new (memory) LogStates;
    return *states;
  }

  void add(LogState*& list, LogState& state) noexcept {
    const std::lock_guard lock(mutex);
    state.next_ = list;
    list = &state;
  }
  void remove_living(LogState& state) noexcept {
    const std::lock_guard lock(mutex);
    LogState** link = &living;
    while (*link != nullptr && *link != &state) link = &(*link)->next_;
    if (*link != nullptr) *link = state.next_;
  }
  /// nullptr: there is none. In the child of a fork there are none of the parent's, which its threads may have been asking.
  LogState* take_unused() noexcept {
    const std::lock_guard lock(mutex);
    if (std::exchange(fork, fork_count()) != fork_count()) {
      while (unused != nullptr) {
        LogState* const state = std::exchange(unused, unused->next_);
        state->next_ = std::exchange(given_up, state);
      }
    }
    return unused != nullptr ? std::exchange(unused, unused->next_) : nullptr;
  }

  /// Runs in exit(): what was said before is written, together within the longest time that one of them has.
  static void flush_all() noexcept {
    exiting.store(true, std::memory_order_relaxed);
    LogStates& states = instance();
    const auto begin = std::chrono::steady_clock::now();
    const std::lock_guard lock(states.mutex);
    for (LogState* state = states.living; state != nullptr; state = state->next_) {
      const auto left = begin + state->options_.stop_timeout - std::chrono::steady_clock::now();
      state->flush(std::chrono::duration_cast<std::chrono::milliseconds>(left));
    }
  }
};

LogState* LogState::open(std::shared_ptr<LogSink> sink, const LogOptions& options) {
  assert(sink != nullptr);
  LogStates& states = LogStates::instance();
  LogState* state = states.take_unused();
  if (state == nullptr) state = new LogState;
  state->fork_ = fork_count();
  state->options_ = options;
  state->options_.ring_bytes = std::bit_ceil(std::clamp(options.ring_bytes, min_ring_bytes, max_ring_bytes));
  state->options_.stop_timeout = bounded(options.stop_timeout);
  if (options.asynchronous) state->options_.max_value_bytes = std::min(options.max_value_bytes, state->options_.ring_bytes / 4);
  state->formatter_ = LogFormatter(state->options_);
  state->sink_ = std::move(sink);
  state->ticker_ = Ticker(options.clock);
  state->written_ = state->lost_by_sink_ = state->lost_full_ = 0;
  state->failing_ = state->woken_ = false;
  state->next_message_ = 0;
  state->lost_with_rings_ = state->flush_wanted_ = state->flush_done_ = 0;
  state->stop_ = state->stopped_ = false;
  state->asynchronous_ = options.asynchronous;
  if (options.asynchronous) {
    static const int at_exit = std::atexit([] { LogStates::flush_all(); });
    (void)at_exit;
    try {
      state->writer_ = start_thread([state] { state->run(); });
    } catch (const std::exception& error) {
      state->asynchronous_ = false;
      const Attribute attributes[] = {{"what", std::string_view(error.what())}};
      state->tell(Logger::Level::warning, "no thread for the log: lines are written by the threads that make them", attributes);
    }
  }
  {
    const std::lock_guard lock(states.mutex);
    state->own_level_ = options.level;
    state->level_.store(states.steered.value_or(options.level), std::memory_order_relaxed);
    state->id_.store(++states.last_id, std::memory_order_seq_cst);
    state->next_ = std::exchange(states.living, state);
  }
  return state;
}

void LogState::close() noexcept {
  LogStates& states = LogStates::instance();
  const NoCancellation no_cancellation;
  id_.store(0, std::memory_order_seq_cst);
  states.remove_living(*this);
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
    if (options_.logger != nullptr || stderr_is_free())
      tell(Logger::Level::warning, "the log's sink has not taken all lines in time; they may be lost");
    given_up_.store(true, std::memory_order_relaxed);
    if (writer_.joinable()) writer_.detach();
    return states.add(states.given_up, *this);
  }
  if (writer_.joinable()) writer_.join();
  while (rings_ != nullptr) std::exchange(rings_, rings_->reading().next)->let_go();
  ring_count_ = 0;
  sink_.reset();
  states.add(states.unused, *this);
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
  static constexpr bool blocks = false;  // deliver() and tell() put cancellation off

  Following(LogState& log, std::uint64_t log_id, std::uint64_t begin, std::string_view what, std::size_t max_bytes, bool is_packed) noexcept
      : state(log), id(log_id), fork(fork_count()), began(begin), said(what), max_value_bytes(max_bytes), packed(is_packed) {}

  void failed(const ActivityError& error) override {
    LogExtra extra{"error", error.text};
    say(LogRecord::failed, std::span(&extra, 1));
  }

  void changed(ActivityChange& change) override {
    if (over() || !state.wants(LogRecord::changed)) return;  // nobody wants the data
    LogExtra extras[2] = {{"change_id", change.id()}, {"change_data"}};
    if (const AttributeValue* const value = change.value()) {
      extras[1].value = *value;
    } else if (change.has_data()) {
      const Result<std::string>& json = change.json();
      extras[1].value = std::string_view(json ? *json : json.error().message);
      extras[1].form = json ? LogExtra::Form::json : LogExtra::Form::failure;
    }
    say(LogRecord::changed, std::span(extras, change.has_data() ? 2 : 1));
  }

  void ended() override { say(LogRecord::completed, {}); }

  /// The tracker is. (It may be a moment later, too: what is said then is read by nobody.)
  bool over() const noexcept { return state.id_.load(std::memory_order_relaxed) != id; }

  void say(LogRecord::Kind kind, std::span<LogExtra> extras) noexcept {
    if (!state.wants(kind)) return;
    if (!packed || fork != fork_count() || exiting.load(std::memory_order_relaxed)) return state.write(kind, *this, extras);
    for (const LogExtra& extra : extras)
      if (LogFormatter::is_long(extra, max_value_bytes)) [[unlikely]]
        return state.put_shortened(kind, *this, extras);
    if (!over()) state.put(kind, *this, extras);
  }

  LogState& state;
  const std::uint64_t id, fork, began;  // steady nanoseconds, or ticks if packed
  const std::string_view said;          // what all its lines say: a part of a line, or packed fields
  const std::size_t max_value_bytes;
  const bool packed;
};

void LogState::start(ActivityStart& start) noexcept try {
  const std::uint64_t id = id_.load(std::memory_order_relaxed);
  const Context& context = start.context();
  LogFields fields;
  fields.id = start.id();
  fields.trace = context.trace_id();
  fields.span = context.span_id();
  fields.flags = context.trace_flags();
  fields.operation = start.operation();
  fields.subject = start.subject();
  fields.request_id = context.request_id();
  fields.attributes = start.attributes();
  const std::size_t max_bytes = options_.max_value_bytes;
  if (asynchronous() && !exiting.load(std::memory_order_relaxed)) {
    std::optional<Shortened> shortened;
    std::size_t size = packed_size(fields);
    if (size > max_bytes && Shortened::needed(fields.attributes, max_bytes)) [[unlikely]] {
      fields.attributes = shortened.emplace(formatter_, fields.attributes, max_bytes).attributes();
      size = packed_size(fields);
    }
    auto* const memory = static_cast<std::byte*>(start.allocate(size));
    pack(memory, fields);
    const std::string_view packed(reinterpret_cast<const char*>(memory), size);
    const Following& activity = start.follow<Following>(*this, id, ticker_.now(), packed, max_bytes, true);
    if (wants(LogRecord::started)) put(LogRecord::started, activity, {});
    return;
  }
  LineBuffer rendered;
  formatter_.fields(rendered, fields);
  if (rendered.failed()) return count_full(1);
  auto* const memory = static_cast<char*>(start.allocate(rendered.size()));
  std::memcpy(memory, rendered.view().data(), rendered.size());
  const auto now = static_cast<std::uint64_t>(steady_now());
  const Following& activity = start.follow<Following>(*this, id, now, std::string_view(memory, rendered.size()), max_bytes, false);
  if (wants(LogRecord::started)) write(LogRecord::started, activity, {});
} catch (const std::exception&) {  // no memory
  count_full(1);
}

/// Makes the line, and has it written before it returns.
void LogState::write(LogRecord::Kind kind, const Following& activity, std::span<const LogExtra> extras) noexcept try {
  const InUse in_use(*this, activity.id);
  if (!in_use.open) return;
  const auto now = kind == LogRecord::started ? static_cast<std::int64_t>(activity.began) : steady_now();
  std::optional<std::chrono::nanoseconds> duration;
  std::string_view fields = activity.said;
  LineBuffer rendered, buffer;
  if (activity.packed) {  // begun before a fork, or before the process began to end
    std::vector<Attribute> attributes;
    formatter_.fields(rendered, unpack(reinterpret_cast<const std::byte*>(fields.data()), attributes));
    if (rendered.failed()) return count_full(1);
    fields = rendered.view();
    if (kind == LogRecord::completed) {
      TickCalibration calibration(ticker_);
      calibration.update();
      duration = calibration.to_time(ticker_.now()) - calibration.to_time(activity.began);
    }
  } else if (kind == LogRecord::completed) {
    duration = std::chrono::nanoseconds(now - static_cast<std::int64_t>(activity.began));
  }
  const LogMessage message = message_of(kind);
  const std::size_t body = formatter_.line(buffer, wall_time(now), message, fields, extras, duration);
  if (buffer.failed()) return count_full(1);
  const LogLine line = LogFormatter::view(buffer.view(), body, message.level);
  deliver(std::span(&line, 1));
} catch (const std::exception&) {  // no memory
  count_full(1);
}

void LogState::put(LogRecord::Kind kind, const Following& activity, std::span<const LogExtra> extras) noexcept {
  LogRing* ring = thread_log_rings.ring;
  if (thread_log_rings.tracker != activity.id) [[unlikely]] {
    ring = attach(activity.id);
    if (ring == nullptr) return;
  }
  std::size_t size = sizeof(LogRecord) + activity.said.size();
  for (const LogExtra& extra : extras) size += packed_size(extra.key, extra.value);
  bool half_full = false;
  std::byte* out = ring->reserve(size, half_full);
  if (half_full) [[unlikely]]
    wake();
  if (out == nullptr) return;
  new (out) LogRecord{{static_cast<std::uint32_t>(size), kind},
                      kind == LogRecord::started ? activity.began : ring->now(),
                      activity.began,
                      static_cast<std::uint32_t>(activity.said.size()),
                      static_cast<std::uint32_t>(extras.size())};
  out += sizeof(LogRecord);
  if (kind == LogRecord::started)  // it was packed just now
    copy_words(out, reinterpret_cast<const std::byte*>(activity.said.data()), activity.said.size());
  else
    std::memcpy(out, activity.said.data(), activity.said.size());
  out += activity.said.size();
  for (const LogExtra& extra : extras) out = pack(out, extra.key, extra.value, extra.form);
  ring->commit(size);
}

[[gnu::noinline, gnu::cold]] void LogState::put_shortened(LogRecord::Kind kind, const Following& activity,
                                                          std::span<LogExtra> extras) noexcept {
  const InUse in_use(*this, activity.id);
  if (!in_use.open) return;
  try {
    std::deque<std::string> texts;
    for (LogExtra& extra : extras)
      if (LogFormatter::is_long(extra, activity.max_value_bytes)) formatter_.shorten(extra, texts.emplace_back());
    put(kind, activity, extras);
  } catch (const std::exception&) {  // no memory
    count_full(1);
  }
}

[[gnu::noinline, gnu::cold]] LogRing* LogState::attach(std::uint64_t id) noexcept {
  if (LogRing* const ring = thread_log_rings.find(id)) return ring;
  const std::lock_guard lock(mutex_);
  if (id_.load(std::memory_order_relaxed) != id) return nullptr;  // closed
  LogRing* const ring = ring_count_ < options_.max_rings ? LogRing::create(id, ticker_, options_.ring_bytes) : nullptr;
  if (ring == nullptr) {
    count_full(1);
  } else if (!thread_log_rings.add(*ring)) {
    count_full(1);
    ring->let_go();
    ring->let_go();
    return nullptr;
  } else {
    ring->reading().next = std::exchange(rings_, ring);
    ++ring_count_;
  }
  return ring;
}

[[gnu::noinline, gnu::cold]] void LogState::wake() noexcept {
  if (woken_.exchange(true, std::memory_order_relaxed)) return;
  { const std::lock_guard lock(mutex_); }  // not while the writing thread has looked, and does not wait yet
  changed_.notify_one();
}

void LogState::deliver(std::span<const LogLine> lines) noexcept {
  std::error_code error;
  std::size_t taken = 0;
  {
    std::optional<NoCancellation> no_cancellation;
    if (sink_->blocks) no_cancellation.emplace();
    taken = std::min(sink_->write(lines, error), lines.size());
  }
  written_.fetch_add(taken, std::memory_order_relaxed);
  if (taken == lines.size()) {
    if (failing_.load(std::memory_order_relaxed)) [[unlikely]]
      sink_recovered();
    return;
  }
  lost_by_sink_.fetch_add(lines.size() - taken, std::memory_order_relaxed);
  sink_failed(error);
}

/// Told once until it has recovered, and no more than once a minute.
[[gnu::noinline, gnu::cold]] void LogState::sink_failed(std::error_code error) noexcept {
  const std::int64_t now = nanoseconds_of<std::chrono::steady_clock>();
  std::int64_t next = next_message_.load(std::memory_order_relaxed);
  if (failing_.load(std::memory_order_relaxed) || now < next) return;
  if (!next_message_.compare_exchange_strong(next, now + message_interval, std::memory_order_relaxed)) return;
  failing_.store(true, std::memory_order_relaxed);
  std::string what;
  try {
    what = error.message();
  } catch (const std::exception&) {}
  const Attribute attributes[] = {{"what", std::string_view(what)}};
  tell(Logger::Level::error, "log lines cannot be written; they are lost, and counted, until they can", attributes);
}

[[gnu::noinline, gnu::cold]] void LogState::sink_recovered() noexcept {
  if (!failing_.exchange(false, std::memory_order_relaxed)) return;
  const Attribute attributes[] = {{"lost_so_far", lost_by_sink_.load(std::memory_order_relaxed)}};
  tell(Logger::Level::info, "log lines are written again", attributes);
}

[[gnu::noinline, gnu::cold]] void LogState::tell(Logger::Level level, std::string_view message,
                                                 std::span<const Attribute> attributes) noexcept {
  if (given_up_.load(std::memory_order_relaxed)) return;  // the logger may be gone
  const NoCancellation no_cancellation;
  HeldSignals signals;
  (options_.logger != nullptr ? *options_.logger : stderr_logger()).log(level, message, attributes);
  signals.failed();
}

// ---- the writing thread

/// Lines on their way to the sink.
class LogState::Batch {
 public:
  static constexpr std::size_t max_bytes = 64u << 10;

  explicit Batch(LogState& state) noexcept : state_(state), calibration_(state.ticker_) {}

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
    if (!add(message_of(static_cast<LogRecord::Kind>(record.head.kind)), time, duration)) state_.count_full(1);
  } catch (const std::exception&) {  // no memory
    state_.count_full(1);
  }

  /// A line that says how many are missing, at most once a second; or at `once`.
  void report_lost(std::uint64_t lost, bool once) noexcept try {
    const std::int64_t now = nanoseconds_of<std::chrono::steady_clock>();
    if (lost == reported_ || (now < next_report_ && !once)) return;
    fields_.clear();
    extras_.clear();
    extras_.push_back({"count", lost - reported_});
    if (!add(lines_lost, calibration_.to_time(state_.ticker_.now()), {})) return;
    reported_ = lost;
    next_report_ = now + report_interval;
  } catch (const std::exception&) {}

  void send() noexcept {
    std::string_view rest = text_.view();
    for (LogLine& line : lines_) {  // the text may have moved since
      const std::size_t size = line.text.size();
      line = LogFormatter::view(rest.substr(0, size), size - 1 - line.body.size(), line.level);
      rest.remove_prefix(size);
    }
    if (!lines_.empty()) state_.deliver(lines_);
    text_.clear();
    lines_.clear();
  }

 private:
  static constexpr std::int64_t report_interval = 1'000'000'000;  // ns

  /// False: there is no memory for it.
  bool add(const LogMessage& message, Timestamp time, std::optional<std::chrono::nanoseconds> duration) {
    if (fields_.failed()) return false;
    lines_.emplace_back();
    const std::size_t begin = text_.size();
    const std::size_t body = state_.formatter_.line(text_, time, message, fields_.view(), extras_, duration);
    if (text_.failed()) {  // what is whole goes out
      text_.truncate(begin);
      lines_.pop_back();
      send();
      return false;
    }
    lines_.back() = LogFormatter::view(text_.view().substr(begin), body, message.level);
    if (text_.size() >= max_bytes) send();
    return true;
  }

  LogState& state_;
  TickCalibration calibration_;
  LineBuffer fields_, text_;
  std::vector<Attribute> attributes_;
  std::vector<LogExtra> extras_;
  std::vector<LogLine> lines_;
  std::uint64_t reported_ = 0;
  std::int64_t next_report_ = 0;  // steady nanoseconds
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
    drain(batch, stopping);
    lock.lock();
    interval = written_.load(std::memory_order_relaxed) == before ? std::min(interval * 2, idle_interval) : drain_interval;
    flush_done_ = wanted;
    stopped_ = stopping;
    drained_.notify_all();
    if (stopping) return;
  }
}

namespace {

/// To the ring's next record; false: there is none.
bool settle(LogRing& ring) noexcept {
  LogRing::Reading& reading = ring.reading();
  while (reading.at != reading.end) {
    LogRecordHead head;
    std::memcpy(&head, ring.at(reading.at), sizeof head);
    if (head.kind != LogRecordHead::padding) {
      std::memcpy(&reading.ticks, ring.at(reading.at) + offsetof(LogRecord, ticks), sizeof reading.ticks);
      return true;
    }
    reading.at += head.size;
    ring.release(reading.at);
  }
  return false;
}

}  // namespace

/// What the rings hold now, the oldest first.
void LogState::drain(Batch& batch, bool last) noexcept {
  LogRing* open = nullptr;
  std::uint64_t lost = lost_full_.load(std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    for (LogRing* ring = rings_; ring != nullptr; ring = ring->reading().next) {
      LogRing::Reading& reading = ring->reading();
      reading.closed = ring->closed();  // before its end is looked at
      reading.at = ring->tail();
      reading.end = ring->head();
      if (settle(*ring)) reading.next_open = std::exchange(open, ring);
      lost += ring->lost();
    }
    lost += lost_with_rings_;
  }
  while (open != nullptr) {
    LogRing** oldest = &open;
    std::uint64_t next_ticks = UINT64_MAX;
    for (LogRing** link = &open->reading().next_open; *link != nullptr; link = &(*link)->reading().next_open) {
      const std::uint64_t ticks = (*link)->reading().ticks, least = (*oldest)->reading().ticks;
      next_ticks = std::min(next_ticks, std::max(ticks, least));
      if (ticks < least) oldest = link;
    }
    LogRing& ring = **oldest;
    LogRing::Reading& reading = ring.reading();
    bool more = true;
    while (more && reading.ticks <= next_ticks) {
      LogRecord record;
      const std::byte* const bytes = ring.at(reading.at);
      std::memcpy(&record, bytes, sizeof record);
      batch.add(record, bytes + sizeof record);
      reading.at += record.head.size;
      ring.release(reading.at);
      more = settle(ring);
    }
    if (!more) *oldest = reading.next_open;
  }
  batch.report_lost(lost, last);
  batch.send();
  const std::lock_guard lock(mutex_);
  for (LogRing** link = &rings_; *link != nullptr;) {
    LogRing* const ring = *link;
    if (!ring->reading().closed) {
      link = &ring->reading().next;
      continue;
    }
    lost_with_rings_ += ring->lost();  // it was closed before its end was looked at: it is empty now
    --ring_count_;
    *link = ring->reading().next;
    ring->let_go();
  }
}

// ---- LogTracker

bool LogState::flush(std::chrono::milliseconds timeout) noexcept {
  if (!asynchronous()) return true;
  const NoCancellation no_cancellation;
  std::unique_lock lock(mutex_);
  const std::uint64_t wanted = ++flush_wanted_;
  changed_.notify_all();
  return drained_.wait_for(lock, bounded(timeout), [&] { return flush_done_ >= wanted || stopped_; });
}

LogStats LogState::stats() const noexcept {
  LogStats stats;
  stats.written = written_.load(std::memory_order_relaxed);
  stats.lost_by_sink = lost_by_sink_.load(std::memory_order_relaxed);
  stats.lost_full = lost_full_.load(std::memory_order_relaxed);
  if (!asynchronous()) return stats;
  const std::lock_guard lock(mutex_);
  stats.lost_full += lost_with_rings_;
  for (LogRing* ring = rings_; ring != nullptr; ring = ring->reading().next) stats.lost_full += ring->lost();
  return stats;
}

void LogState::set_level(Logger::Level level) noexcept {
  LogStates& states = LogStates::instance();
  const std::lock_guard lock(states.mutex);
  own_level_ = level;
  level_.store(states.steered.value_or(level), std::memory_order_relaxed);
}

void LogState::steer_level(std::optional<Logger::Level> level) noexcept {
  LogStates& states = LogStates::instance();
  const std::lock_guard lock(states.mutex);
  states.steered = level;
  for (LogState* state = states.living; state != nullptr; state = state->next_)
    state->level_.store(level.value_or(state->own_level_), std::memory_order_relaxed);
}

}  // namespace weir::inline v0::detail

namespace weir::inline v0 {

LogTracker::LogTracker(std::shared_ptr<LogSink> sink, LogOptions options) : state_(detail::LogState::open(std::move(sink), options)) {}
LogTracker::~LogTracker() { state_->close(); }
void LogTracker::started(ActivityStart& start) { state_->start(start); }
bool LogTracker::flush(std::chrono::milliseconds timeout) noexcept { return state_->flush(timeout); }
LogStats LogTracker::stats() const noexcept { return state_->stats(); }
void LogTracker::set_level(Logger::Level level) noexcept { state_->set_level(level); }
Logger::Level LogTracker::level() const noexcept { return state_->level(); }
void LogTracker::steer_level(std::optional<Logger::Level> level) noexcept { detail::LogState::steer_level(level); }

}  // namespace weir::inline v0
