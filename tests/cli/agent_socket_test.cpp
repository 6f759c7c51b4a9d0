#include "cli/agent_socket.hpp"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/line_socket.hpp"
#include "support/scratch_dir.hpp"

using namespace std::chrono_literals;
using weir::cli::AgentSocket;
using weir::cli::read_agent;
using weir::testing::LineSocket;
using weir::testing::ScratchDir;

TEST_CASE("whoever connects is told everything as one line") {
  const ScratchDir dir;
  std::atomic<int> asked{0};
  const auto socket = AgentSocket::open(dir / "agent.sock", [&] { return "answer " + std::to_string(++asked); });
  REQUIRE(socket);
  CHECK(read_agent(dir / "agent.sock", 60s).value() == "answer 1");
  CHECK(read_agent(dir / "agent.sock", 60s).value() == "answer 2");
}

TEST_CASE("readers who do not read hold up nobody, and not the end") {
  const ScratchDir dir;
  const std::string large(8u << 20, 'x');  // more than a socket holds
  auto socket = AgentSocket::open(dir / "agent.sock", [&] { return large; });
  REQUIRE(socket);
  std::vector<LineSocket> stalled;
  for (int i = 0; i < 15; ++i) stalled.push_back(LineSocket::connect(dir / "agent.sock"));
  for (int i = 0; i < 3; ++i) CHECK(read_agent(dir / "agent.sock", 60s).value() == large);
  socket->reset();
  CHECK(read_agent(dir / "agent.sock", 60s).error().message.find("weir agent --config FILE") != std::string::npos);
}

TEST_CASE("an agent that says nothing, or half of it, is an error") {
  const ScratchDir dir;
  auto listener = weir::net::UnixListener::bind(dir / "agent.sock");
  REQUIRE(listener);
  CHECK(read_agent(dir / "agent.sock", 10ms).error().code == std::errc::timed_out);
  CHECK(listener->accept().status == weir::net::Accepted::Status::accepted);  // and it is gone
  std::thread half([&] {
    weir::net::Accepted accepted;
    while (accepted.status != weir::net::Accepted::Status::accepted) accepted = listener->accept();
    (void)weir::net::send_some(accepted.peer.fd.get(), "{\"agent\"", 8);
  });
  CHECK(read_agent(dir / "agent.sock", 60s).error().message.find("in the middle of its answer") != std::string::npos);
  half.join();
}
