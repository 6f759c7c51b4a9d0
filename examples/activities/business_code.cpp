// Tests business code by what it says it does: a tracker that writes that down.

#include <cstdio>
#include <string>
#include <vector>
#include <weir/activity/tracker.hpp>

#include "service.hpp"

class Recorder : public weir::ActivityTracker {
 public:
  std::vector<std::string> lines;

 private:
  struct Following : weir::Tracking {
    explicit Following(std::vector<std::string>& l) : lines(l) {}
    void failed(const weir::ActivityError& error) override { lines.push_back("failed: " + std::string(error.text)); }
    void changed(weir::ActivityChange& change) override {
      if (change.json()) lines.push_back("changed " + std::to_string(change.id().integer()) + ": " + *change.json());
    }
    void ended() override { lines.push_back("ended"); }
    std::vector<std::string>& lines;
  };
  void started(weir::ActivityStart& start) override {
    lines.push_back(std::string(start.operation()) + ' ' + std::string(start.subject()));
    start.follow<Following>(lines);
  }
};

bool a_withdrawal_changes_the_account() {
  Recorder recorder;
  Accounts accounts(recorder);
  return accounts.withdraw({}, 1, 30).value_or(0) == 70 &&
         recorder.lines == std::vector<std::string>{"withdraw account", "changed 1: {\"balance\":70}", "ended"};
}

bool too_much_is_an_error() {
  Recorder recorder;
  Accounts accounts(recorder);
  return !accounts.withdraw({}, 2, 30) &&
         recorder.lines == std::vector<std::string>{"withdraw account", "failed: not enough money", "ended"};
}

bool nobody_need_follow() { return Accounts().withdraw({}, 1, 100).value_or(-1) == 0; }

int main() {
  const bool passed = a_withdrawal_changes_the_account() && too_much_is_an_error() && nobody_need_follow();
  std::puts(passed ? "passed" : "failed");
  return passed ? 0 : 1;
}
