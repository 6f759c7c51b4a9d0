#include "instrument/manager_loop.hpp"

#include <algorithm>

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t max_stop_workers = 64;
constexpr std::size_t max_named = 20;  // processes that are left, in the log

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
    return call_close ? closing->instrumentation->close() : Result<void>();
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

void ManagerLoop::dispose(std::shared_ptr<Instance> instance) {
  const pid_t pid = instance->pid;
  auto release = [instance = std::move(instance)](const StopToken&) mutable -> Result<void> {
    instance.reset();
    return {};
  };
  call<void>(pid, "release", std::move(release), [](const Outcome<void>&) {});
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
  for (const auto& [job, began] : pool_->running()) {
    if (job->cancellable) call_elsewhere([stop = job->stop]() mutable { stop.request_stop(); });
  }
  const auto cancelled = pool_->take_cancellable();
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
  auto dropped = std::make_shared<std::deque<std::shared_ptr<Job>>>(pool_->end());
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
  const auto left = std::make_shared<std::vector<std::shared_ptr<Instance>>>();
  std::size_t named = 0;
  for (auto& [pid, slot] : slots_) {
    if (slot.process == nullptr) continue;
    if (named++ < max_named) log(Logger::Level::error, "manager: no time was left to close a process", pid);
    uncount(*slot.process);
    for (auto* const instance : {&slot.closing, &slot.process->fresh, &slot.process->instance}) {
      if (*instance != nullptr) left->push_back(std::move(*instance));
    }
    for (auto& instance : slot.process->generics) left->push_back(std::move(instance));
  }
  if (named > max_named)
    log(Logger::Level::error, "manager: no time was left to close more processes", 0, {{"processes", named - max_named}});
  slots_.clear();
  inbox_->close();
  publish_stats();
  {
    std::lock_guard lock(board_.mutex);
    board_.rows.clear();
  }
  if (left->empty() && dropped->empty()) return;
  call_elsewhere([left, dropped] {  // ends are the user's code, too
    for (const auto& instance : *left) instance->stop.request_stop();
  });
}

}  // namespace weir::inline v0::detail
