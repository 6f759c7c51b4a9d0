#pragma once
// The command `weir` in a place of its own: a directory that it takes for the user's runtime directory. For tests that know
// WEIR_COMMAND.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/line_socket.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"
#include "weir/trace/event.hpp"

namespace weir::testing {

struct CommandPlace {
  using Words = std::vector<std::string>;

  ScratchDir dir;
  Process::Environment environment{{"XDG_RUNTIME_DIR", dir.path()}, {"WEIR_SOCKET", ""}, {"NO_COLOR", ""}};

  std::string socket() const { return dir / "weir/weir.sock"; }
  std::string view_socket() const { return dir / "weir/weir-view.sock"; }

  std::unique_ptr<Process> start(Words words) const {
    words.insert(words.begin(), WEIR_COMMAND);
    return std::make_unique<Process>(std::move(words), environment);
  }
  /// A collector that is ready.
  std::unique_ptr<Process> collect(Words options = {}) const {
    options.insert(options.begin(), "collect");
    auto process = start(std::move(options));
    REQUIRE(process->line_with(2, "listening socket=").find(" view=") != std::string::npos);
    return process;
  }
  /// Sends a trace of one span. The collector reads it in time: the connection is closed after us.
  void send(const std::string& trace, const std::string& name, std::chrono::milliseconds duration, StringAttributes attributes = {}) const {
    const Timestamp start{std::chrono::seconds{1'700'000'000}};
    LineSocket service = LineSocket::connect(socket());
    REQUIRE(service.send(to_json(Event::span_start("a", trace, "", name, SpanKind::http, start)) + "\n" +
                         to_json(Event::span_end("a", trace, start + duration, std::move(attributes))) + "\n"));
  }
};

}  // namespace weir::testing
