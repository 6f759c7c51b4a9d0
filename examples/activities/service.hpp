#pragma once
// The business code of this folder: accounts. It knows the facade, and nothing of what becomes of its activities.

#include <map>
#include <string>
#include <system_error>
#include <weir/activity/activity.hpp>

class Accounts {
 public:
  explicit Accounts(weir::ActivityTracker& tracker = weir::noop_tracker()) : tracker_(tracker) {}

  /// The new balance. Error: no such account, or too little on it.
  weir::Result<int> withdraw(const weir::Context& context, int account, int amount);

 private:
  weir::ActivityTracker& tracker_;
  std::map<int, int> balances_{{1, 100}, {2, 20}};
};

inline weir::Result<int> Accounts::withdraw(const weir::Context& context, int account, int amount) {
  weir::Activity activity = tracker_.start(context, "withdraw", "account", {{"account_id", account}, {"amount", amount}});
  const auto found = balances_.find(account);
  if (found == balances_.end() || found->second < amount) {
    const weir::Error error{{}, found == balances_.end() ? "no such account" : "not enough money"};
    activity.report_error(error);
    return error;
  }
  found->second -= amount;
  activity.report_change(account, [&] { return "{\"balance\":" + std::to_string(found->second) + "}"; });  // made if somebody wants it
  return found->second;
}
