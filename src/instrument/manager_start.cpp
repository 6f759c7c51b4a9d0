#include "instrument/manager_loop.hpp"

#include <algorithm>

namespace weir::inline v0::detail {

namespace {

void append_error(ConfigRound& round, pid_t pid, const Error& error) {
  constexpr std::size_t enough = 4096;  // bytes
  ++round.count;
  if (round.errors.size() > enough) return;
  if (!round.errors.empty()) round.errors += "; ";
  round.errors += "pid " + std::to_string(pid) + ": " + error.message;
}

/// That the pid is not that process's any more. A process that cannot be read is taken for the one that it was.
std::optional<Error> somebody_else(const std::function<Result<ProcessEvent>(pid_t)>& read_one, pid_t pid, std::uint64_t start_time) {
  const Result<ProcessEvent> now = guarded<ProcessEvent>([&] { return read_one(pid); });
  if (now ? now->start_time == start_time : now.error().code != std::errc::no_such_process) return {};
  return Error{std::make_error_code(std::errc::no_such_process), "it has ended, and its pid was free for another process"};
}

}  // namespace

void ManagerLoop::resolve(Slot& slot) {
  Process& process = *slot.process;
  slot.busy = true;
  process.state = ProcessState::starting;
  process.error.reset();
  process.config_error.reset();
  if (process.generics.empty()) {  // of what it may not execute any more; decide() sees what was requested meanwhile
    process.config_group.reset();
    process.process_group.reset();
  }
  publish(slot);
  call<AnyDetails>(
      slot.pid, "process_details",
      [calls = calls_, event = process.event](const StopToken& stop) { return calls->process_details(event, stop); },
      [this, &slot](Outcome<AnyDetails> outcome) {
        if (cut(slot)) return idle(slot);
        if (!outcome.result) return unresolved(slot, "process_details", outcome.result.error(), outcome.given_up);
        slot.process->details = *std::move(outcome.result);
        publish(slot);
        find_distribution(slot);
      },
      {}, true);
}

void ManagerLoop::unresolved(Slot& slot, std::string_view step, const Error& error, bool given_up) {
  Process& process = *slot.process;
  if (process.tracked) {
    set_failed(slot, step, error);
  } else {
    const Logger::Level level = error.code == std::errc::no_such_process ? Logger::Level::debug : Logger::Level::warning;
    if (!given_up) log(level, "manager: a process could not be resolved", slot.pid, {{"step", step}, {"error", error.message}});
    forget(slot);
  }
  idle(slot);
}

void ManagerLoop::find_distribution(Slot& slot) {
  if (!calls_->distribution) {
    slot.process->distribution.reset();
    return find_config_group(slot);
  }
  call<Distribution>(
      slot.pid, "distribution",
      [calls = calls_, details = slot.process->details->value](const StopToken& stop) { return calls->distribution(details.get(), stop); },
      [this, &slot](Outcome<Distribution> outcome) {
        if (cut(slot)) return idle(slot);
        if (outcome.given_up) return unresolved(slot, "distribution", outcome.result.error(), true);
        slot.process->distribution.reset();
        if (outcome.result) {
          slot.process->distribution = *std::move(outcome.result);
        } else {
          const Error& error = outcome.result.error();
          const bool mismatch = error.code == InstrumentErrc::language_mismatch;
          log(mismatch ? Logger::Level::debug : Logger::Level::warning, "manager: a process has no distribution", slot.pid,
              {{"error", error.message}});
        }
        find_config_group(slot);
      },
      {}, true);
}

void ManagerLoop::find_config_group(Slot& slot) {
  Process& process = *slot.process;
  if (!calls_->config_group || !process.distribution) {
    process.config_group.reset();
    return find_process_group(slot);
  }
  call<GroupKey>(
      slot.pid, "config_group",
      [calls = calls_, details = process.details->value, distribution = *process.distribution](const StopToken& stop) {
        return calls->config_group(details.get(), distribution, stop);
      },
      [this, &slot](Outcome<GroupKey> outcome) {
        if (cut(slot)) return idle(slot);
        if (!outcome.result) return unresolved(slot, "config_group", outcome.result.error(), outcome.given_up);
        slot.process->config_group = *std::move(outcome.result);
        find_process_group(slot);
      },
      {}, true);
}

void ManagerLoop::find_process_group(Slot& slot) {
  Process& process = *slot.process;
  if (!calls_->process_group) return decide(slot);
  call<GroupKey>(
      slot.pid, "process_group",
      [calls = calls_, details = process.details->value](const StopToken& stop) { return calls->process_group(details.get(), stop); },
      [this, &slot](Outcome<GroupKey> outcome) {
        if (cut(slot)) return idle(slot);
        if (!outcome.result) return unresolved(slot, "process_group", outcome.result.error(), outcome.given_up);
        slot.process->process_group = *std::move(outcome.result);
        decide(slot);
      },
      {}, true);
}

void ManagerLoop::decide(Slot& slot) {
  Process& process = *slot.process;
  if (process.process_group != nullptr) {
    if (const auto found = uninstrumented_.find(process.process_group); found != uninstrumented_.end()) {
      if (process.request < found->second) {
        process.uninstrument = true;
        return idle(slot);
      }
      uninstrumented_.erase(found);
    }
  }
  process.request = 0;  // what it executes later was not asked for
  process.factory.reset();
  if (process.distribution) {
    if (const auto found = parts_.factories.find(*process.distribution); found != parts_.factories.end()) process.factory = found->second;
  }
  if (process.factory == nullptr && parts_.generic_factories.empty()) {
    if (process.tracked) {
      process.state = ProcessState::uninstrumented;
    } else {
      forget(slot);
    }
    return idle(slot);
  }
  get_settings(slot);
}

void ManagerLoop::get_settings(Slot& slot) {
  Process& process = *slot.process;
  const auto go_on = [this, &slot](Settings settings) {
    Process& current = *slot.process;
    if (current.config_group != nullptr) {
      if (const auto config = configs_.find(current.config_group); config != configs_.end()) settings.initial_config = *config->second;
    }
    current.config_changed = false;
    current.config_error.reset();
    current.round.reset();
    current.config = settings.initial_config;
    current.settings = std::move(settings);
    next_generic(slot, 0);
  };
  if (!process.distribution) return go_on({});
  call<Settings>(
      slot.pid, "settings",
      [calls = calls_, details = process.details->value, distribution = *process.distribution](const StopToken& stop) {
        return calls->settings(details.get(), distribution, stop);
      },
      [this, &slot, go_on](Outcome<Settings> outcome) {
        if (cut(slot)) return idle(slot);
        if (!outcome.result && !outcome.given_up) {
          log(Logger::Level::warning, "manager: no settings for a process; it goes on with defaults", slot.pid,
              {{"error", outcome.result.error().message}});
        }
        go_on(outcome.result ? *std::move(outcome.result) : Settings{});
      },
      {}, true);
}

std::shared_ptr<Instance> ManagerLoop::make_instance(Slot& slot, std::unique_ptr<Instrumentation> instrumentation, bool generic) {
  auto instance = std::make_shared<Instance>();
  instance->pid = slot.pid;
  instance->serial = ++serial_;
  instance->generic = generic;
  instance->instrumentation = std::move(instrumentation);
  return instance;
}

void ManagerLoop::next_generic(Slot& slot, std::size_t index) {
  Process& process = *slot.process;
  if (cut(slot)) return idle(slot);
  if (process.generics_done || index == parts_.generic_factories.size()) {
    process.generics_done = true;
    return create(slot);
  }
  const auto failed = [this, &slot](const Error& error) {
    log(Logger::Level::warning, "manager: a generic instrumentation failed", slot.pid, {{"error", error.message}});
  };
  const auto loaded = [this, &slot, index, failed](Outcome<Loaded> outcome) {
    if (outcome.result) {
      slot.process->generics.push_back(outcome.result->instance);
      slot.process->tracked = true;
      start_run(outcome.result->instance);
    } else if (!outcome.given_up) {
      failed(outcome.result.error());
    }
    next_generic(slot, index + 1);
  };
  call<std::unique_ptr<Instrumentation>>(
      slot.pid, "create (generic)",
      [factory = parts_.generic_factories[index], pid = slot.pid, settings = process.settings](const StopToken&) {
        return factory->create(pid, settings);
      },
      [this, &slot, index, failed, loaded](Outcome<std::unique_ptr<Instrumentation>> outcome) {
        if (outcome.result && *outcome.result != nullptr) {
          return load_instance(slot, make_instance(slot, *std::move(outcome.result), true), loaded);
        }
        if (outcome.result) {
          failed({{}, "create() returned nothing"});
        } else if (!outcome.given_up && outcome.result.error().code != InstrumentErrc::not_applicable) {
          failed(outcome.result.error());
        }
        next_generic(slot, index + 1);
      },
      {}, true);
}

void ManagerLoop::load_instance(Slot& slot, std::shared_ptr<Instance> instance, CallJob<Loaded>::Then then) {
  const std::string_view step = instance->generic ? "load (generic)" : "load";
  call<Loaded>(
      slot.pid, step,
      [instance = std::move(instance), read_one = parts_.read_process,
       start_time = slot.process->event.start_time](const StopToken&) mutable -> Result<Loaded> {
        Result<Status> status = instance->instrumentation->load();
        if (!status) return std::move(status).error();
        if (const auto other = somebody_else(read_one, instance->pid, start_time)) {
          (void)guarded<void>([&] { return instance->close(); });
          return *other;
        }
        return Loaded{std::move(instance), *std::move(status)};
      },
      std::move(then),
      [](Result<Loaded>& late) {
        if (late) (void)late->instance->close();
      });
}

void ManagerLoop::create(Slot& slot) {
  Process& process = *slot.process;
  if (cut(slot)) return idle(slot);
  if (process.factory == nullptr) {  // kept when it has no generic one either, so that those are not asked again
    process.state = process.generics.empty() && process.tracked ? ProcessState::uninstrumented : ProcessState::generic;
    return idle(slot);
  }
  const auto failed = [this, &slot](const Error& error) {
    slot.process->tracked = true;
    set_failed(slot, "create", error);
    const auto work = [calls = calls_, pid = slot.pid, error, details = slot.process->details->value](const StopToken& stop) {
      return calls->on_init(pid, error, details.get(), stop);
    };
    report(slot, "on_init", work, [this, &slot] { idle(slot); });
  };
  call<std::unique_ptr<Instrumentation>>(
      slot.pid, "create",
      [factory = process.factory, pid = slot.pid, settings = process.settings](const StopToken&) { return factory->create(pid, settings); },
      [this, &slot, failed](Outcome<std::unique_ptr<Instrumentation>> outcome) {
        if (outcome.given_up && outcome.result.error().code == std::errc::operation_canceled) return idle(slot);
        if (!outcome.result) return failed(outcome.result.error());
        if (*outcome.result == nullptr) return failed({{}, "create() returned nothing"});
        slot.process->fresh = make_instance(slot, *std::move(outcome.result), false);
        slot.process->tracked = true;
        publish(slot);
        const auto work = [calls = calls_, pid = slot.pid, details = slot.process->details->value](const StopToken& stop) {
          return calls->on_init(pid, std::nullopt, details.get(), stop);
        };
        report(slot, "on_init", work, [this, &slot] { load(slot); });
      },
      {}, true);
}

void ManagerLoop::load(Slot& slot) {
  if (cut(slot)) return idle(slot);
  load_instance(slot, std::move(slot.process->fresh), [this, &slot](Outcome<Loaded> outcome) {
    Process& process = *slot.process;
    if (!outcome.result) {
      const Error& error = outcome.result.error();
      set_failed(slot, "load", error);
      const auto work = [calls = calls_, pid = slot.pid, error, details = process.details->value](const StopToken& stop) {
        return calls->on_load(pid, error, details.get(), {}, stop);
      };
      return report(slot, "on_load", work, [this, &slot] { idle(slot); });
    }
    process.instance = std::move(outcome.result->instance);
    process.status = std::move(outcome.result->status);
    const auto work = [calls = calls_, pid = slot.pid, details = process.details->value, status = process.status](const StopToken& stop) {
      return calls->on_load(pid, std::nullopt, details.get(), status, stop);
    };
    report(slot, "on_load", work, [this, &slot] {
      slot.process->state = ProcessState::instrumented;
      count(*slot.process);
      start_run(slot.process->instance);
      idle(slot);
    });
  });
}

void ManagerLoop::start_run(const std::shared_ptr<Instance>& instance) {
  instance->started = true;
  const pid_t pid = instance->pid;
  const std::uint64_t serial = instance->serial;
  try {
    instance->thread = std::thread([mine = instance, inbox = inbox_, pid, serial]() mutable {
      struct Post {  // also when the thread is cancelled
        ~Post() {
          mine.reset();
          inbox->post(std::move(ended));
        }
        std::shared_ptr<Instance> mine;
        std::shared_ptr<Inbox> inbox;
        RunEnded ended;
      } post{std::move(mine), std::move(inbox), {pid, serial, Error{{}, "its thread was ended"}}};
      Result<void> result = guarded<void>([&] { return post.mine->instrumentation->run(post.mine->stop.token()); });
      post.ended.error.reset();
      if (!result) post.ended.error = std::move(result).error();
    });
  } catch (const std::system_error& thrown) {
    inbox_->post(RunEnded{pid, serial, Error{thrown.code(), std::string("no thread for run(): ") + thrown.what()}});
  }
}

void ManagerLoop::apply_config(Slot& slot, std::size_t index, std::shared_ptr<const Config> config) {
  Process& process = *slot.process;
  std::vector<std::shared_ptr<Instance>> all{process.instance};
  all.insert(all.end(), process.generics.begin(), process.generics.end());
  while (index < all.size() && (all[index] == nullptr || all[index]->ended)) ++index;
  if (cut(slot) || index >= all.size()) {
    if (!process.config_changed) process.round.reset();
    return idle(slot);
  }
  const std::shared_ptr<Instance> instance = all[index];
  call<void>(
      slot.pid, "apply_config",
      [instance, config](const StopToken&) {
        instance->applying = true;
        return instance->instrumentation->apply_config(*config);
      },
      [this, &slot, index, config, instance](Outcome<void> outcome) {
        Process& current = *slot.process;
        if (!outcome.given_up) instance->applying = false;
        if (!outcome.result) {
          {
            std::lock_guard lock(board_.mutex);
            ++board_.stats.config_errors;
          }
          if (current.round != nullptr) append_error(*current.round, slot.pid, outcome.result.error());
          if (!outcome.given_up && !current.config_error) current.config_error = outcome.result.error();
          publish(slot);
        } else if (index == 0 || current.instance == nullptr) {
          current.config = *config;
          if (const auto initial = current.status.find("configuration"); initial != current.status.end()) initial->second.reset();
          publish(slot);
        }
        if (!outcome.given_up) return apply_config(slot, index + 1, config);
        if (!current.config_changed) current.round.reset();
        std::shared_ptr<Instance> hung;
        if (current.instance == instance) {
          hung = std::move(current.instance);
          set_failed(slot, "apply_config", outcome.result.error());
        } else {
          const auto generic = std::find(current.generics.begin(), current.generics.end(), instance);
          hung = std::move(*generic);
          current.generics.erase(generic);
        }
        close(slot, std::move(hung), false);
      },
      [instance](Result<void>&) { (void)instance->close(); });
}

}  // namespace weir::inline v0::detail
