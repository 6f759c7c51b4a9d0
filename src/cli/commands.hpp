#pragma once
// The subcommands. Each takes its parsed options, talks on stdout and stderr, and returns the exit code.

#include <chrono>
#include <string>
#include <vector>

#include "weir/collect/collector.hpp"

namespace weir::cli {

enum class Print { tree, json, none };

struct CollectSettings {
  std::string socket;       ///< empty: the default
  std::string view_socket;  ///< empty: beside the socket
  Print print = Print::tree;
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

struct StatsSettings {
  std::string view_socket;  ///< empty: the running session
  std::chrono::milliseconds timeout{1000};
  bool json = false;
  bool all = false;  ///< zeros, too
};

int collect(const CollectSettings& settings);
/// Requires: a command.
int run(const CollectSettings& settings, const std::vector<std::string>& command);
int view(const ViewSettings& settings);
int stats(const StatsSettings& settings);
/// Says what of this machine weir can use (doctor.hpp).
int doctor(bool json);

}  // namespace weir::cli
