#include "cli/telemetry.hpp"

#include <utility>

#include "cli/agent_socket.hpp"

namespace weir::cli {

namespace {

constexpr std::chrono::seconds agent_timeout{1};

}  // namespace

TelemetryDesk::TelemetryDesk(TelemetryStore store, std::optional<TelemetryPolicyFile> policy)
    : store_(std::move(store)), policy_(std::move(policy)) {}

TelemetryDesk::~TelemetryDesk() {
  if (thread_.joinable()) thread_.join();
}

Result<std::unique_ptr<TelemetryDesk>> TelemetryDesk::open(const CollectSettings& settings) {
  if (settings.http.empty()) return std::unique_ptr<TelemetryDesk>();
  std::optional<TelemetryPolicyFile> policy;
  if (!settings.telemetry_policy.empty()) {
    Result<TelemetryPolicyFile> read = TelemetryPolicyFile::open(settings.telemetry_policy);
    if (!read) return read.error();
    policy = std::move(*read);
  }
  Result<TelemetryStore> store = TelemetryStore::open({.path = settings.telemetry_db});
  if (!store) return store.error();
  std::unique_ptr<TelemetryDesk> desk(new TelemetryDesk(std::move(*store), std::move(policy)));
  TelemetryServerOptions options;
  options.processes = [] { return read_agent(default_agent_socket(), agent_timeout); };
  desk->server_.emplace(settings.http, desk->store_, desk->policy_ ? &*desk->policy_ : nullptr, std::move(options));
  if (auto bound = desk->server_->listen(); !bound) return bound.error();
  return desk;
}

void TelemetryDesk::start(StopSource stop) {
  thread_ = std::thread([this, stop]() mutable {
    served_ = server_->serve(stop.token());
    stop.request_stop();
  });
}

Result<void> TelemetryDesk::finish() {
  thread_.join();
  return served_;
}

}  // namespace weir::cli
