#pragma once
// What runs beside activities that are logged: two lines, start and end, made or handed on in other ways. All of them say what
// ours say, and give what they make to nobody.

#include <fmt/compile.h>
#include <fmt/format.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>

#if WEIR_HAVE_SPDLOG
#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#endif

#include "support/bench.hpp"

namespace bench::peers {

/// What is done to whom.
inline constexpr std::string_view operation = "update", subject = "user", name = "ada";

inline std::int64_t nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

/// The text of a time up to its second, made once a second.
class Second {
 public:
  std::string_view text(std::int64_t second) {
    if (second != second_) {
      const time_t time = second_ = second;
      tm parts{};
      gmtime_r(&time, &parts);
      strftime(text_, sizeof text_, "%Y-%m-%dT%H:%M:%S", &parts);
    }
    return {text_, 19};
  }

 private:
  std::int64_t second_ = -1;
  char text_[20];
};

// ---- fmt

#define WEIR_BENCH_TEXT(format, message, more) \
  format("time={}.{:03}Z level=INFO msg=\"" message "\" operation={} subject={} op_id={} user_id={} name={}" more "\n")
#define WEIR_BENCH_JSON(format, message, more)                            \
  format("{{\"time\":\"{}.{:09}Z\",\"level\":\"INFO\",\"msg\":\"" message \
         "\",\"operation\":\"{}\",\"subject\":\"{}\",\"op_id\":{},\"user_id\":{},\"name\":\"{}\"" more "}}\n")

/// Formats both lines of an activity, each into a buffer that is empty. `per_second`: how finely the time is written.
template <std::int64_t per_second, class Start, class End>
void format_lines(benchmark::State& state, Start start, End end) {
  fmt::memory_buffer buffer;
  Second second;
  std::uint64_t id = 0;
  const auto line = [&](auto format, std::uint64_t i, auto... more) {
    const std::int64_t now = nanoseconds(CLOCK_REALTIME);
    buffer.clear();
    fmt::format_to(fmt::appender(buffer), format, second.text(now / 1'000'000'000), now % 1'000'000'000 / (1'000'000'000 / per_second),
                   operation, subject, id, i, name, more...);
    escape(buffer.data());
  };
  measure(state, [&](std::uint64_t i) {
    ++id;
    const std::int64_t began = nanoseconds(CLOCK_MONOTONIC);
    line(start, i);
    const std::int64_t duration = nanoseconds(CLOCK_MONOTONIC) - began;
    if constexpr (per_second == 1'000)
      line(end, i, duration / 1'000, duration % 1'000);
    else
      line(end, i, duration);
  });
}

/// With a format that is read whenever it is used, and with one that the compiler has read.
inline void format_text(benchmark::State& state) {
  format_lines<1'000>(state, WEIR_BENCH_TEXT(FMT_STRING, "Operation started", ""),
                      WEIR_BENCH_TEXT(FMT_STRING, "Operation completed", " duration={}.{:03}µs"));
}
inline void format_text_compiled(benchmark::State& state) {
  format_lines<1'000>(state, WEIR_BENCH_TEXT(FMT_COMPILE, "Operation started", ""),
                      WEIR_BENCH_TEXT(FMT_COMPILE, "Operation completed", " duration={}.{:03}µs"));
}
inline void format_json(benchmark::State& state) {
  format_lines<1'000'000'000>(state, WEIR_BENCH_JSON(FMT_STRING, "Operation started", ""),
                              WEIR_BENCH_JSON(FMT_STRING, "Operation completed", ",\"duration\":{}"));
}
inline void format_json_compiled(benchmark::State& state) {
  format_lines<1'000'000'000>(state, WEIR_BENCH_JSON(FMT_COMPILE, "Operation started", ""),
                              WEIR_BENCH_JSON(FMT_COMPILE, "Operation completed", ",\"duration\":{}"));
}

// ---- spdlog

#if WEIR_HAVE_SPDLOG
/// Formats what it gets with its pattern, as every sink but spdlog's null sink does, and writes it nowhere.
class FormattingSink final : public spdlog::sinks::base_sink<std::mutex> {
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    escape(line.data());
  }
  void flush_() override {}
};

inline void prepare(spdlog::logger& logger) {
  logger.set_pattern("time=%Y-%m-%dT%H:%M:%S.%eZ level=%l %v", spdlog::pattern_time_type::utc);
}

inline void log_both(spdlog::logger& logger, std::uint64_t i) {
  const std::int64_t began = nanoseconds(CLOCK_MONOTONIC);
  logger.info("msg=\"Operation started\" operation={} subject={} op_id={} user_id={} name={}", operation, subject, i, i, name);
  const std::int64_t duration = nanoseconds(CLOCK_MONOTONIC) - began;
  logger.info("msg=\"Operation completed\" operation={} subject={} op_id={} user_id={} name={} duration={}.{:03}µs", operation, subject, i,
              i, name, duration / 1'000, duration % 1'000);
}

inline void spdlog_sync(benchmark::State& state) {
  spdlog::logger logger("bench", std::make_shared<FormattingSink>());
  prepare(logger);
  measure(state, [&](std::uint64_t i) { log_both(logger, i); });
}

inline void spdlog_async(benchmark::State& state) {
  const auto pool = std::make_shared<spdlog::details::thread_pool>(8192, 1, [] { pin(1); });
  const auto logger = std::make_shared<spdlog::async_logger>("bench", std::make_shared<FormattingSink>(), pool);
  prepare(*logger);
  measure_bursts(
      state, [&](std::uint64_t i) { log_both(*logger, i); },
      [&] {
        while (pool->queue_size() != 0) std::this_thread::yield();
      });
}
#else
inline constexpr void (*spdlog_sync)(benchmark::State&) = nullptr;
inline constexpr void (*spdlog_async)(benchmark::State&) = nullptr;
#endif

// ---- raw arguments in a ring: quill's idea

/// The least that an asynchronous log can do: a pointer to what the call site says, the time, and the arguments as they are,
/// copied to where another thread formats them. One ring for one thread, whole records, the reader's position looked at only
/// when the last one known is not enough. It cannot be shared, does not end, and must not be full.
class RawRing {
 public:
  RawRing() : thread_([this] { read(); }) {}
  ~RawRing() {
    stop_.store(true);
    thread_.join();
  }

  /// A line. `Line::format(out, time, arguments...)` makes it, on the other thread.
  template <class Line, class... Arguments>
  void push(std::uint64_t ticks, Arguments... arguments) {
    const std::size_t size = sizeof(Record) + (size_of(arguments) + ...);
    if (position_ + size > known_tail_ + capacity) known_tail_ = tail_.load(std::memory_order_acquire);
    std::byte* out = &data_[position_ % capacity];
    new (out) Record{&format<Line, Arguments...>, ticks, size};
    out += sizeof(Record);
    ((out = copy(out, arguments)), ...);
    position_ += size;
    head_.store(position_, std::memory_order_release);
  }
  /// Until all lines are made.
  void drain() const {
    while (tail_.load(std::memory_order_acquire) != position_) std::this_thread::yield();
  }
  static std::uint64_t now() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return static_cast<std::uint64_t>(nanoseconds(CLOCK_MONOTONIC));
#endif
  }

 private:
  static constexpr std::size_t capacity = 1u << 20, slack = 4096;  // records that begin before the end may lie behind it
  struct Record {
    void (*format)(const std::byte* arguments, std::uint64_t ticks, fmt::memory_buffer& out);
    std::uint64_t ticks;
    std::size_t size;
  };

  static std::size_t size_of(std::uint64_t) { return 8; }
  static std::size_t size_of(std::string_view text) { return 8 + (text.size() + 7) / 8 * 8; }
  static std::byte* copy(std::byte* out, std::uint64_t value) {
    std::memcpy(out, &value, 8);
    return out + 8;
  }
  static std::byte* copy(std::byte* out, std::string_view text) {
    const std::uint64_t size = text.size();
    std::memcpy(out, &size, 8);
    std::memcpy(out + 8, text.data(), size);
    return out + size_of(text);
  }
  static void take(const std::byte*& in, std::uint64_t& value) {
    std::memcpy(&value, in, 8);
    in += 8;
  }
  static void take(const std::byte*& in, std::string_view& text) {
    std::uint64_t size;
    take(in, size);
    text = {reinterpret_cast<const char*>(in), size};
    in += (size + 7) / 8 * 8;
  }
  template <class Line, class... Arguments>
  static void format(const std::byte* in, std::uint64_t ticks, fmt::memory_buffer& out) {
    std::tuple<Arguments...> arguments;
    std::apply([&](auto&... each) { (take(in, each), ...); }, arguments);
    std::apply([&](const auto&... each) { Line::format(out, ticks, each...); }, arguments);
  }

  void read() {
    pin(1);
    fmt::memory_buffer line;
    while (!stop_.load(std::memory_order_relaxed)) {
      const std::uint64_t head = head_.load(std::memory_order_acquire);
      std::uint64_t tail = tail_.load(std::memory_order_relaxed);
      if (tail == head) std::this_thread::yield();
      while (tail != head) {
        const auto* const record = reinterpret_cast<const Record*>(&data_[tail % capacity]);
        line.clear();
        record->format(reinterpret_cast<const std::byte*>(record + 1), record->ticks, line);
        escape(line.data());
        tail += record->size;
        tail_.store(tail, std::memory_order_release);
      }
    }
  }

  std::uint64_t position_ = 0, known_tail_ = 0;  // the writer's
  std::unique_ptr<std::byte[]> data_{new std::byte[capacity + slack]()};
  alignas(64) std::atomic<std::uint64_t> head_{0};
  alignas(64) std::atomic<std::uint64_t> tail_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

struct StartLine {
  static void format(fmt::memory_buffer& out, std::uint64_t ticks, std::string_view op, std::string_view on, std::uint64_t id,
                     std::uint64_t user, std::string_view of) {
    fmt::format_to(fmt::appender(out),
                   FMT_COMPILE("time={} level=INFO msg=\"Operation started\" operation={} subject={} op_id={} user_id={} name={}\n"), ticks,
                   op, on, id, user, of);
  }
};
struct EndLine {
  static void format(fmt::memory_buffer& out, std::uint64_t ticks, std::string_view op, std::string_view on, std::uint64_t id,
                     std::uint64_t user, std::string_view of, std::uint64_t began) {
    fmt::format_to(
        fmt::appender(out),
        FMT_COMPILE("time={} level=INFO msg=\"Operation completed\" operation={} subject={} op_id={} user_id={} name={} duration={}\n"),
        ticks, op, on, id, user, of, ticks - began);
  }
};

inline void raw_ring(benchmark::State& state) {
  RawRing ring;
  measure_bursts(
      state,
      [&](std::uint64_t i) {
        const std::uint64_t began = RawRing::now();
        ring.push<StartLine>(began, operation, subject, i, i, name);
        ring.push<EndLine>(RawRing::now(), operation, subject, i, i, name, began);
      },
      [&] { ring.drain(); });
}

// ---- virtual calls

/// There are two kinds, so that the compiler does not guess which is called.
struct Hearer {
  virtual ~Hearer() = default;
  virtual void hear(std::uint64_t value) = 0;
};
struct UsingHearer final : Hearer {
  void hear(std::uint64_t value) override { use(value); }
};
struct OtherHearer final : Hearer {
  void hear(std::uint64_t value) override { use(value + 1); }
};

/// So many calls through a pointer: what an interface costs.
template <int calls>
void virtual_call(benchmark::State& state) {
  UsingHearer using_it;
  OtherHearer other;
  Hearer* const called = hide(true) ? static_cast<Hearer*>(&using_it) : &other;
  measure(state, [&](std::uint64_t i) {
    for (int call = 0; call < calls; ++call) hide(called)->hear(i);
  });
}

}  // namespace bench::peers
