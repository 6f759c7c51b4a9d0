#pragma once
// The socket of `weir agent`: whoever connects is told everything as one line of JSON, and the connection ends.
//
//   weir agent ─▶ AgentSocket ══▶ read_agent(): weir ps, GET /v1/processes of the collector

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "net/unix_socket.hpp"
#include "weir/core/result.hpp"

namespace weir::cli {

/// agent.sock in the directory of the other sockets.
std::string default_agent_socket();

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class AgentSocket {
 public:
  /// Binds, by the rules of every socket of weir, and answers on a thread of its own until the end. `state`: what is told, without
  /// its newline; called on that thread. Sixteen readers at a time; one that takes longer than ten seconds is left.
  static Result<std::unique_ptr<AgentSocket>> open(const std::string& path, std::function<std::string()> state);
  ~AgentSocket();
  AgentSocket(const AgentSocket&) = delete;
  AgentSocket& operator=(const AgentSocket&) = delete;

 private:
  AgentSocket(net::UnixListener listener, net::EventFd end, std::function<std::string()> state);
  struct Reader;
  void serve();
  /// False: nobody can be let in at the moment.
  bool let_in(std::vector<Reader>& readers);

  net::UnixListener listener_;
  net::EventFd end_;
  const std::function<std::string()> state_;
  std::thread thread_;
};

/// What an agent says, without its newline. Errors: nobody listens at `path`, it does not answer within `timeout`, or says more than 64
/// MiB.
Result<std::string> read_agent(const std::string& path, std::chrono::milliseconds timeout);

}  // namespace weir::cli
