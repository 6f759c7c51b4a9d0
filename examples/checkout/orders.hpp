#pragma once
// The business code: it takes orders, and says what it is doing to what. Who wants to know that is wired in main.cpp.

#include <weir/activity/activity.hpp>

#include <cstdint>
#include <string>
#include <variant>

#include "database.hpp"

namespace checkout {

struct NewOrder {
  std::string customer;
  std::int64_t product = 0, quantity = 0;
};

struct Refused {
  int status;
  std::string reason;
};

/// The number of the order, if it was taken.
std::variant<std::int64_t, Refused> place_order(Database& db, weir::ActivityTracker& tracker, const NewOrder& order);

}  // namespace checkout
