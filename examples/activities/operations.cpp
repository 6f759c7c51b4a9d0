// Activities that listeners of operations hear, and operations that run inside activities.

#include <cstdio>
#include <string>
#include <utility>
#include <weir/activity/operation_tracker.hpp>
#include <weir/operation/operation.hpp>

#include "service.hpp"

struct QuerySql {
  struct Args {
    std::string_view statement;
  };
  struct Result {};
};

void print_activities(weir::Root& root) {
  using weir::ActivityOperation;
  root.on_start<ActivityOperation>([](const ActivityOperation::Args& args) { std::printf("%s: begins\n", args.title().c_str()); });
  root.on_finish<ActivityOperation>([](weir::Op<ActivityOperation>& activity, const ActivityOperation::Result& result) {
    std::printf("%s %s: ends, %d errors, %d changes\n", activity->operation.c_str(), activity->subject.c_str(),
                static_cast<int>(result.errors), static_cast<int>(result.changes));
  });
  root.on_start<QuerySql>([](weir::Op<QuerySql>& query, const QuerySql::Args& args) {  // what for?
    const auto* activity = query.find<ActivityOperation>();
    std::printf("  %s, to %s\n", std::string(args.statement).c_str(), activity != nullptr ? (*activity)->operation.c_str() : "nothing");
  });
}

int main() {
  weir::Root root;
  print_activities(root);
  weir::RootScope installed{std::move(root)};

  weir::OperationTracker tracker;
  Accounts accounts(tracker);
  (void)accounts.withdraw({}, 1, 30);
  weir::Activity activity = tracker.start("close", "account");  // the thread's current operation until it ends
  weir::Op<QuerySql>{{"DELETE FROM accounts"}};
}
