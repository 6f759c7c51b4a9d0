// Several trackers hear of every activity.

#include <cstdio>
#include <memory>
#include <string>
#include <weir/activity/tracker.hpp>

#include "service.hpp"

// Says what fails.
class Alarm : public weir::ActivityTracker {
  struct Following : weir::Tracking {
    void failed(const weir::ActivityError& error) override { std::printf("alarm: %s\n", std::string(error.text).c_str()); }
  };
  void started(weir::ActivityStart& start) override { start.follow<Following>(); }
};

// Says what changes.
class Changes : public weir::ActivityTracker {
  struct Following : weir::Tracking {
    void changed(weir::ActivityChange& change) override {
      if (change.json()) std::printf("changed: %s\n", change.json()->c_str());
    }
  };
  void started(weir::ActivityStart& start) override { start.follow<Following>(); }
};

void use(weir::ActivityTracker& tracker) {
  Accounts accounts(tracker);
  (void)accounts.withdraw({}, 1, 30);
  (void)accounts.withdraw({}, 3, 30);
}

// main owns all of them.
void wire() {
  Alarm alarm;
  Changes changes;
  weir::ChainedTracker chain(alarm, changes);
  use(chain);
}

// The chain owns its members, which somebody else has chosen.
void wire_chosen(bool with_changes) {
  auto chain = weir::ChainedTracker::create({std::make_shared<Alarm>(), with_changes ? std::make_shared<Changes>() : nullptr});
  if (chain)
    use(*chain);
  else
    std::printf("%s\n", chain.error().message.c_str());
}

int main() {
  wire();
  wire_chosen(true);
  wire_chosen(false);
}
