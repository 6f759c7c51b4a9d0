// checkout_load: sends real requests to the checkout service, watches the spans that come out at the other end, and ends
// with one line of JSON: requests, failures, spans and traces seen, and the slowest trace.
//
//   checkout_load --port N --view-socket PATH [--seconds N] [--rate R]

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <weir/view/tree.hpp>
#include <weir/view/view_client.hpp>

namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> interrupted{false};

/// What a viewer sees: counts every span and remembers the slowest root.
class Watcher {
 public:
  explicit Watcher(const std::string& view_socket)
      : thread_([this, view_socket] {
          weir::ViewClient client(view_socket);
          for (bool said = false; !stop_.stop_requested();) {  // a collector may be replaced by another
            const auto watched = client.run(stop_.token(), [this](std::string_view, const weir::Span& span) { saw(span); });
            if (!watched && !std::exchange(said, true)) std::fprintf(stderr, "checkout_load: %s\n", watched.error().message.c_str());
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          }
        }) {}
  ~Watcher() {
    stop_.request_stop();
    thread_.join();
  }

  nlohmann::json summary() const {
    std::lock_guard lock(mutex_);
    return {{"spans_viewed", spans_},
            {"traces_viewed", traces_},
            {"slowest", slowest_.name},
            {"slowest_duration", weir::format_duration(slowest_.duration())}};
  }
  std::uint64_t traces() const {
    std::lock_guard lock(mutex_);
    return traces_;
  }

 private:
  void saw(const weir::Span& span) {
    std::lock_guard lock(mutex_);
    ++spans_;
    if (!span.parent_id.empty()) return;
    ++traces_;
    if (span.duration() > slowest_.duration()) slowest_ = span;
  }

  mutable std::mutex mutex_;
  std::uint64_t spans_ = 0, traces_ = 0;
  weir::Span slowest_;
  weir::StopSource stop_;
  std::thread thread_;
};

/// One of the requests that customers make; false if the service did not answer as it should.
bool send_one(httplib::Client& client, std::mt19937& random) {
  const auto percent = random() % 100;
  if (percent < 50) {
    const auto reply = client.Get("/orders?limit=6");
    return reply && reply->status == 200;
  }
  if (percent < 75) {
    const auto reply = client.Get("/orders/" + std::to_string(1 + random() % 8));  // the first six exist
    return reply && (reply->status == 200 || reply->status == 404);
  }
  const int product = percent < 95 ? 1 + static_cast<int>(random() % 2) : 3;  // of the third there are three
  const auto body = nlohmann::json{{"customer", "ada"}, {"product", product}, {"quantity", 2}}.dump();
  const auto reply = client.Post("/orders", body, "application/json");
  return reply && (reply->status == 201 || reply->status == 409);
}

}  // namespace

int main(int argc, char** argv) {
  int port = 0;
  double seconds = 10, rate = 20;
  std::string view_socket;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--port") port = std::atoi(argv[i + 1]);
    if (option == "--seconds") seconds = std::atof(argv[i + 1]);
    if (option == "--rate") rate = std::atof(argv[i + 1]);
    if (option == "--view-socket") view_socket = argv[i + 1];
  }
  if (port <= 0 || view_socket.empty() || seconds <= 0 || rate <= 0) {
    std::fprintf(stderr,
                 "usage: checkout_load --port N --view-socket PATH [--seconds N (default: 10)] [--rate requests/s (default: 20)]\n");
    return 2;
  }
  std::signal(SIGINT, [](int) { interrupted = true; });
  std::signal(SIGTERM, [](int) { interrupted = true; });

  Watcher watcher(view_socket);
  httplib::Client client("127.0.0.1", port);
  client.set_keep_alive(true);
  client.set_tcp_nodelay(true);
  std::mt19937 random(7);
  std::uint64_t requests = 0, failed = 0;
  const auto begin = Clock::now(), end = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (auto due = begin; due < end && Clock::now() < end && !interrupted; ++requests) {
    std::this_thread::sleep_until(due);
    if (!send_one(client, random)) ++failed;
    due += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / rate));
  }
  // The last spans are on their way: wait for them, as long as they come.
  std::uint64_t seen = watcher.traces();
  for (auto limit = Clock::now() + std::chrono::seconds(2); seen < requests && Clock::now() < limit && !interrupted;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const std::uint64_t before = std::exchange(seen, watcher.traces());
    if (seen != before) limit = Clock::now() + std::chrono::seconds(2);
  }

  nlohmann::json summary = watcher.summary();
  summary["requests"] = requests;
  summary["failed"] = failed;
  std::printf("%s\n", summary.dump().c_str());
  return failed == 0 ? 0 : 1;
}
