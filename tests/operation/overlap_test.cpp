// Everything at once, at full size under ThreadSanitizer too: two million emissions overlap with registrations, removals,
// finishes and swaps on the nodes they pass, and every count is exact.
#include <array>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// What a listener of a hub refers to: stale once finish() of the hub has returned.
struct State {
  std::atomic<bool> stale{false};
};

/// The shared operation that emitters work under, replaced while they do.
class Hub {
 public:
  Handle<Request> get() {
    std::lock_guard lock(mutex_);
    return hub_;
  }
  Handle<Request> replace(Handle<Request> next) {
    std::lock_guard lock(mutex_);
    std::swap(hub_, next);
    return next;
  }

 private:
  std::mutex mutex_;
  Handle<Request> hub_;
};

/// A count per emitter, so that the threads do not meet in the counters.
struct alignas(128) Counts {
  std::atomic<std::uint64_t> starts{0}, ticks{0}, finishes{0};
  std::uint64_t made = 0, ticks_made = 0;
};

void add_one(std::atomic<std::uint64_t>& count) { count.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

TEST_CASE("registration, emission, start, finish and swap are safe concurrently on shared nodes, with exact counts") {
  constexpr std::uint64_t emissions = 2'000'000, registrations = 20'000, finishes = 10'000, swaps = 10'000;
  constexpr int emitters = 4;
  std::array<Counts, emitters> counts;
  std::atomic<int> alive{0}, bad{0}, emitting{emitters};
  std::atomic<std::uint64_t> registered{0}, finished{0}, swapped{0}, hubs_heard{0};
  std::uint64_t removed = 0, dropped = 0;
  Hub hub;

  const auto make_root = [&] {
    Root root;
    root.on_start<Query>(
        [&, life = Life(alive)](const Query::Args& args) { add_one(counts[static_cast<std::size_t>(args.number)].starts); });
    root.on_finish<Query>(
        [&, life = Life(alive)](const Query::Result& result) { add_one(counts[static_cast<std::size_t>(result.rows)].finishes); });
    root.on_data<Tick>([&, life = Life(alive)](const Tick& tick) { add_one(counts[static_cast<std::size_t>(tick.value)].ticks); });
    root.on_finish<Request>([&, life = Life(alive)] { add_one(hubs_heard); });
    return root;
  };
  const auto make_hub = [&](std::shared_ptr<State> state) {
    Handle<Request> next = start<Request>({});
    next->on_data<Tick>([&bad, state, life = Life(alive)] {
      if (state->stale.load(std::memory_order_relaxed)) ++bad;
    });
    return next;
  };
  const auto enough = [&] { return registered >= registrations && finished >= finishes && swapped >= swaps; };

  swap_root(make_root());
  auto first_state = std::make_shared<State>();
  hub.replace(make_hub(first_state));
  std::vector<std::thread> threads;
  for (int id = 0; id < emitters; ++id)
    threads.emplace_back([&, id] {
      Counts& mine = counts[static_cast<std::size_t>(id)];
      while (mine.ticks_made < emissions / emitters || !enough()) {
        const Handle<Request> shared = hub.get();
        for (int i = 0; i < 50; ++i) {
          Op<Query> below{under(shared), {id}};
          for (int j = 0; j < 3; ++j) below.emit(Tick{id});
          below.finish({id});
          Op<Query> own{{id}};
          own.emit(Tick{id});
          own.finish({id});
          mine.made += 2;
          mine.ticks_made += 4;
        }
      }
      --emitting;
    });
  const auto meanwhile = [&](auto work) {
    threads.emplace_back([&, work]() mutable {
      while (emitting != 0) work();
    });
  };
  meanwhile([&] {  // comes and goes on the root
    Op<Request> op{{}};
    Operation& root = *op.parent();
    Listener small = root.on_data<Tick>([life = Life(alive)] {});
    Listener large = root.on_start<Query>([life = Life(alive), bytes = std::array<int, 20>{}] { (void)bytes; });
    removed += small.remove() + large.remove();
    registered += 2;
  });
  meanwhile([&] {  // registers on the hub, whose finish drops it, unless the hub has finished already
    const Handle<Request> shared = hub.get();
    for (int i = 0; i < 4; ++i) {
      shared->on_finish<Query>([life = Life(alive)] {});
      Listener taken = shared->on_data<Tick>([life = Life(alive)] {});
      if (i % 2 == 0) dropped += taken.remove();
    }
    registered += 8;
  });
  meanwhile([&, state = first_state]() mutable {
    auto next_state = std::make_shared<State>();
    Handle<Request> old = hub.replace(make_hub(next_state));
    old->finish();
    state->stale.store(true, std::memory_order_relaxed);
    state = next_state;
    ++finished;
  });
  meanwhile([&] {
    swap_root(make_root());
    ++swapped;
  });
  for (std::thread& thread : threads) thread.join();

  std::uint64_t ticks = 0;
  for (const Counts& count : counts) {
    CHECK(count.starts == count.made);
    CHECK(count.finishes == count.made);
    CHECK(count.ticks == count.ticks_made);
    ticks += count.ticks;
  }
  CHECK(ticks >= emissions);
  CHECK(registered >= registrations);
  CHECK(finished >= finishes);
  CHECK(swapped >= swaps);
  CHECK(bad == 0);
  CHECK(removed % 2 == 0);
  CHECK(removed > 0);
  CHECK(hubs_heard >= finished);  // and those that the registrar began
  hub.replace({})->finish();
  swap_root(Root{});
  CHECK(alive == 0);
}
