#pragma once
// The subcommands. Each takes its parsed options, talks on stdout and stderr, and returns the exit code.

#include <string>
#include <vector>

#include "weir/collect/collector.hpp"

namespace weir::cli {

enum class Print { tree, json, none };

struct CollectSettings {
  std::string socket;       ///< empty: the default
  std::string view_socket;  ///< empty: beside the socket
  Print print = Print::tree;
  std::string db;  ///< of traces; empty: none
  CollectorOptions collector;
  // Of `collect` alone.
  std::string http;              ///< the address of the telemetry server; empty: none
  std::string telemetry_db;      ///< empty: in memory
  std::string telemetry_policy;  ///< empty: none
};

struct ViewSettings {
  std::string view_socket;  ///< empty: the running session
  std::size_t last = 0;     ///< traces to begin with
  bool json = false;
  bool follow = false;
};

int collect(const CollectSettings& settings);
/// Requires: a command.
int run(const CollectSettings& settings, const std::vector<std::string>& command);
int view(const ViewSettings& settings);

}  // namespace weir::cli
