#pragma once
// ScriptedTransport: an endpoint that answers what the test has written, and can hold a try.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "weir/telemetry/transport.hpp"

namespace weir::testing {

inline Delivery answer(int status, std::string body = "{}", std::string type = "application/json", std::string retry_after = {}) {
  return Delivery::answered({status, std::move(type), std::move(retry_after), std::move(body)});
}
inline Delivery no_connection() { return Delivery::not_sent({std::make_error_code(std::errc::connection_refused), "nobody is there"}); }
inline Delivery no_answer() { return Delivery::unknown({std::make_error_code(std::errc::timed_out), "no answer came"}); }

/// What is not in the script is answered 200 without a wish. Copies share everything. Thread-safe.
class ScriptedTransport final : public Transport {
 public:
  struct Seen {
    std::string instance_id, update_id, body;
    nlohmann::json data() const { return nlohmann::json::parse(body).at("data"); }
    friend bool operator==(const Seen&, const Seen&) = default;
  };

  Delivery send(const Update& update, const StopToken& stop) noexcept override {
    State& state = *state_;
    const StopCallback callback(stop, [&] {
      const std::lock_guard lock(state.mutex);
      state.changed.notify_all();
    });
    std::unique_lock lock(state.mutex);
    state.seen.push_back({std::string(update.instance_id), std::string(update.update_id), std::string(update.body)});
    ++state.inside;
    state.changed.notify_all();
    bool stopped = false;
    while (state.held && !stopped) {
      state.changed.wait(lock);
      lock.unlock();
      stopped = !state.stubborn && stop.stop_requested();
      lock.lock();
    }
    --state.inside;
    state.changed.notify_all();
    if (stopped) return Delivery::unknown({std::make_error_code(std::errc::operation_canceled), "it was told to stop"});
    if (state.script.empty()) return state.otherwise;
    Delivery next = std::move(state.script.front());
    state.script.pop_front();
    return next;
  }
  std::string endpoint() const override { return "script"; }

  /// These next.
  void then(std::initializer_list<Delivery> deliveries) {
    const std::lock_guard lock(state_->mutex);
    state_->script.insert(state_->script.end(), deliveries.begin(), deliveries.end());
  }
  void otherwise(Delivery delivery) {
    const std::lock_guard lock(state_->mutex);
    state_->otherwise = std::move(delivery);
  }
  /// Tries are held from now on. `stubborn`: their token does not end them.
  void hold(bool stubborn = false) {
    const std::lock_guard lock(state_->mutex);
    state_->held = true;
    state_->stubborn = stubborn;
  }
  void let_go() {
    const std::lock_guard lock(state_->mutex);
    state_->held = false;
    state_->changed.notify_all();
  }
  /// All tries, when there have been `number` of them.
  std::vector<Seen> seen(std::size_t number) {
    std::unique_lock lock(state_->mutex);
    const bool there = state_->changed.wait_for(lock, std::chrono::seconds{60}, [&] { return state_->seen.size() >= number; });
    REQUIRE(there);
    return state_->seen;
  }
  std::size_t count() {
    const std::lock_guard lock(state_->mutex);
    return state_->seen.size();
  }
  /// Until no try is inside.
  void wait_until_empty() {
    std::unique_lock lock(state_->mutex);
    const bool there = state_->changed.wait_for(lock, std::chrono::seconds{60}, [&] { return state_->inside == 0; });
    REQUIRE(there);
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Delivery> script;
    Delivery otherwise = answer(200);
    std::vector<Seen> seen;
    bool held = false, stubborn = false;
    int inside = 0;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace weir::testing
