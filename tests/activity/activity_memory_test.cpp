// What activities take from the heap: in the long run nothing, and what they do when it is empty.
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/operations.hpp"
#include "weir/activity/activity.hpp"
#include "weir/activity/tracker.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

std::atomic<long> allocations{0}, releases{0};
/// Which allocations fail. Numbers count from 1, over all threads.
struct Failing {
  std::atomic<bool> armed{false};
  std::atomic<int> count{0};
  std::atomic<int> first{0}, last{0};
} failing;

void* allocate(std::size_t size) noexcept {
  if (failing.armed.load(std::memory_order_relaxed)) {
    const int number = ++failing.count;
    if (number >= failing.first && number <= failing.last) return nullptr;
  }
  allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(size == 0 ? 1 : size);
}

void release(void* memory) noexcept {
  if (memory != nullptr) releases.fetch_add(1, std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (void* memory = allocate(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { release(memory); }

namespace {

const Context nowhere;

/// What trackers keep: some bytes, and maybe text.
template <std::size_t Size>
class Keeps : public ActivityTracker {
 public:
  struct Counts {
    std::atomic<int> started{0}, failed{0}, changed{0}, ended{0}, alive{0};
  };
  explicit Keeps(bool text = false) : text_(text) {}
  Counts counts;

 private:
  struct Following : Tracking {
    Following(Counts& c, std::string_view t) : counts(c), life(c.alive), text(t) {}
    void failed(const ActivityError&) override { ++counts.failed; }
    void changed(ActivityChange& change) override {
      if (change.value() == nullptr && change.has_data()) (void)change.json();
      ++counts.changed;
    }
    void ended() override { ++counts.ended; }
    Counts& counts;
    Life life;
    std::string text;
    char bytes[Size];
  };
  void started(ActivityStart& start) override {
    ++counts.started;
    start.follow<Following>(counts, text_ ? "a text that is too long for a small string" : "");
    if (text_) start.follow<Following>(counts, "another text that is too long for a small string");
    start.id();
  }
  bool text_;
};

void use(ActivityTracker& tracker, int value) {
  Activity activity = tracker.start(nowhere, "do", "it", {{"value", value}, {"name", "ada"}});
  activity.report_error("an error");
  activity.report_change(value, [] { return std::string("{}"); });
  Activity current = tracker.start("do", "more");
  current.end();
}

long allocations_of(int times, ActivityTracker& tracker) {
  for (int i = 0; i < 20; ++i) use(tracker, i);  // the thread takes what it keeps
  const long before = allocations;
  for (int i = 0; i < times; ++i) use(tracker, i);
  return allocations - before;
}

}  // namespace

TEST_CASE("activities that nobody follows allocate nothing, from the first on") {
  long taken = -1;
  std::thread([&] {
    ChainedTracker chain(noop_tracker(), noop_tracker(), noop_tracker());
    const long before = allocations;
    for (int i = 0; i < 100; ++i) {
      use(noop_tracker(), i);
      use(chain, i);
    }
    taken = allocations - before;
  }).join();
  CHECK(taken == 0);
}

TEST_CASE("in the long run activities of a short chain allocate nothing") {
  Keeps<64> a, b, c;
  ChainedTracker chain(a, b, c);
  CHECK(allocations_of(10'000, chain) == 0);
  CHECK(a.counts.alive == 0);
  CHECK(b.counts.ended == 2 * 10'020);
}

TEST_CASE("a tracker that keeps much gets its memory from the heap, and gives it back") {
  Keeps<10'000> large;
  CHECK(allocations_of(100, large) == 2 * 100);
  const long before = allocations - releases;
  for (int i = 0; i < 100; ++i) use(large, i);
  CHECK(allocations - releases == before);
}

TEST_CASE("what a thread keeps for its activities is bounded, and gone when the thread is") {
  Keeps<64> tracker;
  const auto work = [&] {
    std::vector<Activity> open;
    for (int i = 0; i < 1'000; ++i) open.push_back(tracker.start(nowhere, "open", "many"));
  };
  long before = 0, kept = 0, after = 0;
  std::thread([&] {
    work();
    std::thread([&] {
      before = allocations - releases;
      work();
      kept = allocations - releases - before;
    }).join();
  }).join();
  CHECK(kept > 0);
  CHECK(kept < 30);
  std::thread first(work);
  first.join();
  const long with_none = allocations - releases;
  std::thread(work).join();
  after = allocations - releases;
  CHECK(after == with_none);
}

TEST_CASE("activities that begin on one thread and end on another do not pile up memory there") {
  Keeps<64> tracker;
  long before = 0, after = 0;
  std::vector<Activity> handed;
  std::thread([&] {
    for (int round = 0; round < 20; ++round) {
      std::thread([&] {
        for (int i = 0; i < 100; ++i) handed.push_back(tracker.start(nowhere, "hand", "over"));
      }).join();
      for (Activity& activity : handed) activity.end();
      handed.clear();
      if (round == 1) before = allocations - releases;
    }
    after = allocations - releases;
  }).join();
  CHECK(after == before);
}

namespace {

enum Outcome { good = 0, not_reached = 1, threw = 2, left_behind = 3, not_ended = 4, did_not_recover = 5 };

/// Some of everything while the allocations from `first` to `last` fail, and once more while none does.
int run(int first, int last) {
  Keeps<64> small(true);
  Keeps<3'000> large(true);
  Keeps<64> more;
  ChainedTracker chain(small, large, more);
  ActivityTracker* const trackers[] = {&chain, &small};
  const auto scenario = [&] {
    for (ActivityTracker* tracker : trackers) {
      use(*tracker, 1);
      Activity open = tracker->start(nowhere, "stay", "open");
      open.report_change(1, [] { return std::string(100, 'x'); });
      open.report_change(1, []() -> std::string { throw std::string("a text that is too long for a small string"); });
      open.report_error(std::make_error_code(std::errc::io_error));
      open.report_error(std::make_error_code(std::errc::argument_list_too_long));
      (void)open.inside(nowhere.with_request_id("a request id that is too long for a small string"));
    }
  };
  failing.count = 0;
  failing.first = first;
  failing.last = last;
  failing.armed = true;
  bool thrown = false;
  try {
    scenario();
  } catch (...) {
    thrown = true;
  }
  failing.armed = false;
  const bool reached = failing.count >= first;
  if (thrown) return threw;
  if (small.counts.alive + large.counts.alive + more.counts.alive != 0) return left_behind;
  // A start is heard by everybody, whatever is missing.
  if (small.counts.started != 6 || large.counts.started != 3 || more.counts.started != 3) return not_ended;
  if (!reached && (small.counts.ended != 12 || large.counts.ended != 6 || more.counts.ended != 3)) return not_ended;
  const int ended = small.counts.ended, changed = more.counts.changed;
  scenario();
  if (small.counts.ended != ended + 12 || more.counts.changed != changed + 3 || small.counts.alive != 0) return did_not_recover;
  return reached ? good : not_reached;
}

const char* describe(int outcome) {
  constexpr const char* texts[] = {
      "good", "not reached", "an exception came out", "something was left behind", "not everything was heard", "did not recover"};
  return outcome >= 0 && outcome < 6 ? texts[outcome] : "killed, or hung";
}

}  // namespace

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

TEST_CASE("the n-th allocation of a process that has not used activities fails, for every n") {
  const bool all_that_follow = GENERATE(false, true);
  int n = 1;
  for (;; ++n) {
    const Child child = in_a_child([&] { return run(n, all_that_follow ? 1 << 30 : n); }, 20);
    if (child.code() == not_reached) break;
    INFO("allocation " << n << (all_that_follow ? " and all that follow" : "") << ": " << describe(child.code()) << ' ' << child.text);
    REQUIRE(child.code() == good);
  }
  CHECK(n > 10);
}

#endif

TEST_CASE("the n-th allocation of a process that uses activities fails, for every n") {
  const bool all_that_follow = GENERATE(false, true);
  int n = 1;
  for (;; ++n) {
    const int outcome = run(n, all_that_follow ? 1 << 30 : n);
    if (outcome == not_reached) break;
    INFO("allocation " << n << (all_that_follow ? " and all that follow" : "") << ": " << describe(outcome));
    REQUIRE(describe(outcome) == std::string("good"));
  }
  CHECK(n > 10);
}
