// What exit_test runs: exit_program SCENARIO. Activities at the ends of threads and of the process. Ends with status 0; with
// another one where something was not heard.
#include <pthread.h>
#include <unistd.h>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "weir/activity/tracker.hpp"

namespace {

class Counts : public weir::ActivityTracker {
 public:
  std::atomic<int> starts{0}, changes{0}, ends{0};

 private:
  struct Following : weir::Tracking {
    explicit Following(Counts& c) : counts(c) {}
    void changed(weir::ActivityChange&) override { ++counts.changes; }
    void ended() override { ++counts.ends; }
    Counts& counts;
    std::string text = "something that is freed only if the tracking is destroyed";
  };
  void started(weir::ActivityStart& start) override {
    ++starts;
    start.follow<Following>(*this);
  }
};

/// Never destroyed: it outlives all activities.
Counts& counts() {
  static Counts* const all = new Counts;
  return *all;
}

[[noreturn]] void fail(int status) { ::_exit(status); }

void use_activities(int status) {
  Counts& all = counts();
  const int starts = all.starts, changes = all.changes, ends = all.ends;
  {
    weir::ChainedTracker chain(all, weir::noop_tracker());
    weir::Activity activity = chain.start(weir::Context(), "do", "it");
    weir::Activity current = all.start("do", "more");
    activity.report_change(1, [] { return std::string("{}"); });
  }
  if (all.starts != starts + 2 || all.changes != changes + 1 || all.ends != ends + 2) fail(status);
  weir::Activity unheard = weir::noop_tracker().start("do", "it");
}

template <int Status>
struct AtDestruction {
  bool on = false;
  std::optional<weir::Activity> open{};
  ~AtDestruction() {
    if (!on) return;
    if (open) {
      const int ends = counts().ends;
      open.reset();
      if (counts().ends != ends + 1) fail(Status + 1);
    }
    use_activities(Status);
  }
};

// Made before anything else, destroyed last.
AtDestruction<20> early_static;
/// Set by a thread that ends: what its last destructor saw.
std::atomic<int> keys_destroyed{0};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const std::string scenario = arguments[1];
  if (scenario == "static destructors, before and after") {
    early_static.on = true;
    early_static.open = counts().start(weir::Context(), "stay", "open");
    static AtDestruction<30> late_static;
    late_static.on = true;
    late_static.open = counts().start(weir::Context(), "stay", "open");
    return 0;
  }
  use_activities(10);
  if (scenario == "an atexit handler") {
    std::atexit([] { use_activities(40); });
    return 0;
  }
  if (scenario == "inside an activity") {
    weir::Activity activity = counts().start("call", "exit");
    std::exit(0);
  }
  if (scenario == "thread_local destructors") {
    thread_local AtDestruction<50> of_main;
    of_main.on = true;
    of_main.open = counts().start("stay", "open");
    std::thread([] {
      thread_local AtDestruction<60> of_thread;
      of_thread.on = true;
      of_thread.open = counts().start("stay", "open");
    }).join();
    std::thread([] {  // which has used none before
      thread_local AtDestruction<70> of_thread;
      of_thread.on = true;
    })
        .join();
    if (counts().ends != counts().starts - 1) fail(80);
    return 0;
  }
  if (scenario == "destructors of thread-specific data") {  // run when weir's own have run, too
    static pthread_key_t key;
    if (pthread_key_create(&key, [](void* round) {
          use_activities(90);
          ++keys_destroyed;
          const auto left = reinterpret_cast<std::uintptr_t>(round) - 1;
          if (left != 0) pthread_setspecific(key, reinterpret_cast<void*>(left));
        }) != 0)
      return 3;
    std::thread([] {
      pthread_setspecific(key, reinterpret_cast<void*>(std::uintptr_t{2}));
      use_activities(91);
    }).join();
    return keys_destroyed == 2 ? 0 : 92;
  }
  if (scenario == "main leaves by pthread_exit") {
    static weir::Activity open = counts().start("stay", "open");
    std::thread([main_thread = pthread_self()] {
      pthread_join(main_thread, nullptr);
      use_activities(100);
      std::exit(0);
    }).detach();
    pthread_exit(nullptr);
  }
  if (scenario == "quick_exit") {
    std::at_quick_exit([] { use_activities(110); });
    std::quick_exit(0);
  }
  if (scenario == "trackers that throw") {
    struct Throws : weir::ActivityTracker {
      struct Following : weir::Tracking {
        void ended() override { throw std::runtime_error("the disk\nis full"); }
      };
      void started(weir::ActivityStart& start) override {
        start.follow<Following>();
        throw 1;
      }
    } throws;
    for (int i = 0; i < 100; ++i) weir::Activity activity = throws.start("do", "it");
    return weir::activity_stats().exceptions == 200 ? 0 : 120;
  }
  if (scenario == "a tracker that throws at the end") {
    struct LastWords : weir::ActivityTracker {
      struct Following : weir::Tracking {
        void ended() override { throw std::runtime_error("the disk\nis full"); }
      };
      void started(weir::ActivityStart& start) override { start.follow<Following>(); }
    } throws;
    for (int i = 0; i < 100; ++i) weir::Activity activity = throws.start("do", "it");
    return weir::activity_stats().exceptions == 100 ? 0 : 120;
  }
  return 2;
}
