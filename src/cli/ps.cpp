// `weir ps`: the processes that an agent knows, or those that have a control socket.
#include <unistd.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "cli/agent_socket.hpp"
#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "weir/instrument/control_factory.hpp"
#include "weir/instrument/detector.hpp"
#include "weir/trace/socket_path.hpp"
#include "weir/view/tree.hpp"

namespace weir::cli {

namespace {

using Json = nlohmann::ordered_json;

/// The processes of sockets called control-<pid>.sock, in order.
std::vector<pid_t> with_control_socket(const std::string& directory) {
  constexpr std::string_view begin = "control-", end = ".sock";
  std::vector<pid_t> pids;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), last; !error && entry != last; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (!name.starts_with(begin) || !name.ends_with(end)) continue;
    const char* const from = name.data() + begin.size();
    const char* const to = name.data() + name.size() - end.size();
    pid_t pid = 0;
    if (const auto [rest, failed] = std::from_chars(from, to, pid); failed == std::errc{} && rest == to && pid > 0) pids.push_back(pid);
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

/// As an agent would say it, of processes that no agent knows.
Json without_agent() {
  Json processes = Json::array();
  for (const pid_t pid : with_control_socket(default_socket_directory())) {
    const auto process = read_process(pid);
    if (!process) continue;  // it has left its socket behind
    processes.push_back({{"pid", pid},
                         {"start_time", process->start_time},
                         {"uid", process->uid},
                         {"executable", process->executable},
                         {"cgroup", process->cgroup},
                         {"group", nullptr},
                         {"state", "not managed"},
                         {"error", nullptr}});
  }
  return {{"agent", nullptr}, {"processes", std::move(processes)}};
}

void add_statistics(Json& processes, std::chrono::milliseconds timeout) {
  const ControlFactory factory({.directory = {}, .timeout = timeout});
  for (Json& process : processes) {
    const auto pid = process.is_object() ? process.value("pid", Json(nullptr)) : Json(nullptr);
    if (!pid.is_number_integer()) continue;
    const auto said = factory.statistics(pid.get<pid_t>());
    process["statistics"] = said ? Json::parse(*said, nullptr, false) : Json{{"error", said.error().message}};
  }
}

std::string text_of(const Json& value) {
  if (value.is_null() || value.is_discarded()) return "";
  return printable(value.is_string() ? value.get_ref<const std::string&>() : value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

const Json& member(const Json& object, const char* name) {
  static const Json nothing;
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() ? *found : nothing;
}

/// "sampling=0.1 log_level=info", and what is wrong.
std::string detail_of(const Json& process) {
  std::string detail;
  const auto add = [&](const std::string& text) { detail += (detail.empty() ? "" : "  ") + text; };
  if (const Json& config = member(process, "config"); config.is_object()) {
    for (const auto& [key, value] : config.items()) add(printable(key) + "=" + text_of(value));
  }
  if (const std::string error = text_of(member(process, "error")); !error.empty()) add(error);
  if (const Json& components = member(process, "components"); components.is_object()) {
    for (const auto& [name, error] : components.items()) {
      if (!error.is_null()) add(printable(name) + ": " + text_of(error));
    }
  }
  return detail;
}

std::string table_of(const Json& processes, bool stats) {
  std::vector<std::vector<std::string>> rows{{"PID", "STATE", "GROUP", "EXECUTABLE"}};
  if (stats) rows[0].insert(rows[0].end(), {"SPANS", "DROPPED", "NOT SAMPLED", "SAMPLING"});
  rows[0].push_back("CONFIGURATION");
  for (const Json& process : processes) {
    std::vector<std::string> row;
    for (const char* name : {"pid", "state", "group", "executable"}) row.push_back(text_of(member(process, name)));
    std::string detail = detail_of(process);
    if (stats) {
      const Json& said = member(process, "statistics");
      const Json& spans = member(said, "spans");
      std::uint64_t dropped = 0;
      if (spans.is_object()) {
        for (const auto& [name, count] : spans.items()) {
          if (name.starts_with("dropped_") && count.is_number_unsigned()) dropped += count.get<std::uint64_t>();
        }
      }
      row.push_back(text_of(member(spans, "emitted")));
      row.push_back(spans.is_object() ? std::to_string(dropped) : "");
      row.push_back(text_of(member(spans, "not_sampled")));
      row.push_back(text_of(member(said, "sampling")));
      if (const std::string error = text_of(member(said, "error")); !error.empty()) detail += (detail.empty() ? "" : "  ") + error;
    }
    row.push_back(std::move(detail));
    rows.push_back(std::move(row));
  }
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace

int ps(const PsSettings& settings) {
  const std::string path = settings.socket.empty() ? default_agent_socket() : settings.socket;
  const auto said = read_agent(path, settings.timeout);
  Json state;
  if (said) {
    state = Json::parse(*said, nullptr, false);
    if (!member(state, "processes").is_array()) return say("what listens at '" + path + "' is no agent"), exit_failed;
  } else {
    const std::error_code code = said.error().code;
    const bool nobody = code == std::errc::no_such_file_or_directory || code == std::errc::connection_refused;
    if (!nobody || !settings.socket.empty()) return say(said.error().message), exit_failed;
    state = without_agent();
    if (state["processes"].empty() && !settings.json)
      return say(said.error().message + "; and no process has a control socket"), exit_failed;
  }
  if (settings.stats) add_statistics(state["processes"], settings.timeout);
  std::string text;
  if (settings.json) {
    text = state.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  } else {
    if (!said) say("no agent listens at '" + path + "'; these have control sockets");
    if (const std::string wrong = text_of(member(member(state, "agent"), "config_error")); !wrong.empty()) say(wrong);
    text = table_of(state["processes"], settings.stats);
  }
  if (const int error = write_all(STDOUT_FILENO, text); error != 0) {
    return say("cannot write to stdout: " + std::system_category().message(error)), exit_failed;
  }
  return exit_ok;
}

}  // namespace weir::cli
