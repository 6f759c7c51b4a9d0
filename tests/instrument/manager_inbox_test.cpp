#include "instrument/manager_inbox.hpp"

#include "support/catch.hpp"
#include "support/fake_detector.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

class NumberGroup final : public detail::AnyGroup {
 public:
  explicit NumberGroup(int number) : AnyGroup(0), number_(number) {}  // all hashes collide
  bool equals(const AnyGroup& other) const override { return number_ == static_cast<const NumberGroup&>(other).number_; }

 private:
  int number_;
};

detail::GroupKey group(int number) { return std::make_shared<NumberGroup>(number); }

}  // namespace

TEST_CASE("events beyond the bound are lost and counted, but not exits") {
  detail::Inbox inbox;
  for (std::size_t event = 0; event < detail::Inbox::max_waiting + 3; ++event) inbox.event(exec_of(1, "/bin/app"));
  ProcessEvent exit;
  exit.type = ProcessEvent::Type::exit;
  inbox.event(exit);
  CHECK(inbox.lost_events() == 3);
  CHECK(inbox.take({}).messages.size() == detail::Inbox::max_waiting + 1);
  inbox.event(exec_of(1, "/bin/app"));
  CHECK(inbox.take({}).messages.size() == 1);
  CHECK(inbox.lost_events() == 3);
}

TEST_CASE("of configurations the newest of each group is kept") {
  detail::Inbox inbox;
  for (int level = 0; level < 1000; ++level) inbox.config({{group(level % 2), {{"level", std::int64_t{level}}}}});
  const auto batch = inbox.take({});
  REQUIRE(batch.configs.size() == 2);
  CHECK(batch.configs.at(group(0)) == Config{{"level", std::int64_t{998}}});
  CHECK(batch.configs.at(group(1)) == Config{{"level", std::int64_t{999}}});
}

TEST_CASE("what comes in after the end is dropped") {
  detail::Inbox inbox;
  inbox.request(RetryFailed{});
  CHECK(inbox.close().messages.size() == 1);  // whose end is the caller's
  inbox.event(exec_of(1, "/bin/app"));
  inbox.request(RetryFailed{});
  inbox.config({{group(1), {}}});
  inbox.post(detail::DetectorEnded{});
  inbox.wake();
  const auto batch = inbox.take({});
  CHECK(batch.messages.empty());
  CHECK(batch.configs.empty());
}
