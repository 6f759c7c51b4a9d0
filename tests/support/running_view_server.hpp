#pragma once
// A view server on a thread of its own, in a directory of its own.

#include <atomic>
#include <functional>
#include <thread>
#include <utility>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/line_socket.hpp"
#include "support/scratch_dir.hpp"
#include "weir/view/view_server.hpp"

namespace weir::testing {

class RunningViewServer {
 public:
  /// `set_up` comes before the server listens.
  explicit RunningViewServer(ViewServerOptions options = {}, const std::function<void(ViewServer&)>& set_up = {})
      : server_(dir_ / "view.sock", std::move(options)) {
    if (set_up) set_up(server_);
    REQUIRE(server_.listen());
    thread_ = std::thread([this] { served_ = static_cast<bool>(server_.serve(stop_.token())); });
  }
  ~RunningViewServer() {
    stop_.request_stop();
    thread_.join();
  }

  ViewServer& operator*() { return server_; }
  ViewServer* operator->() { return &server_; }
  const std::string& path() const { return server_.socket_path(); }
  void stop() { stop_.request_stop(); }
  bool served() const { return served_; }

  /// A viewer that the server knows of.
  LineSocket viewer() {
    const std::uint64_t before = server_.stats().clients;
    LineSocket socket = LineSocket::connect(path());
    REQUIRE(eventually([&] { return server_.stats().clients == before + 1; }));
    return socket;
  }

 private:
  ScratchDir dir_;
  ViewServer server_;
  StopSource stop_;
  std::atomic<bool> served_{false};
  std::thread thread_;
};

inline void check_balance(const ViewServerStats& stats) {
  CHECK(stats.queued == stats.sent + stats.dropped + stats.abandoned + stats.waiting);
}

}  // namespace weir::testing
