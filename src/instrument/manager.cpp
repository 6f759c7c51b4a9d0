#include "weir/instrument/manager.hpp"

#include <atomic>
#include <string>

#include "instrument/manager_inbox.hpp"
#include "instrument/manager_loop.hpp"

namespace weir::inline v0 {

std::string_view to_string(ProcessState state) noexcept {
  switch (state) {
    case ProcessState::starting: return "starting";
    case ProcessState::instrumented: return "instrumented";
    case ProcessState::failed: return "failed";
    case ProcessState::generic: return "generic";
    case ProcessState::ended_run: return "ended_run";
    case ProcessState::uninstrumented: return "uninstrumented";
    case ProcessState::closing: return "closing";
  }
  return "unknown";
}

namespace detail {

namespace {

Error wrong(std::string text) { return {std::make_error_code(std::errc::invalid_argument), "manager: " + std::move(text)}; }

}  // namespace

struct ManagerEngine::Impl {
  explicit Impl(ManagerParts given) : parts(std::move(given)) {}
  const ManagerParts parts;
  const std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  mutable ManagerBoard board;
  std::atomic<bool> ran{false};
};

ManagerEngine::ManagerEngine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ManagerEngine::~ManagerEngine() = default;

Result<std::unique_ptr<ManagerEngine>> ManagerEngine::create(ManagerParts parts) {
  constexpr std::size_t max_workers = 256;
  constexpr std::chrono::hours max_timeout{24};
  const ManagerCalls& calls = parts.calls;
  if (!calls.process_details && !calls.settings && !calls.on_init && !calls.config_group && !calls.process_group && !calls.distribution) {
    return wrong("there is no handler; set ManagerOptions::handler");
  }
  if (!calls.on_init) return wrong("there is no reporter; set Handler::reporter");
  if (!calls.process_details) return wrong("there is no process_details; set Handler::process_details");
  if (!calls.settings) return wrong("there is no settings getter; set Handler::settings");
  if (parts.detector == nullptr) return wrong("there is no detector; set ManagerOptions::detector");
  for (const auto& [distribution, factory] : parts.factories) {
    if (factory == nullptr) return wrong("the factory of " + distribution.to_string() + " is null");
  }
  for (const auto& factory : parts.generic_factories) {
    if (factory == nullptr) return wrong("a generic factory is null");
  }
  if (parts.workers < 1 || parts.workers > max_workers) return wrong("workers must be from 1 to " + std::to_string(max_workers));
  for (const auto timeout : {parts.step_timeout, parts.stop_timeout}) {
    if (timeout < std::chrono::milliseconds(1) || timeout > max_timeout) return wrong("a timeout must be from 1 ms to 24 h");
  }
  if (!parts.read_process) parts.read_process = [](pid_t pid) { return weir::read_process(pid); };
  return std::unique_ptr<ManagerEngine>(new ManagerEngine(std::make_unique<Impl>(std::move(parts))));
}

void ManagerEngine::update_config(std::vector<std::pair<GroupKey, Config>> update) { impl_->inbox->config(std::move(update)); }

void ManagerEngine::request(const Instrument& request) { impl_->inbox->request(request); }
void ManagerEngine::uninstrument(GroupKey group) { impl_->inbox->request(Uninstrument<GroupKey>{std::move(group)}); }
void ManagerEngine::request(const RetryFailed& request) { impl_->inbox->request(request); }

Result<void> ManagerEngine::run(const StopToken& stop) {
  if (impl_->ran.exchange(true)) return Error{std::make_error_code(std::errc::operation_not_permitted), "manager: it runs, or ran before"};
  ManagerLoop loop(impl_->parts, impl_->inbox, impl_->board);
  Result<void> result = loop.run(stop);
  (void)impl_->inbox->close();
  return result;
}

std::vector<ManagedRow> ManagerEngine::processes() const {
  std::vector<ManagedRow> rows;
  std::lock_guard lock(impl_->board.mutex);
  rows.reserve(impl_->board.rows.size());
  for (const auto& [pid, row] : impl_->board.rows) rows.push_back(row);
  return rows;
}

ManagerStats ManagerEngine::stats() const {
  DetectorStats detector = impl_->parts.detector->stats();
  std::lock_guard lock(impl_->board.mutex);
  ManagerStats stats = impl_->board.stats;
  stats.detector = detector;
  return stats;
}

}  // namespace detail

}  // namespace weir::inline v0
