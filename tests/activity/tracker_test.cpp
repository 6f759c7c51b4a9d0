#include "weir/activity/tracker.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "support/trackers.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::string_literals;
using Lines = Heard::Lines;

namespace {

const Context nowhere;

void do_it(ActivityTracker& tracker) {
  Activity activity = tracker.start(nowhere, "do", "it");
  activity.report_error("it");
  activity.report_change(1);
}

const Lines all_of(const std::string& name) {
  return {name + " started do it", name + " failed it", name + " changed 1", name + " ended", name + " gone"};
}

/// Of any size and alignment, filled from end to end, so that one that overlaps another shows.
struct Sizes : ActivityTracker {
  template <std::size_t Size, std::size_t Alignment = 1>
  struct Following : Tracking {
    Following(unsigned char b, std::atomic<int>& w, std::atomic<int>& a) : byte(b), wrong(w), life(a) { bytes.fill(b); }
    ~Following() override { check(); }
    void changed(ActivityChange&) override { check(); }
    void ended() override { check(); }
    void check() {
      for (const unsigned char each : bytes) wrong += each != byte;
      wrong += reinterpret_cast<std::uintptr_t>(this) % alignof(Following) != 0;
    }
    unsigned char byte;
    std::atomic<int>& wrong;
    Life life;
    alignas(Alignment) std::array<unsigned char, Size> bytes;
  };
  void started(ActivityStart& start) override {
    unsigned char byte = 0;
    for (int i = 0; i < 20; ++i) {
      start.follow<Following<1>>(++byte, wrong, alive);
      start.follow<Following<100, alignof(std::max_align_t)>>(++byte, wrong, alive);
      start.follow<Following<1'000>>(++byte, wrong, alive);  // about a block
      start.follow<Following<3>>(++byte, wrong, alive);
      start.follow<Following<100'000>>(++byte, wrong, alive);
      start.follow<Following<7>>(++byte, wrong, alive);
    }
  }
  std::atomic<int> wrong{0}, alive{0};
};

}  // namespace

TEST_CASE("the trackers of a chain hear everything, in their order") {
  Heard heard;
  Recorder a(heard, "a"), b(heard, "b"), c(heard, "c");
  ChainedTracker chain(a, b, c);
  do_it(chain);
  CHECK(heard.take() == Lines{"a started do it", "b started do it", "c started do it", "a failed it", "b failed it", "c failed it",
                              "a changed 1", "b changed 1", "c changed 1", "a ended", "b ended", "c ended", "a gone", "b gone", "c gone"});
}

TEST_CASE("a chain may be a member of a chain, and a tracker of two") {
  Heard heard;
  Recorder a(heard, "a"), b(heard, "b"), c(heard, "c");
  ChainedTracker inner(b, c);
  ChainedTracker chain(a, inner, b);
  Activity activity = chain.start(nowhere, "do", "it");
  CHECK(heard.take() == Lines{"a started do it", "b started do it", "c started do it", "b started do it"});
  activity.end();
  CHECK(heard.take() == Lines{"a ended", "b ended", "c ended", "b ended", "a gone", "b gone", "c gone", "b gone"});
}

TEST_CASE("in a chain those that follow nothing are in nobody's way") {
  Heard heard;
  Recorder a(heard, "a");
  ChainedTracker chain(noop_tracker(), a, noop_tracker());
  do_it(chain);
  CHECK(heard.take() == all_of("a"));
  ChainedTracker of_noops(noop_tracker(), noop_tracker());
  CHECK_FALSE(of_noops.start(nowhere, "do", "it").tracked());
}

TEST_CASE("what one tracker throws reaches neither the program nor the others, and is counted") {
  const std::string place = GENERATE("started"s, "failed"s, "changed"s, "ended"s, "inside"s);
  CAPTURE(place);
  Heard heard;
  Recorder before(heard, "before"), after(heard, "after"), throws(heard, "throws", {.throws_in = {place}});
  ChainedTracker inner(before, throws);
  ChainedTracker chain(inner, after);
  const std::uint64_t exceptions = activity_stats().exceptions;
  Activity activity = chain.start(nowhere, "do", "it");
  CHECK(activity.inside(nowhere).request_id() == (place == "inside" ? "beforeafter" : "beforethrowsafter"));
  activity.report_error("it");
  activity.report_change(1);
  activity.end();
  CHECK(activity_stats().exceptions == exceptions + 1);
  const Lines lines = heard.take();
  Lines expected;
  for (const char* what : {"started do it", "failed it", "changed 1", "ended", "gone"})
    for (const char* name : {"before", "throws", "after"}) expected.push_back(name + " "s + what);
  CHECK(lines == expected);
}

TEST_CASE("everything may be thrown, from everywhere") {
  struct Throws : ActivityTracker {
    struct Following : Tracking {
      void failed(const ActivityError&) override { throw 1; }
      void changed(ActivityChange&) override { throw "text"; }
      void ended() override { throw std::string("text"); }
    };
    void started(ActivityStart& start) override {
      start.follow<Following>();
      throw std::make_pair(1, 2);
    }
  } throws;
  const std::uint64_t exceptions = activity_stats().exceptions;
  const auto work = [&] {
    Activity activity = throws.start("do", "it");
    activity.report_error("it");
    activity.report_change(1, [] { return "{}"s; });
    throw std::runtime_error("of the program");  // a tracker throws while this one leaves
  };
  CHECK_THROWS_WITH(work(), "of the program");
  CHECK(activity_stats().exceptions == exceptions + 4);
}

TEST_CASE("what follows an activity is not heard of again if it could not be made") {
  struct Refuses : ActivityTracker {
    struct Following : Tracking {
      Following() { throw std::runtime_error("not today"); }
      void ended() override { FAIL("it does not exist"); }
    };
    void started(ActivityStart& start) override { start.follow<Following>(); }
  } refuses;
  Heard heard;
  Recorder a(heard, "a");
  ChainedTracker chain(refuses, a);
  const std::uint64_t exceptions = activity_stats().exceptions;
  do_it(chain);
  do_it(refuses);
  CHECK(activity_stats().exceptions == exceptions + 2);
  CHECK(heard.take() == all_of("a"));
}

TEST_CASE("a chain refuses members that are null, and says which") {
  Heard heard;
  const auto recorder = std::make_shared<Recorder>(heard, "a");
  const Result<ChainedTracker> refused = ChainedTracker::create({recorder, nullptr, recorder});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == std::errc::invalid_argument);
  CHECK(refused.error().message == "member 2 of 3 of a chain of activity trackers is null; leave it out");
  CHECK_FALSE(ChainedTracker::create({nullptr}));
  CHECK(recorder.use_count() == 1);
}

TEST_CASE("a chain may own its members, and copies of it share them") {
  Heard heard;
  auto a = std::make_shared<Recorder>(heard, "a");
  const std::weak_ptr<Recorder> alive = a;
  Result<ChainedTracker> created = ChainedTracker::create({std::move(a)});
  REQUIRE(created);
  auto copy = std::make_unique<ChainedTracker>(*created);
  do_it(*created);
  CHECK(heard.take() == all_of("a"));
  created = Error{{}, "gone"};
  CHECK_FALSE(alive.expired());
  do_it(*copy);
  CHECK(heard.take() == all_of("a"));
  copy.reset();
  CHECK(alive.expired());
}

TEST_CASE("a chain of nobody follows nothing") {
  Result<ChainedTracker> nobody = ChainedTracker::create({});
  REQUIRE(nobody);
  Activity activity = nobody->start(nowhere, "do", "it");
  CHECK_FALSE(activity.tracked());
}

TEST_CASE("a tracker that stands before another decides what it hears of") {
  class Only : public ActivityTracker {
   public:
    Only(std::string_view subject, ActivityTracker& next) : subject_(subject), next_(next) {}

   private:
    void started(ActivityStart& start) override {
      if (start.subject() == subject_) start.pass_to(next_);
    }
    const std::string subject_;
    ActivityTracker& next_;
  };
  Heard heard;
  Recorder a(heard, "a", {.throws_in = {"started"}});
  Only only("it", a);
  const std::uint64_t exceptions = activity_stats().exceptions;
  do_it(only);
  CHECK(heard.take() == all_of("a"));
  CHECK(activity_stats().exceptions == exceptions + 1);
  CHECK_FALSE(only.start(nowhere, "do", "something else").tracked());
  CHECK(heard.take().empty());
}

TEST_CASE("a tracker may follow an activity several times, with as much as it likes") {
  Sizes sizes;
  for (int i = 0; i < 10; ++i) {
    Activity outer = sizes.start(nowhere, "be", "large");
    Activity inner = sizes.start(nowhere, "be", "large");
    CHECK(sizes.alive == 240);
    outer.report_change(1);
    inner.end();
    CHECK(sizes.alive == 120);
  }
  CHECK(sizes.alive == 0);
  CHECK(sizes.wrong == 0);
}

TEST_CASE("a tracker may itself use activities, and operations, wherever it is told something") {
  struct Uses : ActivityTracker {
    explicit Uses(ActivityTracker& u) : used(u) {}
    struct Following : Tracking {
      explicit Following(ActivityTracker& u) : used(u) { do_it(used); }
      ~Following() override { do_it(used); }
      void failed(const ActivityError&) override { do_it(used); }
      void changed(ActivityChange&) override { do_it(used); }
      void ended() override {
        Op<Request> operation{{1}, {}};
        do_it(used);
      }
      ActivityTracker& used;
    };
    void started(ActivityStart& start) override {
      do_it(used);
      start.follow<Following>(used);
    }
    ActivityTracker& used;
  };
  Heard heard;
  Recorder recorder(heard, "r");
  Uses once(recorder), twice(static_cast<ActivityTracker&>(once));
  do_it(twice);
  Lines expected;
  for (int i = 0; i < 36; ++i)
    for (const std::string& line : all_of("r")) expected.push_back(line);
  CHECK(heard.take() == expected);
}
