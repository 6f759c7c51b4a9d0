#include "instrument/manager_loop.hpp"

#include <algorithm>

namespace weir::inline v0::detail {

namespace {

constexpr std::chrono::seconds poll_interval{1};  // of the detector's counts

bool is_same(const ProcessEvent& process, const ProcessEvent& exit) {
  return exit.start_time == 0 || exit.start_time == process.start_time;
}

}  // namespace

ConfigRound::~ConfigRound() {
  if (count == 0) return;
  const Attribute attributes[] = {{"processes", count}, {"errors", errors}};
  logger.log(Logger::Level::warning, "manager: a configuration was refused", attributes);
}

ManagerLoop::ManagerLoop(const ManagerParts& parts, std::shared_ptr<Inbox> inbox, ManagerBoard& board)
    : parts_(parts),
      logger_(parts.logger != nullptr ? *parts.logger : stderr_logger()),
      calls_(std::make_shared<const ManagerCalls>(parts.calls)),
      inbox_(std::move(inbox)),
      board_(board),
      pool_(std::make_shared<WorkerPool>([to = inbox_](std::shared_ptr<Job> job) { to->post(std::move(job)); },
                                         [to = inbox_] { to->wake(); })) {
  if (parts.telemetry != nullptr) telemetry_ = *parts.telemetry;
}

Result<void> ManagerLoop::run(const StopToken& stop) {
  if (Result<void> started = pool_->start(parts_.workers); !started) return started;
  try {
    detector_thread_ = std::thread([inbox = inbox_, detector = parts_.detector, token = detector_stop_.token()]() mutable {
      struct Post {  // also when the thread is cancelled
        ~Post() {
          detector.reset();
          inbox->post(std::move(ended));
        }
        std::shared_ptr<ProcessDetector> detector;
        std::shared_ptr<Inbox> inbox;
        DetectorEnded ended;
      } post{std::move(detector), std::move(inbox), {Error{{}, "the detector's thread was ended"}}};
      post.ended.result =
          guarded<void>([&] { return post.detector->run(token, [to = post.inbox](const ProcessEvent& event) { to->event(event); }); });
    });
  } catch (const std::system_error& thrown) {
    pool_->end();
    pool_->join();
    return Error{thrown.code(), std::string("manager: no thread for the detector: ") + thrown.what()};
  }
  const StopCallback wake(stop, [inbox = inbox_] { inbox->wake(); });
  for (;;) {
    if (stop.stop_requested()) begin_stop();
    Inbox::Batch batch = inbox_->take(next_look());
    configure(std::move(batch.configs));
    for (Inbox::Message& message : batch.messages) std::visit([this](auto& one) { handle(one); }, message);
    batch = {};
    check_deadlines();
    pool_->top_up();
    poll_detector();
    publish_stats();
    if (stopping_ && (stopped() || Clock::now() >= stop_deadline_)) break;
  }
  finish();
  return detector_result_;
}

// ---- what comes

void ManagerLoop::handle(ProcessEvent& event) {
  if (event.type == ProcessEvent::Type::exit) return ended(event);
  if (stopping_) return;
  Slot& slot = slots_[event.pid];
  slot.pid = event.pid;
  seen(slot, event, 0);
  advance(slot);
}

void ManagerLoop::handle(Instrument& request) {
  const std::uint64_t number = ++requests_;
  if (stopping_) return;
  for (const pid_t pid : request.pids) {
    if (pid <= 0) continue;
    Slot& slot = slots_[pid];
    slot.pid = pid;
    slot.wanted_read = number;
    advance(slot);
  }
}

void ManagerLoop::handle(Inbox::Uninstruments& request) {
  const std::uint64_t number = ++requests_;
  if (stopping_) return;
  uninstrumented_.insert_or_assign(request.group, number);
  std::vector<pid_t> pids;
  for (auto& [pid, slot] : slots_) {
    if (slot.process == nullptr || slot.process->process_group == nullptr || !GroupEqual{}(slot.process->process_group, request.group))
      continue;
    slot.process->uninstrument = true;
    pids.push_back(pid);
  }
  for (const pid_t pid : pids) advance(slots_.at(pid));
}

void ManagerLoop::handle(RetryFailed& request) {
  ++requests_;
  const auto round = std::make_shared<ConfigRound>(logger_);
  std::vector<pid_t> pids;
  for (auto& [pid, slot] : slots_) {
    if (slot.process == nullptr) continue;
    Process& process = *slot.process;
    if (process.again || (request.distribution && request.distribution != process.distribution)) continue;
    if (process.state == ProcessState::failed || process.state == ProcessState::ended_run) {
      want_again(process, process.event, false, 0);
    } else if (process.config_error && !process.config_changed) {
      process.config_changed = true;
      process.round = round;
    } else {
      continue;
    }
    pids.push_back(pid);
  }
  for (const pid_t pid : pids) advance(slots_.at(pid));
}

void ManagerLoop::handle(std::shared_ptr<Job>& job) { job->finished(); }

void ManagerLoop::handle(RunEnded& ended) {
  const auto found = slots_.find(ended.pid);
  if (found == slots_.end()) return;
  Slot& slot = found->second;
  if (slot.closing != nullptr && slot.closing->serial == ended.serial) {
    slot.closing->ended = true;
    slot.closing->run_error = std::move(ended.error);
    if (slot.run_deadline) closed(slot);
    return;
  }
  if (slot.process == nullptr) return;
  Process& process = *slot.process;
  std::vector<std::shared_ptr<Instance>> all = process.generics;
  if (process.instance != nullptr) all.push_back(process.instance);
  for (const auto& instance : all) {
    if (instance->serial != ended.serial) continue;
    instance->ended = true;
    instance->run_error = std::move(ended.error);
    if (instance == process.instance) {
      uncount(process);
      process.state = ProcessState::ended_run;
      process.error = instance->run_error;
      if (process.error) count_failure(process);
      publish(slot);
    }
  }
  advance(slot);
}

void ManagerLoop::handle(DetectorEnded& ended) {
  detector_ended_ = true;
  detector_result_ = std::move(ended.result);
  if (!detector_result_) log(Logger::Level::error, "manager: the detector failed", 0, {{"error", detector_result_.error().message}});
  begin_stop();
}

void ManagerLoop::configure(GroupMap<Config> configs) {
  if (configs.empty() || stopping_) return;
  for (auto& [group, config] : configs) configs_.insert_or_assign(group, std::make_shared<const Config>(std::move(config)));
  const auto round = std::make_shared<ConfigRound>(logger_);
  std::vector<pid_t> pids;
  for (auto& [pid, slot] : slots_) {
    if (slot.process == nullptr || slot.process->config_group == nullptr || !configs.contains(slot.process->config_group)) continue;
    slot.process->config_changed = true;
    slot.process->round = round;
    pids.push_back(pid);
  }
  for (const pid_t pid : pids) advance(slots_.at(pid));
}

// ---- processes

void ManagerLoop::seen(Slot& slot, const ProcessEvent& event, std::uint64_t request) {
  if (slot.process == nullptr) return begin(slot, {event, false, request});
  Process& process = *slot.process;
  const bool succeeded = slot.successor && slot.successor->event.start_time == event.start_time;
  if (process.event.start_time > event.start_time || (slot.successor && slot.successor->event.start_time > event.start_time)) return;
  if (process.event.start_time < event.start_time) {
    process.exited = true;
    slot.successor = Again{event, false, succeeded ? std::max(request, slot.successor->request) : request};
    return;
  }
  if (process.exited) return;
  const bool failed = process.state == ProcessState::failed || process.state == ProcessState::ended_run;
  if (request != 0) {
    if (process.again) {
      process.again->request = std::max(process.again->request, request);
    } else if (process.instance == nullptr) {
      want_again(process, event, false, request);
    }
  } else if (event.type == ProcessEvent::Type::exec) {
    const std::string& executable = process.again ? process.again->event.executable : process.event.executable;
    if (failed || event.executable != executable) want_again(process, event, true, 0);
  } else if (failed || process.state == ProcessState::generic) {
    want_again(process, event, false, 0);
  }
}

void ManagerLoop::ended(const ProcessEvent& event) {
  const auto found = slots_.find(event.pid);
  if (found == slots_.end()) return;
  Slot& slot = found->second;
  constexpr std::size_t enough = 16;
  if (slot.reading && slot.exited_meanwhile.size() < enough) slot.exited_meanwhile.push_back(event.start_time);
  if (slot.process != nullptr && is_same(slot.process->event, event)) {
    slot.process->exited = true;
  } else if (slot.successor && is_same(slot.successor->event, event)) {
    slot.successor.reset();
  }
  advance(slot);
}

void ManagerLoop::want_again(Process& process, const ProcessEvent& event, bool anew, std::uint64_t request) {
  if (process.again) {
    anew = anew || process.again->anew;
    request = std::max(request, process.again->request);
  }
  process.again = Again{event, anew, request};
}

void ManagerLoop::read(Slot& slot) {
  slot.busy = slot.reading = true;
  slot.exited_meanwhile.clear();
  const std::uint64_t request = std::exchange(slot.wanted_read, 0);
  const pid_t pid = slot.pid;
  const auto process_read = [this, &slot, request](Outcome<ProcessEvent> outcome) {
    slot.reading = false;
    slot.busy = false;
    if (!outcome.result) {
      if (!outcome.given_up) {
        log(Logger::Level::warning, "manager: a process that is to be instrumented cannot be read", slot.pid,
            {{"error", outcome.result.error().message}});
      }
    } else if (!stopping_ && std::none_of(slot.exited_meanwhile.begin(), slot.exited_meanwhile.end(), [&](std::uint64_t start_time) {
                 return start_time == 0 || start_time == outcome.result->start_time;
               })) {
      outcome.result->pid = slot.pid;
      seen(slot, *outcome.result, request);
    }
    advance(slot);
  };
  const auto tracked = [this, &slot, pid, process_read](Outcome<void> outcome) {
    if (stopping_) {
      slot.reading = slot.busy = false;
      return advance(slot);
    }
    if (!outcome.result && !outcome.given_up) {
      log(Logger::Level::warning, "manager: the exit of a process cannot be watched", pid, {{"error", outcome.result.error().message}});
    }
    call<ProcessEvent>(
        pid, "read_process", [read_one = parts_.read_process, pid](const StopToken&) { return read_one(pid); }, process_read, {}, true);
  };
  call<void>(
      pid, "track",
      [detector = parts_.detector, pid](const StopToken&) {
        const pid_t pids[] = {pid};
        return detector->track(pids);
      },
      tracked, {}, true);
}

void ManagerLoop::begin(Slot& slot, const Again& what) {
  slot.process = std::make_unique<Process>();
  slot.process->event = what.event;
  slot.process->again = what;
}

void ManagerLoop::forget(Slot& slot) {
  uncount(*slot.process);
  slot.process.reset();
  publish(slot);
}

bool ManagerLoop::cut(const Slot& slot) const {
  return stopping_ || slot.process->exited || slot.process->uninstrument || (slot.process->again && slot.process->again->anew);
}

void ManagerLoop::idle(Slot& slot) {
  slot.busy = false;
  publish(slot);
  advance(slot);
}

void ManagerLoop::advance(Slot& slot) {
  if (slot.busy) return;
  while (slot.process != nullptr) {
    Process& process = *slot.process;
    if (process.fresh != nullptr) return dispose(slot);
    if (process.exited || stopping_) {
      if (close_one(slot)) return;
      if (process.tracked) return report_exit(slot);
      forget(slot);
      break;
    }
    if (process.uninstrument) {
      if (close_one(slot)) return;
      process.uninstrument = process.generics_done = false;
      process.state = ProcessState::uninstrumented;
      process.error.reset();
      if (!process.tracked && !process.again) {
        forget(slot);
      } else {
        publish(slot);
      }
    } else if (process.again && process.again->anew) {
      if (close_one(slot)) return;
      process.generics_done = false;
      process.again->anew = false;
    } else if (process.instance != nullptr && process.instance->ended) {
      return close(slot, std::move(process.instance));
    } else if (const auto generic =
                   std::find_if(process.generics.begin(), process.generics.end(), [](const auto& one) { return one->ended; });
               generic != process.generics.end()) {
      std::shared_ptr<Instance> instance = std::move(*generic);
      process.generics.erase(generic);
      return close(slot, std::move(instance));
    } else if (process.again) {
      const Again again = *std::exchange(process.again, std::nullopt);
      if (process.instance != nullptr) continue;
      process.event = again.event;
      process.request = std::max(process.request, again.request);
      return resolve(slot);
    } else if (process.config_changed) {
      process.config_changed = false;
      process.config_error.reset();
      const auto config = process.config_group != nullptr ? configs_.find(process.config_group) : configs_.end();
      if (config == configs_.end()) continue;
      slot.busy = true;
      return apply_config(slot, 0, config->second);
    } else {
      break;
    }
  }
  if (slot.process == nullptr && slot.successor && !stopping_) {
    begin(slot, *std::exchange(slot.successor, std::nullopt));
    return advance(slot);
  }
  if (slot.wanted_read != 0 && !stopping_) return read(slot);
  if (slot.process == nullptr) slots_.erase(slot.pid);
}

// ---- calls

void ManagerLoop::report(Slot& slot, std::string_view step, CallJob<void>::Work work, std::function<void()> then) {
  call<void>(slot.pid, step, std::move(work), [this, &slot, step, then = std::move(then)](Outcome<void> outcome) {
    if (!outcome.result && !outcome.given_up) {
      log(Logger::Level::warning, "manager: the reporter failed", slot.pid, {{"step", step}, {"error", outcome.result.error().message}});
    }
    then();
  });
}

ManagerLoop::Clock::time_point ManagerLoop::deadline(Clock::time_point began) const {
  const Clock::time_point usual = began + parts_.step_timeout;
  if (!stopping_) return usual;
  const Clock::time_point base = std::max(began, stop_began_);
  return std::min(usual, base + (std::max(stop_deadline_, base) - base) / 2);
}

Error ManagerLoop::late_error(std::string_view step) const {
  return {std::make_error_code(std::errc::timed_out),
          std::string(step) + " did not return " +
              (stopping_ ? "in the time that was left" : "within " + std::to_string(parts_.step_timeout.count()) + " ms") +
              " and was given up"};
}

bool ManagerLoop::give_up(Job& job) {
  if (!pool_->give_up(job)) return false;
  {
    std::lock_guard lock(board_.mutex);
    ++board_.stats.abandoned;
  }
  log(Logger::Level::error, "manager: a call did not return in time and was given up", job.pid, {{"step", job.step}});
  call_elsewhere([stop = job.stop]() mutable { stop.request_stop(); });
  return true;
}

void ManagerLoop::check_deadlines() {
  const Clock::time_point now = Clock::now();
  for (const auto& [job, began] : pool_->running()) {
    if (now >= deadline(began) && give_up(*job)) job->given_up(late_error(job->step));
  }
  const std::vector<pid_t> waiting(waiting_.begin(), waiting_.end());
  for (const pid_t pid : waiting) {
    Slot& slot = slots_.at(pid);
    if (slot.run_deadline && now >= std::min(*slot.run_deadline, deadline(*slot.run_deadline - parts_.step_timeout))) closed(slot);
  }
}

std::optional<ManagerLoop::Clock::time_point> ManagerLoop::next_look() const {
  const Clock::time_point now = Clock::now();
  std::optional<Clock::time_point> next;
  const auto by = [&](Clock::time_point time) { next = next ? std::min(*next, time) : time; };
  if (pool_->waits()) by(deadline(now));  // what begins from now on ends no sooner
  for (const auto& [job, began] : pool_->running()) by(deadline(began));
  for (const pid_t pid : waiting_) {
    const Clock::time_point end = *slots_.at(pid).run_deadline;
    by(std::min(end, deadline(end - parts_.step_timeout)));
  }
  if (telemetry_ && poll_works_ && !polling_) by(next_poll_);
  if (stopping_) by(stop_deadline_);
  return next;
}

void ManagerLoop::poll_detector() {
  if (!telemetry_ || !poll_works_ || polling_) return;
  const bool last = stopping_ && detector_ended_;
  if (last ? polled_last_ : Clock::now() < next_poll_) return;
  polling_ = true;
  polled_last_ = last;
  call<DetectorStats>(
      0, "detector stats", [detector = parts_.detector](const StopToken&) -> Result<DetectorStats> { return detector->stats(); },
      [this](Outcome<DetectorStats> outcome) {
        polling_ = false;
        next_poll_ = Clock::now() + poll_interval;
        poll_works_ = !outcome.given_up;
        if (!outcome.result) return;
        const DetectorStats& now = *outcome.result;
        const std::uint64_t lost = inbox_->lost_events();
        const std::uint64_t more = (now.lost - told_.lost) + (lost - told_lost_events_);
        if (more != 0) telemetry_->add("events_lost", static_cast<std::int64_t>(more));
        if (now.rescans != told_.rescans) telemetry_->add("rescans", static_cast<std::int64_t>(now.rescans - told_.rescans));
        told_ = now;
        told_lost_events_ = lost;
      });
}

// ---- what others see

void ManagerLoop::publish(const Slot& slot) {
  const Process* const process = slot.process.get();
  const bool shown = process != nullptr && process->details && (process->tracked || process->state == ProcessState::starting);
  std::optional<ManagedRow> row;
  if (shown) {
    const bool runs = process->state == ProcessState::instrumented || process->state == ProcessState::generic;
    row = ManagedRow{slot.pid,
                     process->event.start_time,
                     process->details->value,
                     process->state,
                     process->distribution.value_or(Distribution{}),
                     runs ? process->config_error : process->error,
                     process->status,
                     process->config};
  }
  std::map<pid_t, ManagedRow>::node_type old;  // its details may be the last, and their end is the user's code
  std::lock_guard lock(board_.mutex);
  old = board_.rows.extract(slot.pid);
  if (row) board_.rows.emplace(slot.pid, *std::move(row));
}

void ManagerLoop::publish_stats() {
  const std::uint64_t events = inbox_->lost_events(), requests = inbox_->lost_requests();
  std::lock_guard lock(board_.mutex);
  board_.stats.lost_events = events;
  board_.stats.lost_requests = requests;
}

void ManagerLoop::count(Process& process) {
  process.counted = process.distribution;
  std::uint64_t now = 0;
  {
    std::lock_guard lock(board_.mutex);
    now = ++board_.stats.instrumented[*process.counted];
  }
  if (!telemetry_) return;
  const auto [gauge, is_new] = gauges_.try_emplace(*process.counted);
  if (is_new) gauge->second = telemetry_->gauge("instrumented_processes:" + process.counted->to_string());
  gauge->second.set(static_cast<double>(now));
}

void ManagerLoop::uncount(Process& process) {
  if (!process.counted) return;
  const Distribution distribution = *std::exchange(process.counted, std::nullopt);
  std::uint64_t now = 0;
  {
    std::lock_guard lock(board_.mutex);
    const auto counted = board_.stats.instrumented.find(distribution);
    now = --counted->second;
    if (now == 0) board_.stats.instrumented.erase(counted);
  }
  if (telemetry_) gauges_[distribution].set(static_cast<double>(now));
}

void ManagerLoop::count_failure(Process& process) {
  if (std::exchange(process.failed_before, true)) return;
  {
    std::lock_guard lock(board_.mutex);
    ++board_.stats.failed;
  }
  if (telemetry_) telemetry_->increment("failed_instrumentations:" + process.distribution.value_or(Distribution{}).to_string());
}

void ManagerLoop::set_failed(Slot& slot, std::string_view step, const Error& error) {
  Process& process = *slot.process;
  process.state = ProcessState::failed;
  process.error = error;
  count_failure(process);
  if (std::exchange(process.logged, error.message) != error.message)
    log(Logger::Level::warning, "manager: a process could not be instrumented", slot.pid, {{"step", step}, {"error", error.message}});
  publish(slot);
}

void ManagerLoop::log(Logger::Level level, std::string_view message, pid_t pid, std::initializer_list<Attribute> more) {
  std::vector<Attribute> attributes;
  std::string distribution;
  if (pid != 0) {
    attributes.push_back({"pid", pid});
    if (const auto slot = slots_.find(pid); slot != slots_.end() && slot->second.process != nullptr) {
      const Process& process = *slot->second.process;
      if (process.details) attributes.push_back({"process", process.details->text});
      if (process.distribution) distribution = process.distribution->to_string();
    }
  }
  if (!distribution.empty()) attributes.push_back({"distribution", distribution});
  attributes.insert(attributes.end(), more);
  logger_.log(level, message, attributes);
}

}  // namespace weir::inline v0::detail
