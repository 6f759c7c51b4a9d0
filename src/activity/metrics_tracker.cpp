#include "weir/activity/metrics_tracker.hpp"

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>

#include "activity/fork_mutex.hpp"
#include "weir/core/detail/immortal.hpp"
#include "weir/core/detail/tick_rate.hpp"
#include "weir/operation/operation.hpp"
#include "weir/telemetry/detail/metric_kinds.hpp"

namespace weir::inline v0 {

/// What is behind a tracker. Kept by it, and by the threads on which activities have ended.
struct MetricsTracker::State {
  State(Telemetry telemetry, const Clock* its_clock) : kinds(std::move(telemetry), "activity", true), clock(its_clock) {}

  void unref() noexcept {
    if (references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  detail::MetricKinds kinds;
  detail::TickRate clock;
  std::uint64_t id = 0;             // of no other
  std::atomic<bool> closed{false};  // the tracker is gone
  std::atomic<std::uint64_t> references{1};
  State* next = nullptr;  // guarded by the mutex of States
};

/// Finds a state by its id, for an activity that may have outlived it. A thread that has found one keeps it, because counting
/// references to it for each activity would be a write to what all threads share.
struct MetricsTracker::States {
  /// The state; nullptr if its tracker is gone.
  class Use {
   public:
    explicit Use(std::uint64_t id) noexcept {
      for (const Kept& known : mine.kept)
        if (known.id == id) {
          state_ = known.state;
          return;
        }
      find(id);
    }
    ~Use() {
      if (counted_) state_->unref();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    State* operator->() const noexcept { return state_; }
    explicit operator bool() const noexcept { return state_ != nullptr && !state_->closed.load(std::memory_order_relaxed); }

   private:
    [[gnu::noinline]] void find(std::uint64_t id) noexcept {
      {
        std::lock_guard lock(all().mutex);
        state_ = all().first;
        while (state_ != nullptr && state_->id != id) state_ = state_->next;
        if (state_ == nullptr) return;
        state_->references.fetch_add(1, std::memory_order_relaxed);
      }
      counted_ = !keep(*state_);
    }

    State* state_ = nullptr;
    bool counted_ = false;
  };

  static void add(State& state) {
    States& states = all();
    std::lock_guard lock(states.mutex);
    state.id = ++states.last_id;
    state.next = states.first;
    states.first = &state;  // in the child of a fork that comes now, it is there or it is not
  }
  static void remove(State& state) noexcept {
    state.closed.store(true, std::memory_order_relaxed);
    {
      std::lock_guard lock(all().mutex);
      State** link = &all().first;
      while (*link != nullptr && *link != &state) link = &(*link)->next;
      if (*link != nullptr) *link = state.next;
    }
    state.unref();
  }

 private:
  struct Kept {
    std::uint64_t id;
    State* state;
  };
  struct Thread {
    std::array<Kept, 4> kept;
    std::size_t next;  // to be replaced
  };
  static constinit thread_local Thread mine;

  static States& all() {
    static detail::Immortal<States> states;
    return states.value;
  }
  /// Takes over a reference, until the thread ends. False if it cannot.
  static bool keep(State& state) noexcept {
    // A key's destructor runs after those of all thread_local objects, in which activities may end.
    static const std::pair<bool, pthread_key_t> key = [] {
      pthread_key_t made{};
      const bool is_made = pthread_key_create(&made, &end_thread) == 0;
      return std::pair(is_made, made);
    }();
    if (!key.first || pthread_setspecific(key.second, &mine) != 0) return false;
    Kept* place = &mine.kept[mine.next++ % mine.kept.size()];
    for (Kept& known : mine.kept)
      if (known.state == nullptr || known.state->closed.load(std::memory_order_relaxed)) place = &known;
    const Kept old = std::exchange(*place, Kept{state.id, &state});
    if (old.state != nullptr) old.state->unref();
    return true;
  }
  static void end_thread(void*) noexcept {
    for (Kept& kept : mine.kept)
      if (State* const state = std::exchange(kept, Kept{}).state) state->unref();
  }

  detail::ForkMutex mutex;
  // Guarded by the mutex.
  State* first = nullptr;
  std::uint64_t last_id = 0;
};

constinit thread_local MetricsTracker::States::Thread MetricsTracker::States::mine{};

struct MetricsTracker::Following final : Tracking {
  static constexpr bool blocks = false;

  Following(std::uint64_t id, const detail::MetricKind& its_kind) noexcept : state(id), kind(its_kind) {}

  void failed(const ActivityError&) noexcept override { has_failed = true; }
  void changed(ActivityChange&) noexcept override { has_changed = true; }
  void ended() noexcept override {
    const States::Use use(state);
    if (!use) return;
    kind.duration.record(use->clock.seconds(begin, use->clock.now()));
    if (has_failed || left_by_an_exception()) kind.errors.increment();
    if (has_changed) kind.changes.increment();
  }

  bool left_by_an_exception() const noexcept {
    return exceptions != nullptr && exceptions == detail::this_slot()->exceptions && exceptions->uncaught > uncaught;
  }

  const std::uint64_t state;
  const detail::MetricKind& kind;  // the state's
  std::uint64_t begin = 0;
  const detail::ExceptionGlobals* exceptions = nullptr;  // of the thread, if it began under its ambient context
  unsigned uncaught = 0;                                 // when it began
  bool has_failed = false, has_changed = false;
};

MetricsTracker::MetricsTracker(Telemetry telemetry, MetricsTrackerOptions options)
    : state_(new State(std::move(telemetry), options.clock)) {
  States::add(*state_);
}

MetricsTracker::~MetricsTracker() { States::remove(*state_); }

void MetricsTracker::started(ActivityStart& start) {
  const detail::MetricKind* const kind = state_->kinds.find(start.operation(), start.subject());
  if (kind == nullptr) return;
  Following& following = start.follow<Following>(state_->id, *kind);
  if (start.current()) {
    following.exceptions = detail::this_slot()->exceptions;
    if (following.exceptions != nullptr) following.uncaught = following.exceptions->uncaught;
  }
  following.begin = state_->clock.now();
}

}  // namespace weir::inline v0
