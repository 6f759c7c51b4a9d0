// Activities: what the interface costs by itself, and a start and an end that become log lines (activity_peers.hpp: beside).
//
// Sinks take lines and write them nowhere. The asynchronous rows time bursts that fit the ring, and let the other thread catch
// up in between: what they show is what the calling thread pays, not how fast lines are made.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "activity_peers.hpp"
#include "support/bench.hpp"
#include "weir/activity/log_tracker.hpp"
#include "weir/activity/tracker.hpp"

namespace {

using bench::use;

/// Every call through the interface, as that of business code is.
weir::ActivityTracker* hidden(weir::ActivityTracker& tracker) { return bench::hide(&tracker); }

/// What a thread takes with its first activity is not counted.
void warm_up(weir::ActivityTracker& tracker) { (void)tracker.start("update", "user"); }

void use_explicit(benchmark::State& state, weir::ActivityTracker& tracker) {
  warm_up(tracker);
  const weir::Context context;
  bench::measure(state, [&](std::uint64_t) { weir::Activity activity = hidden(tracker)->start(context, "update", "user"); });
}

void use_with_attributes(benchmark::State& state, weir::ActivityTracker& tracker) {
  warm_up(tracker);
  const weir::Context context;
  bench::measure(state, [&](std::uint64_t i) {
    weir::Activity activity = hidden(tracker)->start(context, "update", "user", {{"user_id", i}, {"name", "ada"}});
  });
}

void noop(benchmark::State& state) { use_explicit(state, weir::noop_tracker()); }
void noop_with_attributes(benchmark::State& state) { use_with_attributes(state, weir::noop_tracker()); }
void noop_implicit(benchmark::State& state) {
  bench::measure(state, [](std::uint64_t) { weir::Activity activity = hidden(weir::noop_tracker())->start("update", "user"); });
}

void chain_of_noops(benchmark::State& state) {
  weir::ChainedTracker chain(weir::noop_tracker(), weir::noop_tracker(), weir::noop_tracker());
  use_explicit(state, chain);
}

/// Follows every activity, and uses when it began.
template <bool may_block>
class Follower : public weir::ActivityTracker {
  struct Following : weir::Tracking {
    static constexpr bool blocks = may_block;
    explicit Following(std::uint64_t b) : began(b) {}
    void ended() override { use(began); }
    std::uint64_t began;
  };
  void started(weir::ActivityStart& start) override { start.follow<Following>(start.operation().size()); }
};

template <bool may_block>
void chain_of_followers(benchmark::State& state) {
  Follower<may_block> a, b, c;
  weir::ChainedTracker chain(a, b, c);
  use_explicit(state, chain);
}

class NullSink final : public weir::LogSink {
 public:
  NullSink() : LogSink(false) {}

 private:
  std::size_t write(std::span<const weir::LogLine> lines, std::error_code&) noexcept override {
    bench::escape(lines.front().text.data());
    return lines.size();
  }
};

template <weir::LogFormat format>
void log_synchronous(benchmark::State& state) {
  weir::LogTracker log(std::make_shared<NullSink>(), {.format = format});
  use_with_attributes(state, log);
}

template <weir::LogFormat format>
void log_asynchronous(benchmark::State& state) {
  std::optional<weir::LogTracker> log;
  std::thread([&] {  // the writing thread runs where the thread that starts it may run: not on our processor
    bench::pin(1);
    log.emplace(std::make_shared<NullSink>(), weir::LogOptions{.format = format, .asynchronous = true, .ring_bytes = 1u << 20});
  })
      .join();
  warm_up(*log);
  const weir::Context context;
  bench::measure_bursts(
      state,
      [&](std::uint64_t i) {
        weir::Activity activity = hidden(*log)->start(context, "update", "user", {{"user_id", i}, {"name", "ada"}});
      },
      [&] { log->flush(std::chrono::seconds(10)); });
  const weir::LogStats stats = log->stats();
  if (stats.lost_full != 0 || stats.written == 0) state.SkipWithError("lines were lost");
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  using namespace bench::peers;
  using weir::LogFormat;
  return {
      {.name = "noop", .run = noop, .limit = "virtual call, 1", .goal_ns = 2},
      {.name = "noop, two attributes", .run = noop_with_attributes, .limit = "virtual call, 1"},
      {.name = "noop, under the ambient context", .run = noop_implicit, .limit = "virtual call, 1"},
      {.name = "chain of 3 noops", .run = chain_of_noops, .limit = "virtual call, 4", .goal_ns = 8},
      // started of the chain and its members, ended and the destructor of each
      {.name = "chain of 3 that follow", .run = chain_of_followers<false>, .limit = "virtual call, 10"},
      {.name = "chain of 3 that follow and may block", .run = chain_of_followers<true>, .limit = "virtual call, 10"},
      {.name = "start + end logged, text",
       .run = log_synchronous<LogFormat::text>,
       .limit = "fmt compiled, text",
       .peers = {"fmt::format_to, text", "spdlog, synchronous"},
       .goal_ns = 250},
      {.name = "start + end logged, JSON",
       .run = log_synchronous<LogFormat::json>,
       .limit = "fmt compiled, JSON",
       .peers = {"fmt::format_to, JSON"},
       .goal_ns = 250},
      {.name = "start + end logged, text, asynchronous",
       .run = log_asynchronous<LogFormat::text>,
       .limit = "raw arguments, in a ring",
       .peers = {"spdlog async, text"},
       .goal_ns = 40},
      {.name = "start + end logged, JSON, asynchronous",
       .run = log_asynchronous<LogFormat::json>,
       .limit = "raw arguments, in a ring",
       .goal_ns = 40},

      {.name = "virtual call, 1", .run = virtual_call<1>, .role = Role::limit},
      {.name = "virtual call, 4", .run = virtual_call<4>, .role = Role::limit},
      {.name = "virtual call, 10", .run = virtual_call<10>, .role = Role::limit},
      {.name = "fmt compiled, text", .run = format_text_compiled, .role = Role::limit},
      {.name = "fmt compiled, JSON", .run = format_json_compiled, .role = Role::limit},
      {.name = "raw arguments, in a ring", .run = raw_ring, .role = Role::limit},

      {.name = "fmt::format_to, text", .run = format_text, .role = Role::peer},
      {.name = "fmt::format_to, JSON", .run = format_json, .role = Role::peer},
      {.name = "spdlog, synchronous", .run = spdlog_sync, .role = Role::peer},
      {.name = "spdlog async, text", .run = spdlog_async, .role = Role::peer},
  };
}
