#include "weir/instrument/hash_of.hpp"

#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "support/catch.hpp"

namespace {

struct Service {
  std::string service;
  auto operator<=>(const Service&) const = default;
};
struct Shard {
  Service service;
  int number;
  std::optional<int> zone;
  auto operator<=>(const Shard&) const = default;
};
struct Six {
  int a, b, c, d, e, f;
};
struct Seven {
  int a, b, c, d, e, f, g;
};
struct Unhashable {
  std::vector<std::string> words;
};
struct Nothing {};
class Closed {
 public:
  explicit Closed(int number) : number_(number) {}

 private:
  friend std::size_t hash_value(const Closed& closed) { return static_cast<std::size_t>(closed.number_) * 3; }
  int number_;
};

}  // namespace

TEST_CASE("what can be hashed is known when it is compiled") {
  STATIC_REQUIRE(weir::Hashable<int>);
  STATIC_REQUIRE(weir::Hashable<std::string>);
  STATIC_REQUIRE(weir::Hashable<Service>);
  STATIC_REQUIRE(weir::Hashable<Shard>);
  STATIC_REQUIRE(weir::Hashable<Six>);
  STATIC_REQUIRE(weir::Hashable<Nothing>);
  STATIC_REQUIRE(weir::Hashable<Closed>);
  STATIC_REQUIRE_FALSE(weir::Hashable<Seven>);
  STATIC_REQUIRE_FALSE(weir::Hashable<Unhashable>);
}

TEST_CASE("equal values have equal hashes, and every member counts") {
  const auto shard = [](std::string service, int number, std::optional<int> zone) {
    return weir::hash_of(Shard{{std::move(service)}, number, zone});
  };
  CHECK(shard("checkout", 1, 2) == shard("checkout", 1, 2));
  const std::unordered_set<std::size_t> hashes{shard("checkout", 1, 2), shard("cart", 1, 2), shard("checkout", 2, 2),
                                               shard("checkout", 1, 3), shard("checkout", 1, {})};
  CHECK(hashes.size() == 5);
  std::unordered_set<std::size_t> sixes;
  for (int member = 0; member < 6; ++member) {
    int values[6] = {};
    values[member] = 7;
    sixes.insert(weir::hash_of(Six{values[0], values[1], values[2], values[3], values[4], values[5]}));
  }
  CHECK(sixes.size() == 6);
}

TEST_CASE("std::hash comes first, then hash_value()") {
  CHECK(weir::hash_of(std::string("x")) == std::hash<std::string>{}("x"));
  CHECK(weir::hash_of(Closed{5}) == 15);
}
