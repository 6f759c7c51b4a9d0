#include "instrument/manager_loop.hpp"

#include <algorithm>

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t max_stop_workers = 64;
constexpr std::size_t max_named = 20;  // processes that are left, in the log

/// What is left when the time is up: closed and destroyed by threads that nobody waits for, as both are the user's code.
struct Leftovers {
  void clean() {
    for (std::size_t index = next++; index < done.size() + live.size(); index = next++) {
      (void)guarded<void>([&]() -> Result<void> {
        if (index < done.size()) {
          done[index]->late();
          return {};
        }
        Instance& instance = *live[index - done.size()];
        instance.stop.request_stop();
        return instance.applying ? Result<void>() : instance.close();
      });
    }
  }

  std::unordered_map<pid_t, Slot> slots;
  std::map<pid_t, ManagedRow> rows;
  std::deque<std::shared_ptr<Job>> dropped;       // were not begun
  std::vector<std::shared_ptr<Job>> done;         // nobody took what they came to
  std::vector<std::shared_ptr<Instance>> live{};  // were loaded
  std::atomic<std::size_t> next{0};
};

}  // namespace

bool ManagerLoop::close_one(Slot& slot) {
  Process& process = *slot.process;
  std::shared_ptr<Instance> instance;
  if (process.instance != nullptr) {
    instance = std::move(process.instance);
  } else if (!process.generics.empty()) {
    instance = std::move(process.generics.front());
    process.generics.erase(process.generics.begin());
  } else {
    return false;
  }
  process.state = ProcessState::closing;
  close(slot, std::move(instance));
  return true;
}

void ManagerLoop::close(Slot& slot, std::shared_ptr<Instance> instance, bool call_close) {
  slot.busy = true;
  slot.closing = std::move(instance);
  slot.close_error.reset();
  if (!slot.closing->generic) uncount(*slot.process);
  publish(slot);
  const auto work = [closing = slot.closing, call_close](const StopToken&) -> Result<void> {
    closing->stop.request_stop();
    return call_close ? closing->close() : Result<void>();
  };
  call<void>(slot.pid, "close", work, [this, &slot](Outcome<void> outcome) {
    if (!outcome.result) {
      slot.close_error = outcome.result.error();
      if (!outcome.given_up) {
        log(Logger::Level::warning, "manager: an instrumentation failed to close", slot.pid, {{"error", slot.close_error->message}});
      }
    }
    if (!slot.closing->started || slot.closing->ended) return closed(slot);
    wait_for_run(slot, Clock::now() + (outcome.given_up ? std::chrono::milliseconds(0) : parts_.step_timeout));
  });
}

void ManagerLoop::wait_for_run(Slot& slot, Clock::time_point until) {
  slot.run_deadline = until;
  waiting_.insert(slot.pid);
}

void ManagerLoop::closed(Slot& slot) {
  slot.run_deadline.reset();
  waiting_.erase(slot.pid);
  std::shared_ptr<Instance> instance = std::move(slot.closing);
  std::optional<Error> error = instance->run_error ? instance->run_error : slot.close_error;
  if (instance->started && !instance->ended) {
    error = late_error("run");
    {
      std::lock_guard lock(board_.mutex);
      ++board_.stats.abandoned;
    }
    log(Logger::Level::error, "manager: a call did not return in time and was given up", slot.pid, {{"step", "run"}});
    instance->thread.detach();
  }
  const bool generic = instance->generic;
  if (generic && instance->run_error) {
    log(Logger::Level::warning, "manager: a generic instrumentation failed", slot.pid, {{"error", error->message}});
  }
  const auto released = [this, &slot, generic, error](Outcome<void>) {
    if (generic) return idle(slot);
    const auto work = [calls = calls_, pid = slot.pid, error, details = slot.process->details->value](const StopToken& stop) {
      return calls->on_run(pid, error, details.get(), stop);
    };
    report(slot, "on_run", work, [this, &slot] { idle(slot); });
  };
  auto release = [instance = std::move(instance)](const StopToken&) mutable -> Result<void> {
    if (instance->thread.joinable()) instance->thread.join();
    instance.reset();
    return {};
  };
  call<void>(slot.pid, "release", std::move(release), released);
}

void ManagerLoop::dispose(Slot& slot) {
  slot.busy = true;
  auto release = [instance = std::move(slot.process->fresh)](const StopToken&) mutable -> Result<void> {
    instance.reset();
    return {};
  };
  call<void>(slot.pid, "release", std::move(release), [this, &slot](const Outcome<void>&) { idle(slot); });
}

void ManagerLoop::report_exit(Slot& slot) {
  slot.busy = true;
  slot.process->tracked = false;
  const auto work = [calls = calls_, pid = slot.pid, details = slot.process->details->value](const StopToken& stop) {
    return calls->on_exit(pid, details.get(), stop);
  };
  report(slot, "on_exit", work, [this, &slot] { idle(slot); });
}

// ---- the end

void ManagerLoop::begin_stop() {
  if (stopping_) return;
  stopping_ = true;
  stop_began_ = Clock::now();
  stop_deadline_ = stop_began_ + parts_.stop_timeout;
  call_elsewhere([stop = detector_stop_]() mutable { stop.request_stop(); });
  const auto cancelled = pool_->take_cancellable();  // first: none of them begins unheard while those that run are told
  for (const auto& [job, began] : pool_->running()) {
    if (job->cancellable) call_elsewhere([stop = job->stop]() mutable { stop.request_stop(); });
  }
  pool_->set_workers(std::max(parts_.workers, std::min(max_stop_workers, slots_.size())));
  for (const auto& job : cancelled) {
    job->given_up({std::make_error_code(std::errc::operation_canceled), "the manager stops"});
  }
  std::vector<pid_t> pids;
  pids.reserve(slots_.size());
  for (const auto& [pid, slot] : slots_) pids.push_back(pid);
  for (const pid_t pid : pids) {
    if (const auto slot = slots_.find(pid); slot != slots_.end()) advance(slot->second);
  }
}

bool ManagerLoop::stopped() const {
  const bool told = !telemetry_ || !poll_works_ || (polled_last_ && !polling_);
  return slots_.empty() && detector_ended_ && told && !pool_->works();
}

void ManagerLoop::finish() {
  auto left = std::make_shared<Leftovers>();
  left->dropped = pool_->end();
  for (const auto& [job, began] : pool_->running()) (void)give_up(*job);
  pool_->join();
  if (detector_ended_) {
    detector_thread_.join();
  } else {
    {
      std::lock_guard lock(board_.mutex);
      ++board_.stats.abandoned;
    }
    log(Logger::Level::error, "manager: the detector did not end in time and was given up", 0);
    detector_thread_.detach();
  }
  std::size_t named = 0;
  for (auto& [pid, slot] : slots_) {
    if (slot.process == nullptr) continue;
    if (named++ < max_named) log(Logger::Level::error, "manager: no time was left to close a process", pid);
    uncount(*slot.process);
    slot.process->round.reset();  // while there is a logger
    for (const auto& instance : {slot.closing, slot.process->instance}) {
      if (instance != nullptr) left->live.push_back(instance);
    }
    left->live.insert(left->live.end(), slot.process->generics.begin(), slot.process->generics.end());
  }
  if (named > max_named)
    log(Logger::Level::error, "manager: no time was left to close more processes", 0, {{"processes", named - max_named}});
  left->slots.swap(slots_);
  Inbox::Batch batch = inbox_->close();
  for (Inbox::Message& message : batch.messages) {
    if (auto* const job = std::get_if<std::shared_ptr<Job>>(&message)) left->done.push_back(std::move(*job));
  }
  publish_stats();
  {
    std::lock_guard lock(board_.mutex);
    left->rows.swap(board_.rows);
  }
  if (left->slots.empty() && left->rows.empty() && left->dropped.empty() && left->done.empty()) return;
  for (std::size_t more = std::min(max_stop_workers, left->done.size() + left->live.size()); more > 1; --more)
    call_elsewhere([left] { left->clean(); });
  call_elsewhere([left = std::move(left)] { left->clean(); });  // its last reference is never this thread's
}

}  // namespace weir::inline v0::detail
