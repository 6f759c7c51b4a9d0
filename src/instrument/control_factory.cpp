#include "weir/instrument/control_factory.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "instrument/control_client.hpp"
#include "net/fd.hpp"
#include "net/unix_socket.hpp"

namespace weir::inline v0 {

namespace {

using instrument::ControlClient;

constexpr int end_wait = 500;  // ms: how long a process takes at most to end once its sockets are closed

std::chrono::milliseconds bounded(std::chrono::milliseconds timeout) {
  return std::clamp<std::chrono::milliseconds>(timeout, std::chrono::milliseconds(1), std::chrono::hours(1));
}

/// Thread-safety: as Instrumentation says.
class ControlledProcess final : public Instrumentation {
 public:
  ControlledProcess(pid_t pid, net::Fd process, net::EventFd wake, Config initial, const ControlFactoryOptions& options)
      : pid_(pid), process_(std::move(process)), closed_(std::move(wake)), initial_(std::move(initial)), options_(options) {}
  ~ControlledProcess() override { (void)close(); }

  Result<Status> load() override {
    auto connected = ControlClient::connect(pid_, options_.directory, bounded(options_.timeout), &closed_);
    if (!connected) return std::move(connected).error();
    const std::shared_ptr<ControlClient> client(std::move(*connected));
    // Who listens has the pid; as long as ours has not ended, that is ours.
    if (pollfd process{process_.get(), POLLIN, 0}; net::uninterrupted([&] { return ::poll(&process, 1, 0); }) > 0)
      return Error{std::make_error_code(std::errc::no_such_process), "process " + std::to_string(pid_) + " has ended"};
    Status status{{"socket", std::nullopt}, {"configuration", std::nullopt}};
    bool refused = false;
    if (auto set = apply(*client, initial_, refused); !set) {
      if (!refused) return std::move(set).error();
      status["configuration"] = std::move(set).error();
    }
    const std::lock_guard lock(mutex_);
    client_ = client;
    return status;
  }

  Result<void> run(const StopToken& stop) override {
    Result<net::EventFd> stopped = net::EventFd::create();
    if (!stopped) return std::move(stopped).error();
    std::shared_ptr<ControlClient> client;
    {
      const std::lock_guard lock(mutex_);
      if (over_) return {};
      client = client_;
      if (client == nullptr) return not_connected();
      ++running_;
    }
    Result<void> result;
    {
      const StopCallback on_stop(stop, [&] { stopped->wake(); });
      result = watch(*client, *stopped);
    }
    const std::lock_guard lock(mutex_);
    --running_;
    ended_.notify_all();
    return result;
  }

  Result<void> close() override {
    closed_.wake();
    std::unique_lock lock(mutex_);
    over_ = true;
    ended_.wait(lock, [this] { return running_ == 0; });
    client_.reset();  // an apply_config() in progress has been woken, and lets go of it
    return {};
  }

  Result<void> apply_config(const Config& config) override {
    const std::shared_ptr<ControlClient> client = connected();
    if (client == nullptr) return not_connected();
    bool refused = false;
    return apply(*client, config, refused);
  }

 private:
  std::shared_ptr<ControlClient> connected() {
    const std::lock_guard lock(mutex_);
    return client_;
  }
  Error not_connected() const {
    return {std::make_error_code(std::errc::not_connected),
            "process " + std::to_string(pid_) + " is not connected: load() comes first, and close() last"};
  }

  static Result<void> apply(ControlClient& client, const Config& config, bool& refused) {
    const Result<std::string> member = instrument::set_member(config);
    if (!member) {
      refused = true;
      return member.error();
    }
    if (auto answer = client.request(*member, refused); !answer) return std::move(answer).error();
    return {};
  }

  /// Until it is closed, stopped, or the connection is over.
  Result<void> watch(const ControlClient& client, const net::EventFd& stopped) const {
    for (;;) {
      std::array<pollfd, 3> entries{pollfd{client.fd(), POLLRDHUP, 0}, pollfd{closed_.fd(), POLLIN, 0}, pollfd{stopped.fd(), POLLIN, 0}};
      const int ready = ::poll(entries.data(), entries.size(), -1);
      if (ready < 0 && errno == EINTR) continue;
      if (ready < 0) return system_error(errno, "poll");
      if (entries[1].revents != 0 || entries[2].revents != 0) return {};
      if (entries[0].revents == 0) continue;
      if (process_ended()) return {};
      return Error{std::make_error_code(std::errc::connection_reset),
                   "process " + std::to_string(pid_) + " has closed its control socket; it keeps the configuration that it had"};
    }
  }

  /// A process that ends closes its sockets a little before.
  bool process_ended() const {
    std::array<pollfd, 2> entries{pollfd{process_.get(), POLLIN, 0}, pollfd{closed_.fd(), POLLIN, 0}};
    return net::uninterrupted([&] { return ::poll(entries.data(), entries.size(), end_wait); }) > 0;
  }

  const pid_t pid_;
  const net::Fd process_;
  const net::EventFd closed_;
  const Config initial_;
  const ControlFactoryOptions options_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable ended_;
  std::shared_ptr<ControlClient> client_;
  int running_ = 0;
  bool over_ = false;
};

}  // namespace

ControlFactory::ControlFactory(ControlFactoryOptions options) : options_(std::move(options)) {}
ControlFactory::~ControlFactory() = default;

Result<std::unique_ptr<Instrumentation>> ControlFactory::create(pid_t pid, const Settings& settings) {
  net::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return system_error(errno, "cannot watch process " + std::to_string(pid));
  if (const auto place = instrument::find_control_socket(pid, options_.directory); !place) return place.error();
  Result<net::EventFd> wake = net::EventFd::create();
  if (!wake) return std::move(wake).error();
  return std::unique_ptr<Instrumentation>(
      std::make_unique<ControlledProcess>(pid, std::move(process), std::move(*wake), settings.initial_config, options_));
}

Result<std::string> ControlFactory::statistics(pid_t pid) const {
  const auto client = ControlClient::connect(pid, options_.directory, bounded(options_.timeout));
  if (!client) return client.error();
  bool refused = false;
  const Result<std::string> answer = (*client)->request("\"get\":\"stats\"", refused);
  if (!answer) return answer.error();
  const auto parsed = nlohmann::json::parse(*answer, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("stats")) {
    return Error{std::make_error_code(std::errc::protocol_error), "process " + std::to_string(pid) + " answers without statistics"};
  }
  return parsed["stats"].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace weir::inline v0
