#pragma once
// The subcommands. Each takes its parsed options, talks on stdout and stderr, and returns the exit code.

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "weir/collect/collector.hpp"
#include "weir/view/analysis.hpp"
#include "weir/view/path_groups.hpp"

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

inline constexpr std::size_t most_replayed = 1000;  // traces: ViewServerOptions::max_replay

struct ViewSettings {
  std::string view_socket;          ///< empty: the running session
  std::string input;                ///< spans as JSON lines instead, "-": from stdin
  std::optional<std::size_t> last;  ///< traces to begin with; unset: what suits
  bool json = false;
  bool follow = false;
  bool once = false;  ///< the traces of before alone
  bool analyze = false;
  // Of the analysis alone.
  AnalysisOrder order{.sort = AnalysisSort::total, .limit = 20};
  std::vector<PathGroup> path_groups;
  std::string path_groups_file;  ///< further ones; empty: none
};

struct StatsSettings {
  std::string view_socket;  ///< empty: the running session
  std::chrono::milliseconds timeout{1000};
  bool json = false;
  bool all = false;  ///< zeros, too
};

enum class AgentDetector { best, kernel_events, ebpf, proc };

struct AgentSettings {
  std::string config;
  std::string socket;  ///< empty: the default
  AgentDetector detector = AgentDetector::best;
  std::chrono::milliseconds minimum_age{1000};
  std::chrono::milliseconds retry{10'000};  ///< between two tries of what failed
  std::chrono::milliseconds timeout{2000};  ///< of a process's answer
};

struct PsSettings {
  std::string socket;  ///< of the agent; empty: the default
  std::chrono::milliseconds timeout{2000};
  bool json = false;
  bool stats = false;  ///< what the processes themselves say, too
};

int collect(const CollectSettings& settings);
/// Requires: a command.
int run(const CollectSettings& settings, const std::vector<std::string>& command);
int view(const ViewSettings& settings);
int stats(const StatsSettings& settings);
int agent(const AgentSettings& settings);
int ps(const PsSettings& settings);
/// Says what of this machine weir can use (doctor.hpp).
int doctor(bool json);

}  // namespace weir::cli
