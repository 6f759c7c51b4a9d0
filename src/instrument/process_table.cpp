#include "instrument/process_table.hpp"

#include <sys/epoll.h>

#include <algorithm>

namespace weir::inline v0::instrument {

namespace {

constexpr std::size_t remembered_exits = 1024;
constexpr std::size_t max_opened_while_waiting = 16;
constexpr int max_readings = 4;  // of a process that executes one thing after the other meanwhile
constexpr std::size_t spare_waits = 1024;
constexpr auto pause_without_descriptors = std::chrono::seconds{1};

std::uint64_t token_of(pid_t pid, std::uint32_t generation) noexcept {
  return std::uint64_t{generation} << 32 | static_cast<std::uint32_t>(pid);
}

}  // namespace

ProcessTable::~ProcessTable() {
  while (!entries_.empty()) erase(entries_.begin()->first, entries_.begin()->second);
}

/// The entry of the process that `stat` is of. One that had its pid before has ended, and that is told.
ProcessTable::Entry* ProcessTable::find(pid_t pid, const ProcessStat& stat) {
  const auto found = entries_.find(pid);
  if (found == entries_.end()) return nullptr;
  // A start time is a hundredth of a second, within which a pid can be used again: the pidfd knows.
  if (found->second.start_time == stat.start_time && (stat.ended || !has_ended(found->second.pidfd))) return &found->second;
  end(pid, found->second);
  return nullptr;
}

/// Whether an error is that of a moment, which a scan makes good.
bool ProcessTable::not_now(const Error& error) noexcept {
  const bool yes = cannot_tell_now(error);
  exhausted_ |= yes;
  return yes;
}

ProcessTable::Verdict ProcessTable::decide(pid_t pid, ProcessStat& stat, const FilterSet& filters, ProcessEvent& event) {
  for (int i = 0; i < max_readings; ++i) {
    Result<bool> passes = options_.reader->read(pid, filters, event);
    if (!passes && not_now(passes.error())) return Verdict::not_now;
    const Result<ProcessStat> after = options_.reader->stat(pid);
    if (!after && not_now(after.error())) return Verdict::not_now;
    if (!after || after->start_time != stat.start_time || after->ended || after->executing) return Verdict::gone;
    const bool same = after->image == stat.image;
    stat = *after;
    if (!same) continue;
    if (!passes) return Verdict::unreadable;
    event.start_time = stat.start_time;
    return *passes ? Verdict::passes : Verdict::fails;
  }
  return Verdict::changing;
}

void ProcessTable::exec(pid_t pid, Time now) {
  const Result<ProcessStat> stat = options_.reader->stat(pid);
  if (!stat && not_now(stat.error())) return;
  if (!stat || stat->ended) return;
  Entry* const entry = find(pid, *stat);
  if (stat->executing) return;  // the next thing already
  if (entry != nullptr && entry->asked && entry->image == stat->image && stat->image != 0) return;
  executed(pid, *stat, entry, now + options_.minimum_age, now, Origin::event);
}

void ProcessTable::executed(pid_t pid, ProcessStat stat, Entry* entry, Time due, Time now, Origin origin) {
  ProcessEvent event;
  const Verdict verdict = decide(pid, stat, options_.filters, event);
  switch (verdict) {
    case Verdict::gone: return;
    case Verdict::not_now:
      look_again(pid);
      if (entry != nullptr) entry->asked = false;
      if (entry != nullptr && entry->pending != Pending::nothing && entry->due <= now) wait_longer(pid, *entry, now);
      return;
    case Verdict::unreadable:
    case Verdict::changing:
      ++unreadable_;
      if (entry == nullptr && origin == Origin::event) entry = add(pid, stat);
      if (entry == nullptr) return;
      entry->exit_owed = true;
      entry->asked = verdict == Verdict::unreadable;  // else nobody has read what it executes now
      entry->image = stat.image;
      turn_down(pid, *entry);
      return;
    case Verdict::fails:
      if (entry == nullptr) return;
      entry->asked = true;
      entry->image = stat.image;
      turn_down(pid, *entry);
      return;
    case Verdict::passes: break;
  }
  if (entry == nullptr) entry = add(pid, stat);
  if (entry == nullptr) return look_again(pid);
  const bool waits = entry->pending != Pending::nothing && entry->due > now;
  if (!entry->followed()) options_.watch(pid);
  entry->passes = entry->asked = true;
  entry->image = stat.image;
  entry->inner_pid = event.inner_pid;
  entry->parent = event.parent;
  if (waits) {
    entry->pending = Pending::exec;
  } else if (entry->told || entry->pending != Pending::nothing || due <= now) {
    entry->pending = Pending::nothing;
    tell(*entry, event, ProcessEvent::Type::exec);
  } else {
    wait(pid, *entry, Pending::exec, due);
  }
}

void ProcessTable::fork(pid_t child, pid_t parent, Time now) {
  const auto found = entries_.find(parent);
  if (found == entries_.end() || !found->second.followed()) return;
  if (has_ended(found->second.pidfd)) {  // whose child is it?
    const Result<ProcessStat> stat = options_.reader->stat(parent);
    if (!stat && not_now(stat.error())) return;
    if (stat && !stat->ended) return;  // that of another process, which has the pid now
  }
  const Result<ProcessStat> stat = options_.reader->stat(child);
  if (!stat && not_now(stat.error())) return;
  if (!stat || stat->ended || stat->executing) return;
  if (find(child, *stat) != nullptr) return;
  forked(child, parent, *stat, now + options_.minimum_age, now);
}

void ProcessTable::forked(pid_t child, pid_t parent, const ProcessStat& stat, Time due, Time now) {
  const auto found = entries_.find(parent);
  if (found == entries_.end()) return;
  if (found->second.image != stat.image) {  // one of them has executed something since
    executed(child, stat, nullptr, due, now, Origin::scan);
    return;
  }
  Entry* const entry = add(child, stat);
  if (entry == nullptr) return look_again(child);
  entry->passes = entry->asked = true;
  entry->image = stat.image;
  entry->parent = parent;
  options_.watch(child);
  wait(child, *entry, Pending::fork, due);
  if (due <= now) tell_waiting(child, *entry, now);
}

void ProcessTable::opened(pid_t pid, std::string_view file) {
  const auto found = entries_.find(pid);
  if (found == entries_.end() || !found->second.followed()) return;
  if (std::find(options_.files.begin(), options_.files.end(), file) == options_.files.end()) return;
  Entry& entry = found->second;
  if (entry.pending != Pending::nothing) {
    if (entry.opened.size() < max_opened_while_waiting && std::find(entry.opened.begin(), entry.opened.end(), file) == entry.opened.end())
      entry.opened.emplace_back(file);
    return;
  }
  Result<ProcessStat> stat = options_.reader->stat(pid);
  if (!stat && not_now(stat.error())) ++unreadable_;
  if (!stat || find(pid, *stat) == nullptr) return;
  ProcessEvent event;
  switch (decide(pid, *stat, all_, event)) {
    case Verdict::passes: tell_opened(pid, file, event); break;
    case Verdict::unreadable:
    case Verdict::changing:
    case Verdict::not_now: ++unreadable_; break;
    case Verdict::fails:
    case Verdict::gone: break;
  }
}

Result<void> ProcessTable::scan(Time now) {
  const bool first = !scanned_;
  ++scans_;
  const Result<void> listed = options_.reader->list([&](pid_t pid) {
    const Result<ProcessStat> stat = options_.reader->stat(pid);
    if (!stat && not_now(stat.error())) {
      if (const auto seen = seen_.find(pid); seen != seen_.end()) seen->second.scan = scans_;
      return;
    }
    if (!stat || stat->kernel_thread) return;
    Entry* const entry = find(pid, *stat);
    if (stat->ended || stat->executing) return;
    const Time due = now + std::max(std::chrono::milliseconds{0}, options_.minimum_age - stat->age);
    if (entry != nullptr) {
      if (entry->asked && entry->image == stat->image) return;
      if (entry->image != stat->image) ++changes_;
      executed(pid, *stat, entry, due, now, Origin::scan);
      return;
    }
    if (options_.remembers) {
      Seen& seen = seen_[pid];
      const bool known = seen.scan != 0 && seen.start_time == stat->start_time && seen.image == stat->image;
      const bool again = std::exchange(seen, {stat->start_time, stat->image, scans_}).again;
      if (known && !again) return;
      if (!first && !known) ++changes_;
    }
    const auto parent = entries_.find(stat->parent);
    if (!first && parent != entries_.end() && parent->second.followed() && stat->image != 0 && parent->second.image == stat->image) {
      forked(pid, stat->parent, *stat, due, now);
    } else {
      executed(pid, *stat, nullptr, due, now, Origin::scan);
    }
  });
  if (!listed) return not_now(listed.error()) ? Result<void>() : listed;
  scanned_ = true;
  for (auto it = seen_.begin(); it != seen_.end();) it = it->second.scan == scans_ ? std::next(it) : seen_.erase(it);
  return {};
}

/// The next scan must, even if nothing has changed.
void ProcessTable::look_again(pid_t pid) {
  if (const auto seen = seen_.find(pid); seen != seen_.end()) seen->second.again = true;
}

bool ProcessTable::track(pid_t pid, std::uint64_t start_time, net::Fd pidfd) {
  const bool ended = has_ended(pidfd);
  if (ended && std::find(told_exits_.begin(), told_exits_.end(), std::pair(pid, start_time)) != told_exits_.end()) return true;
  ProcessStat stat;
  stat.start_time = start_time;
  const auto found = entries_.find(pid);
  Entry* entry = found != entries_.end() && found->second.start_time == start_time && (ended || !has_ended(found->second.pidfd))
                     ? &found->second
                     : nullptr;
  if (entry == nullptr) {
    if (found != entries_.end()) end(pid, found->second);
    entry = add(pid, stat, std::move(pidfd));
    if (entry == nullptr) return false;
    ProcessEvent event;
    if (const auto now = options_.reader->stat(pid); now && now->start_time == start_time) {
      entry->parent = now->parent;
      entry->image = now->image;
    }
    if (options_.reader->read(pid, FilterSet{}, event)) entry->inner_pid = event.inner_pid;
  }
  if (!entry->followed()) options_.watch(pid);
  entry->tracked = entry->exit_owed = true;
  return true;
}

ProcessTable::Entry* ProcessTable::add(pid_t pid, const ProcessStat& stat, net::Fd pidfd) {
  if (!pidfd) {
    Result<net::Fd> opened = options_.reader->open(pid);
    if (!opened) {
      (void)not_now(opened.error());
      return nullptr;
    }
    pidfd = *std::move(opened);
    const Result<ProcessStat> after = options_.reader->stat(pid);
    if (!after) (void)not_now(after.error());
    if (!after || after->start_time != stat.start_time || has_ended(pidfd)) return nullptr;
  }
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.u64 = token_of(pid, ++generation_);
  if (::epoll_ctl(options_.epoll, EPOLL_CTL_ADD, pidfd.get(), &interest) != 0) {
    exhausted_ = true;
    return nullptr;
  }
  seen_.erase(pid);
  Entry& entry = entries_[pid];
  entry.start_time = stat.start_time;
  entry.pidfd = std::move(pidfd);
  entry.generation = generation_;
  entry.inner_pid = pid;
  return &entry;
}

void ProcessTable::wait(pid_t pid, Entry& entry, Pending what, Time due) {
  entry.pending = what;
  entry.due = due;
  due_.push({due, pid, entry.generation});
  if (due_.size() <= 2 * entries_.size() + spare_waits) return;
  std::vector<Due> current;  // the others were given up
  for (const auto& [other, waiting] : entries_) {
    if (waiting.pending != Pending::nothing) current.push_back({waiting.due, other, waiting.generation});
  }
  due_ = std::priority_queue<Due>(std::less<Due>(), std::move(current));
}

/// It can be told, but not now.
void ProcessTable::wait_longer(pid_t pid, Entry& entry, Time now) { wait(pid, entry, entry.pending, now + pause_without_descriptors); }

void ProcessTable::tell_waiting(pid_t pid, Entry& entry, Time now) {
  Result<ProcessStat> stat = options_.reader->stat(pid);
  const bool ended = has_ended(entry.pidfd);
  if (!stat && !ended && not_now(stat.error())) return wait_longer(pid, entry, now);
  if (!stat || stat->start_time != entry.start_time || ended) {
    end(pid, entry);
    return;
  }
  if (stat->executing) return;  // that exec ends the wait
  const Pending pending = std::exchange(entry.pending, Pending::nothing);
  ProcessEvent event;
  const Verdict verdict = entry.image == stat->image ? decide(pid, *stat, all_, event) : Verdict::passes;
  if (verdict == Verdict::gone && !has_ended(entry.pidfd)) {  // it began to execute something meanwhile
    entry.pending = pending;
    return;
  }
  if (verdict == Verdict::not_now) {
    entry.pending = pending;
    return wait_longer(pid, entry, now);
  }
  if (entry.image != stat->image) {  // it has executed something that the source has not told yet
    entry.pending = pending;
    executed(pid, *stat, &entry, now, now, Origin::scan);
    return;
  }
  switch (verdict) {
    case Verdict::passes:
      event.parent = pending == Pending::fork ? entry.parent : event.parent;
      entry.inner_pid = event.inner_pid;
      tell(entry, event, pending == Pending::fork ? ProcessEvent::Type::fork : ProcessEvent::Type::exec);
      break;
    case Verdict::unreadable:
      ++unreadable_;
      entry.exit_owed = true;
      entry.opened.clear();
      break;
    case Verdict::fails:
    case Verdict::gone: end(pid, entry); break;
    case Verdict::changing:
    case Verdict::not_now: break;  // both were dealt with above
  }
}

void ProcessTable::tell(Entry& entry, ProcessEvent& event, ProcessEvent::Type type) {
  entry.told = entry.exit_owed = true;
  event.type = type;
  options_.emit(event);
  for (const std::string& file : std::exchange(entry.opened, {})) tell_opened(event.pid, file, event);
}

void ProcessTable::tell_opened(pid_t pid, std::string_view file, ProcessEvent& event) {
  event.pid = pid;
  event.type = ProcessEvent::Type::file_open;
  event.file = file;
  options_.emit(event);
}

/// What it executes now is not wanted.
void ProcessTable::turn_down(pid_t pid, Entry& entry) {
  entry.pending = Pending::nothing;
  entry.opened.clear();
  if (!entry.exit_owed) {
    erase(pid, entry);
    return;
  }
  if (std::exchange(entry.passes, false) && !entry.tracked) options_.unwatch(pid);
}

void ProcessTable::exited(std::uint64_t token) {
  const auto pid = static_cast<pid_t>(token & 0xffffffffu);
  const auto found = entries_.find(pid);
  if (found != entries_.end() && found->second.generation == token >> 32) end(pid, found->second);
}

void ProcessTable::end(pid_t pid, Entry& entry) {
  if (entry.exit_owed) {
    ProcessEvent event;
    event.type = ProcessEvent::Type::exit;
    event.pid = pid;
    event.inner_pid = entry.inner_pid;
    event.parent = entry.parent;
    event.start_time = entry.start_time;
    told_exits_.emplace_back(pid, entry.start_time);
    if (told_exits_.size() > remembered_exits) told_exits_.pop_front();
    erase(pid, entry);
    options_.emit(event);
  } else {
    erase(pid, entry);
  }
}

void ProcessTable::erase(pid_t pid, Entry& entry) {
  if (entry.followed()) options_.unwatch(pid);
  ::epoll_ctl(options_.epoll, EPOLL_CTL_DEL, entry.pidfd.get(), nullptr);  // a child of ours may have a copy, which would stay in the set
  entries_.erase(pid);
}

void ProcessTable::let_pass(Time now) {
  while (!due_.empty() && due_.top().time <= now) {
    const Due due = due_.top();
    due_.pop();
    const auto found = entries_.find(due.pid);
    if (found == entries_.end() || found->second.generation != due.generation || found->second.pending == Pending::nothing ||
        found->second.due != due.time)
      continue;
    tell_waiting(due.pid, found->second, now);
  }
}

std::optional<ProcessTable::Time> ProcessTable::next() const {
  if (due_.empty()) return std::nullopt;
  return due_.top().time;
}

}  // namespace weir::inline v0::instrument
