#pragma once
// The program at the other end: original/main.go, built with go-trace itself where it can be downloaded, else with the stand-in.
//
//   WEIR_REQUIRE_INTEROP unset       nothing is required: no Go, and all is skipped
//                        original    the original is; the stand-in will not do
//                        otherwise   one of them is

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/process.hpp"

namespace weir::testing {

inline constexpr const char* original_module = "github.com/mickamy/go-trace";
inline constexpr const char* original_version = "v0.0.1";

struct Counterpart {
  std::string program;  // empty: there is none
  bool original = false;
  std::string reason{};  // why there is none, or why it is not the original
};

/// Go, with caches of its own in the build tree.
class Go {
 public:
  struct Outcome {
    int code;
    std::string text;  // of stdout and stderr
  };

  /// `proxy`: empty for the user's.
  Outcome operator()(std::vector<std::string> arguments, const std::string& directory, const std::string& proxy) const {
#ifdef WEIR_GO
    Process::Environment environment{{"GOFLAGS", "-mod=mod -modcacherw"}, {"GOTOOLCHAIN", "local"},        {"GOWORK", "off"},
                                     {"GOCACHE", WEIR_GO_CACHE "/build"}, {"GOPATH", WEIR_GO_CACHE "/go"}, {"GOBIN", WEIR_GO_CACHE "/bin"},
                                     {"GOMODCACHE", WEIR_GO_CACHE "/mod"}};
    if (!proxy.empty()) environment["GOPROXY"] = proxy;
    std::vector<std::string> command{"/usr/bin/env", "-C", directory, "timeout", "300", WEIR_GO};
    command.insert(command.end(), arguments.begin(), arguments.end());
    Process go(command, environment);
    const int code = go.wait();
    return {code, go.out() + go.err()};
#else
    (void)arguments, (void)directory, (void)proxy;
    return {1, "no go was found when this was configured"};
#endif
  }
};

/// The text on one line, as reasons are said.
inline std::string on_one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (std::size_t at; (at = text.find_first_of("\n\t")) != std::string::npos;) text.replace(at, 1, " ");
  return text;
}

inline Counterpart build_counterpart() {
#ifdef WEIR_GO
  namespace fs = std::filesystem;
  const Go go;
  const std::string at = std::string(original_module) + "@" + original_version;
  const auto sources = [](const std::string& name) {
    const std::string directory = WEIR_GO_CACHE "/" + name;
    fs::remove_all(directory);
    fs::create_directories(directory);
    fs::copy(WEIR_INTEROP_SOURCES "/original", directory, fs::copy_options::recursive);
    return directory;
  };
  const auto build = [&](const std::string& directory, const std::string& proxy) {
    // -v: something is said now and then, so that this does not seem to hang.
    return go({"build", "-v", "-o", directory + "/interop", "."}, directory, proxy);
  };

  const std::string original = sources("original");
  std::string reason;
  if (const auto download = go({"mod", "download", at}, original, ""); download.code != 0) {
    reason = "the original is not available from the Go module proxy: " + on_one_line(download.text);
  } else if (const auto built = build(original, ""); built.code != 0) {
    reason = "the original cannot be built here: " + on_one_line(built.text);
  } else {
    return {original + "/interop", true};
  }
  const std::string stand_in = sources("stand_in");
  const auto replaced =
      go({"mod", "edit", std::string("-replace=") + original_module + "=" WEIR_INTEROP_SOURCES "/stand_in"}, stand_in, "off");
  const auto built = build(stand_in, "off");
  INFO(replaced.text << built.text);
  REQUIRE(built.code == 0);
  return {stand_in + "/interop", false, reason};
#else
  return {"", false, "no go was found when this was configured"};
#endif
}

/// Built once; says on stdout what it is. Fails the test where more is required.
inline const Counterpart& counterpart() {
  static const Counterpart made = [] {
    Counterpart result = build_counterpart();
    if (result.original) {
      std::printf("interop: with the original, %s %s\n", original_module, original_version);
    } else if (!result.program.empty()) {
      std::printf("interop: with the stand-in; %s\n", result.reason.c_str());
    }
    std::fflush(stdout);
    return result;
  }();
  const char* const variable = std::getenv("WEIR_REQUIRE_INTEROP");
  const std::string required = variable != nullptr ? variable : "";
  INFO(made.reason);
  if (!required.empty() && made.program.empty()) FAIL("WEIR_REQUIRE_INTEROP is set, and there is nothing to talk to");
  if (required == "original" && !made.original) FAIL("WEIR_REQUIRE_INTEROP=original, and the original is not there");
  return made;
}

/// True where there is somebody to talk to; else a warning says why not.
inline bool has_counterpart() {
  if (!counterpart().program.empty()) return true;
  std::printf("interop skipped: %s\n", counterpart().reason.c_str());  // ctest looks for it
  return false;
}

/// One running command of it. What it prints goes to a file, so that it never waits for the test.
class Peer {
 public:
  Peer(const std::string& output, std::vector<std::string> arguments) : output_(output), process_(command(output, std::move(arguments))) {}

  /// Waits until it listens.
  void ready(std::size_t times = 1) const {
    REQUIRE(eventually([&] { return count("\"ready\"") >= times; }));
  }
  /// What it printed, line by line, but for "ready".
  std::vector<std::string> lines() const {
    std::vector<std::string> result;
    std::ifstream in(output_);
    for (std::string line; std::getline(in, line) && !in.eof();)  // a line that is not whole does not count
      if (line != "\"ready\"") result.push_back(line);
    return result;
  }
  /// Sends it a line.
  void say(std::string line) {
    line += '\n';
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t size = ::write(process_.fd(0), rest.data(), rest.size());
      REQUIRE(size > 0);
      rest.remove_prefix(static_cast<std::size_t>(size));
    }
  }
  /// The end of its input.
  void hang_up() { process_.close(0); }
  /// Waits for its end.
  void end() {
    hang_up();
    const int code = process_.wait();
    INFO(process_.err());
    CHECK(code == 0);
  }
  /// SIGTERM, and its end.
  void terminate() {
    process_.signal(SIGTERM);
    end();
  }

 private:
  static std::vector<std::string> command(const std::string& output, std::vector<std::string> arguments) {
    std::ofstream(output).flush();
    std::vector<std::string> words{"/bin/sh", "-c", "exec \"$@\" >\"$0\"", output, counterpart().program};
    words.insert(words.end(), std::make_move_iterator(arguments.begin()), std::make_move_iterator(arguments.end()));
    return words;
  }
  std::size_t count(std::string_view wanted) const {
    std::size_t found = 0;
    std::ifstream in(output_);
    for (std::string line; std::getline(in, line);) found += line == wanted;
    return found;
  }

  std::string output_;
  Process process_;
};

}  // namespace weir::testing
