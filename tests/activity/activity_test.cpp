#include "weir/activity/activity.hpp"

#include <pthread.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/fork_memory.hpp"
#include "support/operations.hpp"
#include "support/trackers.hpp"
#include "weir/activity/tracker.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::string_literals;
using Lines = Heard::Lines;

namespace {

const Context nowhere;

/// Hears one activity's errors in full.
class ErrorTracker : public ActivityTracker {
 public:
  struct Error {
    std::string text, exception;
    std::error_code code;
  };
  /// Starts an activity, lets `report` report on it, and returns what came.
  template <class Report>
  Error of(Report report) {
    errors_.clear();
    Activity activity = start(nowhere, "try", "errors");
    report(activity);
    REQUIRE(errors_.size() == 1);
    return errors_.front();
  }
  template <class Report>
  bool ignores(Report report) {
    errors_.clear();
    Activity activity = start(nowhere, "try", "errors");
    report(activity);
    return errors_.empty();
  }

 private:
  struct Following : Tracking {
    explicit Following(std::vector<Error>& e) : errors(e) {}
    void failed(const ActivityError& error) override {
      errors.push_back({std::string(error.text), error.exception != nullptr ? error.exception->name() : "", error.code});
    }
    std::vector<Error>& errors;
  };
  void started(ActivityStart& start) override { start.follow<Following>(errors_); }

  std::vector<Error> errors_;
};

/// Remembers how each activity began.
struct StartTracker : ActivityTracker {
  void started(ActivityStart& start) override {
    context = start.context();
    current = start.current();
    begun.push_back(start.id());
  }
  Context context;
  bool current = false;
  std::vector<std::uint64_t> begun;
};

/// Asks for data, and puts off no cancellation itself.
struct Quick : ActivityTracker {
  struct Following : Tracking {
    static constexpr bool blocks = false;
    explicit Following(std::string& d) : data(d) {}
    void changed(ActivityChange& change) override { data = *change.json(); }
    std::string& data;
  };
  void started(ActivityStart& start) override { start.follow<Following>(data); }
  std::string data;
};

/// A category as programs write them.
struct Category : std::error_category {
  explicit Category(bool t) : throws(t) {}
  const char* name() const noexcept override { return "storage"; }
  std::string message(int) const override {
    if (throws) throw std::runtime_error("no message");
    return "the disk is full";
  }
  const bool throws;
};

}  // namespace

TEST_CASE("a tracker hears how an activity starts, fails, changes something and ends") {
  Heard heard;
  Recorder tracker(heard, "t");
  {
    Activity activity = tracker.start(nowhere, "update", "user", {{"user_id", 7}, {"name", "ada"}, {"share", 0.5}, {"admin", true}});
    CHECK(heard.take() == Lines{"t started update user user_id=7 name=ada share=0.500000 admin=true"});
    CHECK(activity.tracked());
    activity.report_error("no such user");
    activity.report_change(7);
    activity.report_change("seven", 2);
    activity.report_change("seven"s, [] { return R"({"name":"ada"})"s; });
    CHECK(heard.take() == Lines{"t failed no such user", "t changed 7", "t changed seven: 2", "t changed seven: {\"name\":\"ada\"}"});
    activity.end();
    CHECK(heard.take() == Lines{"t ended", "t gone"});
    CHECK_FALSE(activity.tracked());
  }
  CHECK(heard.take().empty());
}

TEST_CASE("nothing that start() was given need live longer than the call") {
  Heard heard;
  Recorder tracker(heard, "t");
  std::optional<Activity> activity;
  {
    std::string operation = "up", subject = "us", value = "temporary and too long for a small string";
    activity = tracker.start(nowhere, operation + "date", subject + "er", {{"key "s + "made", value + '!'}, {std::string("n"), 1}});
    activity->report_error(operation + " failed");
    activity->report_change(subject + '1', subject + '2');
    operation = subject = value = "overwritten";
  }
  activity->end();
  CHECK(heard.take() == Lines{"t started update user key made=temporary and too long for a small string! n=1", "t failed up failed",
                              "t changed us1: us2", "t ended", "t gone"});
}

TEST_CASE("an activity ends once") {
  Heard heard;
  Recorder tracker(heard, "t");
  const Lines once{"t started do it", "t ended", "t gone"};

  SECTION("with its scope") {
    { Activity activity = tracker.start(nowhere, "do", "it"); }
    CHECK(heard.take() == once);
  }
  SECTION("when it is never given a name") {
    (void)tracker.start(nowhere, "do", "it");
    CHECK(heard.take() == once);
  }
  SECTION("explicitly, and not again") {
    Activity activity = tracker.start(nowhere, "do", "it");
    activity.end();
    activity.end();
    CHECK(heard.take() == once);
  }
  SECTION("where it was moved to") {
    Activity outer;
    {
      Activity activity = tracker.start(nowhere, "do", "it");
      outer = std::move(activity);
      activity.end();  // NOLINT: that of what was moved from
      CHECK_FALSE(activity.tracked());
    }
    CHECK(heard.take() == Lines{"t started do it"});
    Activity last = std::move(outer);
    CHECK(last.tracked());
    last.end();
    CHECK(heard.take() == Lines{"t ended", "t gone"});
  }
  SECTION("although it is moved to itself") {
    Activity activity = tracker.start(nowhere, "do", "it");
    Activity& same = activity;
    activity = std::move(same);
    CHECK(activity.tracked());
    activity.end();
    CHECK(heard.take() == once);
  }
  SECTION("when another one takes its place") {
    Activity activity = tracker.start(nowhere, "do", "it");
    activity = Activity();
    CHECK(heard.take() == once);
    activity = tracker.start(nowhere, "do", "it");
    activity = tracker.start(nowhere, "do", "more");
    CHECK(heard.take() == Lines{"t started do it", "t started do more", "t ended", "t gone"});
    activity.end();
    CHECK(heard.take() == Lines{"t ended", "t gone"});
  }
  SECTION("when an exception leaves its scope") {
    const auto work = [&] {
      Activity activity = tracker.start(nowhere, "do", "it");
      throw std::runtime_error("of the program");
    };
    CHECK_THROWS_WITH(work(), "of the program");
    CHECK(heard.take() == once);
  }
}

TEST_CASE("what is reported after the end is ignored and counted") {
  Heard heard;
  Recorder tracker(heard, "t");
  const auto report_all = [](Activity& activity) {
    const std::uint64_t before = activity_stats().late_reports;
    activity.report_error(std::runtime_error("late"));
    activity.report_error(std::make_exception_ptr(1));
    activity.report_error(std::make_error_code(std::errc::io_error));
    activity.report_error("late");
    activity.report_error(Error{{}, "late"});
    activity.report_change(1);
    activity.report_change(1, 2);
    bool called = false;
    activity.report_change(1, [&] {
      called = true;
      return "{}"s;
    });
    CHECK_FALSE(called);
    return activity_stats().late_reports - before;
  };

  Activity activity = tracker.start(nowhere, "do", "it");
  activity.end();
  heard.take();
  CHECK(report_all(activity) == 8);
  Activity moved = tracker.start(nowhere, "do", "it");
  Activity target = std::move(moved);
  heard.take();
  CHECK(report_all(moved) == 8);  // NOLINT: what was moved from
  CHECK(heard.take().empty());

  Activity of_nobody;
  CHECK(report_all(of_nobody) == 0);
  Activity unheard = noop_tracker().start(nowhere, "do", "it");
  CHECK(report_all(unheard) == 0);
  CHECK_FALSE(unheard.tracked());
  unheard.end();
}

TEST_CASE("an error is a text, a code, an exception or an Error; the tracker gets all that is known of it") {
  ErrorTracker tracker;
  const Category storage(false), speechless(true);
  const std::error_code full(28, storage);
  const auto text_is = [&](auto&& error, const std::string& text, const char* exception = "", std::error_code code = {}) {
    const ErrorTracker::Error heard = tracker.of([&](Activity& activity) { activity.report_error(error); });
    CHECK(heard.text == text);
    CHECK(heard.exception == exception);
    CHECK(heard.code == code);
  };
  const auto thrown = [](auto exception) { return std::make_exception_ptr(std::move(exception)); };

  text_is("a literal", "a literal");
  text_is("a text"s, "a text");
  text_is(std::string_view("a view"), "a view");
  text_is(full, "the disk is full", "", full);
  text_is(std::error_code(1, speechless), "storage", "", std::error_code(1, speechless));
  text_is(std::runtime_error("broken"), "broken", typeid(std::runtime_error).name());
  text_is(std::system_error(full, "save"), "save: the disk is full", typeid(std::system_error).name(), full);
  text_is(thrown(std::out_of_range("beyond")), "beyond", typeid(std::out_of_range).name());
  text_is(thrown(std::system_error(full)), "the disk is full", typeid(std::system_error).name(), full);
  text_is(thrown(7), "unknown exception", typeid(int).name());
  text_is(Error{full, "cannot save"}, "cannot save", "", full);
  text_is(Error{{}, "cannot save"}, "cannot save");
  text_is(Error{full, ""}, "the disk is full", "", full);
}

TEST_CASE("an exception that is reported where it was caught keeps its type") {
  ErrorTracker tracker;
  const ErrorTracker::Error heard = tracker.of([](Activity& activity) {
    try {
      throw std::system_error(std::make_error_code(std::errc::timed_out));
    } catch (const std::exception& exception) {
      activity.report_error(exception);
    }
  });
  CHECK(heard.exception == typeid(std::system_error).name());
  CHECK(heard.code == std::errc::timed_out);
}

TEST_CASE("no error is no error") {
  ErrorTracker tracker;
  const std::uint64_t late = activity_stats().late_reports;
  CHECK(tracker.ignores([](Activity& activity) { activity.report_error(std::exception_ptr()); }));
  CHECK(tracker.ignores([](Activity& activity) { activity.report_error(std::error_code()); }));
  CHECK(tracker.ignores([](Activity& activity) { activity.report_error(""); }));
  CHECK(tracker.ignores([](Activity& activity) { activity.report_error(std::string()); }));
  CHECK(tracker.ignores([](Activity& activity) { activity.report_error(Error{}); }));
  CHECK(tracker.ignores([](Activity& activity) {
    activity.end();
    activity.report_error("");
  }));
  CHECK(activity_stats().late_reports == late);
}

TEST_CASE("the data of a change is made once, and only for those who want it") {
  Heard heard;
  Recorder one(heard, "one"), two(heard, "two"), other(heard, "other", {.wants_data = false});
  int calls = 0;
  const auto data = [&calls] { return std::to_string(++calls); };

  Activity for_nobody = noop_tracker().start(nowhere, "do", "it");
  for_nobody.report_change(1, data);
  Activity unwanted = other.start(nowhere, "do", "it");
  unwanted.report_change(1, data);
  CHECK(calls == 0);
  heard.take();

  ChainedTracker chain(one, other, two);
  Activity activity = chain.start(nowhere, "do", "it");
  heard.take();
  activity.report_change(1, data);
  CHECK(calls == 1);
  CHECK(heard.take() == Lines{"one changed 1: 1", "other changed 1", "two changed 1: 1"});
}

TEST_CASE("data that cannot be made is an error that names what was thrown and repeats none of its text") {
  Heard heard;
  Recorder one(heard, "one"), two(heard, "two");
  ChainedTracker chain(one, two);
  Activity activity = chain.start(nowhere, "do", "it");
  heard.take();
  const auto both = [](const std::string& line) { return Lines{"one changed 1: " + line, "two changed 1: " + line}; };
  int calls = 0;
  activity.report_change(1, [&]() -> std::string {
    ++calls;
    throw std::invalid_argument("password=hunter2");
  });
  CHECK(calls == 1);
  CHECK(heard.take() == both("error: the callable threw std::invalid_argument"));
  activity.report_change(1, []() -> std::string { throw "password=hunter2"; });
  CHECK(heard.take() == both("error: the callable threw char const*"));
  activity.report_change(1, []() -> std::string { throw std::bad_alloc(); });
  CHECK(heard.take() == both("error: out of memory"));
  CHECK(activity.tracked());
}

TEST_CASE("a tracker that asks a value for JSON gets an error") {
  struct Asks : ActivityTracker {
    struct Following : Tracking {
      explicit Following(std::string& t) : text(t) {}
      void changed(ActivityChange& change) override { text = change.json() ? *change.json() : change.json().error().message; }
      std::string& text;
    };
    void started(ActivityStart& start) override { start.follow<Following>(text); }
    std::string text;
  } tracker;
  Activity activity = tracker.start(nowhere, "do", "it");
  activity.report_change(1, "value");
  CHECK(tracker.text == "it was reported as a value");
  tracker.text = "";
  activity.report_change(1);
  CHECK(tracker.text == "it was reported as a value");
}

TEST_CASE("what makes the data may itself use the activity") {
  Heard heard;
  Recorder one(heard, "1"), two(heard, "2");
  ChainedTracker chain(one, two);
  auto activity = std::make_unique<Activity>(chain.start(nowhere, "do", "it"));
  heard.take();
  const Lines changed_then_ended{"1 changed 1: {}", "2 changed 1: {}", "1 ended", "2 ended", "1 gone", "2 gone"};

  SECTION("reporting on it") {
    activity->report_change(1, [&] {
      activity->report_error("meanwhile");
      return "{}"s;
    });
    CHECK(activity->tracked());
    CHECK(heard.take() == Lines{"1 failed meanwhile", "2 failed meanwhile", "1 changed 1: {}", "2 changed 1: {}"});
  }
  SECTION("ending it: everybody hears of the change first") {
    activity->report_change(1, [&] {
      activity->end();
      return "{}"s;
    });
    CHECK(heard.take() == changed_then_ended);
  }
  SECTION("destroying it") {
    activity->report_change(1, [&] {
      activity.reset();
      return "{}"s;
    });
    CHECK(heard.take() == changed_then_ended);
  }
}

TEST_CASE("an activity with a context begins under that one, and one without under the ambient one, as its current one") {
  StartTracker tracker;
  const Context request = Context(TraceId{1, 2}, SpanId{3}).with_request_id("r1");
  const Context ambient = Context(TraceId{4, 5}, SpanId{6}).with_request_id("r2");
  ContextScope scope(ambient);
  { Activity activity = tracker.start(request, "do", "it"); }
  CHECK(tracker.context == request);
  CHECK_FALSE(tracker.current);
  { Activity activity = tracker.start("do", "it", {{"a", 1}}); }
  CHECK(tracker.context == ambient);
  CHECK(tracker.current);
  CHECK(Context::current() == ambient);
}

TEST_CASE("inside an activity the context is what its trackers make of it, in their order") {
  Heard heard;
  Recorder a(heard, "a"), b(heard, "b");
  ChainedTracker chain(a, b);
  const Context outer = nowhere.with_request_id("r");
  Activity activity = chain.start(outer, "do", "it");
  CHECK(activity.inside(outer).request_id() == "rab");
  activity.end();
  CHECK(activity.inside(outer) == outer);
  CHECK(Activity().inside(outer) == outer);
}

TEST_CASE("no two activities have one id, and all trackers of one see the same") {
  constexpr int threads = 8, each = 100'000;
  std::vector<StartTracker> trackers(threads);
  std::vector<std::thread> running;
  for (StartTracker& tracker : trackers)
    running.emplace_back([&tracker] {
      tracker.begun.reserve(each);
      for (int i = 0; i < each; ++i) Activity activity = tracker.start(nowhere, "count", "activity");
    });
  for (std::thread& thread : running) thread.join();
  std::vector<std::uint64_t> all;
  for (const StartTracker& tracker : trackers) all.insert(all.end(), tracker.begun.begin(), tracker.begun.end());
  CHECK(all.size() == threads * each);
  std::sort(all.begin(), all.end());
  CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
  CHECK(all.front() != 0);

  StartTracker one, two;
  ChainedTracker chain(one, two);
  Activity activity = chain.start(nowhere, "count", "activity");
  CHECK(one.begun == two.begun);
  CHECK_FALSE(std::binary_search(all.begin(), all.end(), one.begun.front()));
}

TEST_CASE("an activity may end on another thread than it began on") {
  Heard heard;
  Recorder tracker(heard, "t");
  for (int i = 0; i < 100; ++i) {
    Activity activity = tracker.start(nowhere, "hand", "over");
    std::thread([activity = std::move(activity)]() mutable {
      activity.report_change(1);
      Activity last = std::move(activity);
    }).join();
    REQUIRE(heard.take() == Lines{"t started hand over", "t changed 1", "t ended", "t gone"});
  }
  // And the other way round, from a thread that is gone.
  std::optional<Activity> activity;
  std::thread([&] { activity = tracker.start(nowhere, "hand", "back"); }).join();
  activity.reset();
  CHECK(heard.take() == Lines{"t started hand back", "t ended", "t gone"});
}

TEST_CASE("many activities are open at once, and end in any order") {
  Heard heard;
  Recorder tracker(heard, "t");
  std::vector<Activity> open;
  for (int i = 0; i < 200; ++i) open.push_back(tracker.start(nowhere, "open", "many"));
  for (std::size_t i = 0; i < open.size(); i += 2) open[i].end();
  open.erase(open.begin(), open.begin() + 50);
  open.clear();
  const Lines lines = heard.take();
  CHECK(std::count(lines.begin(), lines.end(), "t started open many") == 200);
  CHECK(std::count(lines.begin(), lines.end(), "t ended") == 200);
  CHECK(std::count(lines.begin(), lines.end(), "t gone") == 200);
}

TEST_CASE("threads that start and end activities of one tracker do not disturb each other") {
  struct Counts : ActivityTracker {
    struct Following : Tracking {
      explicit Following(std::atomic<int>& e) : ended_(e) {}
      void ended() override { ++ended_; }
      std::atomic<int>& ended_;
    };
    void started(ActivityStart& start) override { start.follow<Following>(ended); }
    std::atomic<int> ended{0};
  } tracker;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 2'000; ++k) {
        Activity outer = tracker.start(nowhere, "do", "it"), inner = tracker.start("do", "more");
        outer.report_change(k);
        outer.end();
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(tracker.ended == 8 * 2 * 2'000);
}

TEST_CASE("a thread that is cancelled in a tracker ends after the activity was told to everybody") {
  /// Reaches a cancellation point wherever it is called.
  struct Waits : ActivityTracker {
    struct Following : Tracking {
      explicit Following(std::atomic<int>& l) : left(l) {}
      ~Following() override { pass(); }
      void failed(const ActivityError&) override { pass(); }
      void changed(ActivityChange&) override { pass(); }
      void ended() override { pass(); }
      void pass() {
        pthread_testcancel();
        ++left;
      }
      std::atomic<int>& left;
    };
    void started(ActivityStart& start) override { start.follow<Following>(left); }
    std::atomic<int> left{0};
  } waits;
  Heard heard;
  Recorder recorder(heard, "r");
  ChainedTracker chain(waits, recorder);
  bool went_on = false;
  PosixThread thread([&] {
    Activity activity = chain.start(nowhere, "be", "cancelled");
    Activity at_exit = chain.start(nowhere, "be", "cancelled");
    pthread_cancel(pthread_self());  // takes effect at the next cancellation point that is not in a tracker
    activity.report_error("one");
    activity.report_change(1, [] {
      pthread_testcancel();
      return "two"s;
    });
    activity.end();
    pthread_testcancel();
    went_on = true;
  });
  thread.join();
  CHECK_FALSE(thread.returned());
  CHECK_FALSE(went_on);
  CHECK(waits.left == 6);
  CHECK(heard.take() == Lines{"r started be cancelled", "r started be cancelled", "r failed one", "r changed 1: two", "r ended", "r gone",
                              "r ended", "r gone"});
}

TEST_CASE("a thread is not cancelled while it makes data, even if its trackers take care of themselves") {
  Quick quick;
  PosixThread thread([&] {
    Activity activity = quick.start(nowhere, "be", "cancelled");
    pthread_cancel(pthread_self());
    activity.report_change(1, [] {
      pthread_testcancel();
      return "made"s;
    });
    activity.end();
    pthread_testcancel();
  });
  thread.join();
  CHECK_FALSE(thread.returned());
  CHECK(quick.data == "made");
}

TEST_CASE("a thread that is cancelled while a tracker hears of the start ends, and so does the activity") {
  struct Waits : ActivityTracker {
    void started(ActivityStart&) override { pthread_testcancel(); }
  } waits;
  Heard heard;
  Recorder recorder(heard, "r"), unreached(heard, "u");
  ChainedTracker inner(recorder, waits, unreached);
  ChainedTracker chain(inner, unreached);
  const std::uint64_t exceptions = activity_stats().exceptions;
  bool went_on = false;
  PosixThread thread([&] {
    pthread_cancel(pthread_self());
    Activity activity = chain.start(nowhere, "be", "cancelled");
    went_on = true;
  });
  thread.join();
  CHECK_FALSE(went_on);
  CHECK(heard.take() == Lines{"r started be cancelled", "r ended", "r gone"});
  CHECK(activity_stats().exceptions == exceptions);
}

TEST_CASE("a program with no tracker uses the one that follows nothing") {
  for (int i = 0; i < 3; ++i) {
    Activity activity = noop_tracker().start("do", "it", {{"i", i}});
    CHECK_FALSE(activity.tracked());
    activity.report_error("unheard");
    activity.report_change(i, [] { return "unmade"s; });
    CHECK(activity.inside(nowhere) == nowhere);
  }
  CHECK(&noop_tracker() == &noop_tracker());
}

#if !defined(WEIR_TESTS_TSAN)  // fork and ThreadSanitizer do not mix

TEST_CASE("after a fork parent and child each end the activities that were open") {
  Heard heard;
  Recorder tracker(heard, "t");
  Activity activity = tracker.start(nowhere, "survive", "fork");
  heard.take();
  const Child child = in_a_child([&] {
    activity.report_change("child");
    activity.end();
    Activity another = tracker.start(nowhere, "start", "child");
    std::thread([&] { another.end(); }).join();
    const Lines lines = heard.take();
    return lines == Lines{"t changed child", "t ended", "t gone", "t started start child", "t ended", "t gone"} ? 0 : 1;
  });
  CHECK(child.code() == 0);
  CHECK(child.text.empty());
  activity.report_change("parent");
  activity.end();
  CHECK(heard.take() == Lines{"t changed parent", "t ended", "t gone"});
}

TEST_CASE("a child that is forked while other threads use activities goes on to use them") {
  std::atomic<bool> stop{false};
  std::atomic<int> running{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      StartTracker own;
      ++running;
      while (!stop) {
        Activity activity = own.start(nowhere, "run", "on");
        own.begun.clear();
      }
    });
  while (running < 3) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) {
    const Child child = in_a_child(
        [&] {
          int ended = 0;
          for (int k = 0; k < 100; ++k) {
            StartTracker own;
            Activity activity = own.start("run", "child");
            ended += own.begun.size() == 1;
          }
          return ended == 100 ? 0 : 1;
        },
        20);
    INFO("child " << i << ": " << child.text);
    CHECK(child.code() == 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

#endif
