// Two trackers of one's own: one that counts outcomes, and one that stands before another and lets only some activities pass.

#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <weir/activity/tracker.hpp>

#include "service.hpp"

// How often each kind of activity was done, and how often it failed.
class Outcomes : public weir::ActivityTracker {
 public:
  void print() {
    std::lock_guard lock(mutex_);
    for (const auto& [kind, counts] : counts_) std::printf("%s: %d, %d failed\n", kind.c_str(), counts.all, counts.failed);
  }

 private:
  struct Counts {
    int all = 0, failed = 0;
  };
  struct Following : weir::Tracking {  // one activity, as this tracker sees it
    Following(Outcomes& o, std::string k) : outcomes(o), kind(std::move(k)) {}

    void failed(const weir::ActivityError&) override { has_failed = true; }
    void ended() override { outcomes.count(kind, has_failed); }

    Outcomes& outcomes;
    std::string kind;
    bool has_failed = false;  // an activity may report several errors
  };

  void started(weir::ActivityStart& start) override {
    start.follow<Following>(*this, std::string(start.operation()) + ' ' + std::string(start.subject()));  // copies what it keeps
  }
  void count(const std::string& kind, bool failed) {
    std::lock_guard lock(mutex_);
    Counts& counts = counts_[kind];
    ++counts.all;
    counts.failed += failed;
  }

  std::mutex mutex_;
  std::map<std::string, Counts> counts_;  // guarded by mutex_
};

// Lets another tracker hear of large amounts only.
class LargeOnly : public weir::ActivityTracker {
 public:
  LargeOnly(int limit, weir::ActivityTracker& next) : limit_(limit), next_(next) {}

 private:
  void started(weir::ActivityStart& start) override {
    for (const weir::Attribute& attribute : start.attributes())
      if (attribute.key.view() == "amount" && attribute.value.integer() >= limit_) return start.pass_to(next_);
  }

  int limit_;
  weir::ActivityTracker& next_;
};

int main() {
  Outcomes all, large;
  LargeOnly only(50, large);
  for (weir::ActivityTracker* tracker : {static_cast<weir::ActivityTracker*>(&all), static_cast<weir::ActivityTracker*>(&only)}) {
    Accounts accounts(*tracker);
    (void)accounts.withdraw({}, 1, 10);
    (void)accounts.withdraw({}, 1, 50);
    (void)accounts.withdraw({}, 1, 50);
  }
  all.print();
  large.print();
}
