// A factory of one's own: prints how much memory the processes of a program use, until stdin ends.
//
//   instrument_memory_factory '*/postgres'

#include <unistd.h>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <weir/instrument/manager.hpp>

// One process: read each `interval` milliseconds, which can be configured while it runs.
class MemoryWatch final : public weir::Instrumentation {
 public:
  MemoryWatch(pid_t pid, std::string service) : pid_(pid), service_(std::move(service)) {}

  weir::Result<weir::Status> load() override {
    if (resident() < 0) return weir::Error{std::make_error_code(std::errc::no_such_process), "cannot read the process's memory"};
    return weir::Status{{"memory", std::nullopt}};
  }
  weir::Result<void> run(const weir::StopToken& stop) override {
    weir::StopCallback on_stop(stop, [this] { end(); });
    std::unique_lock lock(mutex_);
    for (running_ = true; !ended_; changed_.wait_for(lock, interval_)) {
      std::printf("%s %d: %ld KiB\n", service_.c_str(), pid_, resident());
      std::fflush(stdout);
    }
    running_ = false;
    changed_.notify_all();
    return {};
  }
  weir::Result<void> close() override {
    end();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !running_; });
    return {};
  }
  weir::Result<void> apply_config(const weir::Config& config) override {
    std::lock_guard lock(mutex_);
    interval_ = std::chrono::seconds{1};
    if (const auto found = config.find("interval"); found != config.end()) {
      const std::int64_t* const milliseconds = std::get_if<std::int64_t>(&found->second);
      if (milliseconds == nullptr || *milliseconds < 1)
        return weir::Error{std::make_error_code(std::errc::invalid_argument), "interval should be a number of milliseconds"};
      interval_ = std::chrono::milliseconds{*milliseconds};
    }
    changed_.notify_all();
    return {};
  }

 private:
  long resident() const {
    long size = 0, pages = -1;
    std::ifstream("/proc/" + std::to_string(pid_) + "/statm") >> size >> pages;
    return pages < 0 ? -1 : pages * (::sysconf(_SC_PAGESIZE) / 1024);
  }
  void end() {
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  const pid_t pid_;
  const std::string service_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::chrono::milliseconds interval_{1000};
  bool running_ = false, ended_ = false;
};

struct MemoryFactory final : weir::Factory {
  weir::Result<std::unique_ptr<weir::Instrumentation>> create(pid_t pid, const weir::Settings& settings) override {
    auto watch = std::make_unique<MemoryWatch>(pid, settings.service_name);
    if (auto applied = watch->apply_config(settings.initial_config); !applied) return applied.error();
    return std::unique_ptr<weir::Instrumentation>(std::move(watch));
  }
};

// What the manager asks about a process: who it is, what it belongs to, what instruments it, and with which settings.
struct Details {
  std::string program;
  std::string to_string() const { return program; }
};
struct Group {
  std::string program;
  auto operator<=>(const Group&) const = default;
};
struct Errors final : weir::Reporter<Details> {
  weir::Result<void> on_init(pid_t pid, const std::optional<weir::Error>& error, const Details& details, const weir::StopToken&) override {
    if (error) std::fprintf(stderr, "%s %d: %s\n", details.program.c_str(), pid, error->message.c_str());
    return {};
  }
};

weir::Handler<Details, Group, Group> handler() {
  using weir::Result, weir::StopToken;
  return {
      .process_details = [](const weir::ProcessEvent& event, const StopToken&) -> Result<Details> { return Details{event.executable}; },
      .config_group = [](const Details& details, const weir::Distribution&, const StopToken&) -> Result<Group> {
        return Group{details.program};
      },
      .process_group = [](const Details& details, const StopToken&) -> Result<Group> { return Group{details.program}; },
      .distribution = [](const Details&, const StopToken&) -> Result<weir::Distribution> {
        return weir::Distribution{"any", "memory"};
      },
      .settings = [](const Details& details, const weir::Distribution&, const StopToken&) -> Result<weir::Settings> {
        return weir::Settings{.service_name = details.program.substr(details.program.rfind('/') + 1)};
      },
      .reporter = std::make_shared<Errors>(),
  };
}

int main(int argc, char** argv) {
  auto detector = weir::ProcessDetector::best_available({.filters = {.executables = {argc > 1 ? argv[1] : "*"}}});
  if (!detector) return std::fprintf(stderr, "%s\n", detector.error().message.c_str()), 1;
  auto manager = weir::Manager<Details, Group, Group>::create(
      {.factories = {{{"any", "memory"}, std::make_shared<MemoryFactory>()}}, .handler = handler(), .detector = std::move(*detector)});
  if (!manager) return std::fprintf(stderr, "%s\n", manager.error().message.c_str()), 1;

  weir::StopSource stop;
  std::thread input([&] {
    std::cin.ignore(std::numeric_limits<std::streamsize>::max());
    stop.request_stop();
  });
  const auto ran = manager->run(stop.token());
  input.join();
  return ran ? 0 : 1;
}
