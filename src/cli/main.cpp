// The command `weir`: options and help. What the subcommands do is in files of their names.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/agent_socket.hpp"
#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "cli/parse.hpp"
#include "weir/collect/telemetry_server.hpp"
#include "weir/core/version.hpp"
#include "weir/trace/socket_path.hpp"

namespace {

using weir::cli::AgentSettings;
using weir::cli::CollectSettings;
using weir::cli::PsSettings;
using weir::cli::StatsSettings;
using weir::cli::ViewSettings;

/// An option whose text `parse` turns into the value at `target`; its help shows `shown` as the default.
template <class T, class Parse>
CLI::Option* add(CLI::App& app, const std::string& name, T& target, Parse parse, const std::string& type, const std::string& shown,
                 const std::string& help) {
  const auto take = [&target, parse, name](const std::string& text) {
    auto value = parse(text);
    if (!value) throw CLI::ValidationError(name, value.error().message);
    target = std::move(*value);
  };
  return app.add_option_function<std::string>(name, take, help + (shown.empty() ? "" : " (default: " + shown + ")"))->type_name(type);
}

weir::Result<weir::cli::Print> parse_print(const std::string& text) {
  if (text == "tree") return weir::cli::Print::tree;
  if (text == "json") return weir::cli::Print::json;
  if (text == "none") return weir::cli::Print::none;
  return weir::Error{std::make_error_code(std::errc::invalid_argument), "'" + text + "' is not one of tree, json, none"};
}

/// Absolute, because services that are told the path run elsewhere.
weir::Result<std::string> parse_path(const std::string& text) {
  if (!text.empty()) return std::filesystem::absolute(text).lexically_normal().string();
  return weir::Error{std::make_error_code(std::errc::invalid_argument), "the path is empty"};
}

weir::Result<std::size_t> parse_last(const std::string& text) {
  if (text == "0") return std::size_t{0};
  return weir::cli::parse_count(text);
}

weir::Result<std::size_t> parse_replay(const std::string& text) {
  const weir::Result<std::size_t> count = parse_last(text);
  if (count && *count > weir::cli::most_replayed) {
    return weir::Error{std::make_error_code(std::errc::invalid_argument),
                       "a collector replays at most " + std::to_string(weir::cli::most_replayed) + " traces"};
  }
  return count;
}

/// At least one.
weir::Result<std::chrono::minutes> parse_minutes(const std::string& text) {
  const auto duration = weir::cli::parse_duration(text);
  if (!duration) return duration.error();
  return std::max(std::chrono::ceil<std::chrono::minutes>(*duration), std::chrono::minutes{1});
}

void add_collect_options(CLI::App& app, CollectSettings& settings, const std::string& socket, const std::string& output) {
  using namespace weir::cli;
  auto& store = settings.collector.store;
  add(app, "--socket", settings.socket, parse_path, "PATH", socket,
      "the socket that services send to; its directory is made if it is missing, not those above it, and stays");
  add(app, "--view-socket", settings.view_socket, parse_path, "PATH", "beside the socket: NAME.sock, NAME-view.sock",
      "the socket that viewers connect to");
  add(app, "--db", settings.db, parse_path, "FILE", "none: gone with the collector",
      "the SQLite database that completed traces are kept in, too, within the same bounds, and restored from");
  add(app, "--max-traces", store.max_traces, parse_count, "N", std::to_string(store.max_traces), "completed traces kept in memory");
  add(app, "--max-age", store.max_age, parse_minutes, "DURATION", std::to_string(store.max_age.count()) + "m",
      "how long completed traces are kept, as 5m or 24h");
  add(app, "--max-memory", store.max_bytes, parse_bytes, "BYTES", std::to_string(store.max_bytes >> 20) + "MiB",
      "memory for all traces, as 4096, 64KiB, 256MiB or 2GiB; the oldest leave first");
  add(app, "--max-pending", store.max_pending, parse_count, "N", std::to_string(store.max_pending),
      "spans that wait for their start or end; beyond it the oldest are given up");
  add(app, "--trace-ttl", store.trace_ttl, parse_duration, "DURATION", std::to_string(store.trace_ttl.count() / 1000) + "s",
      "how long a trace may take before it is completed without its root, as 500ms, 60s or 5m");
  add(app, "--settle", store.settle, parse_duration, "DURATION", std::to_string(store.settle.count()) + "ms",
      "how long a trace must be quiet after its root ended");
  add(app, "--print", settings.print, parse_print, "tree|json|none", "tree",
      "completed traces on " + output + ": as trees, as one line of JSON per root span, or not at all");
  app.add_flag_callback(
      "--no-shared-memory", [&settings] { settings.collector.shared_memory = false; },
      "do not map the memory that services share; they send their spans over the socket (default: map it)");
  app.add_option_function<std::vector<std::string>>(
         "--allow-uid",
         [&settings](const std::vector<std::string>& users) {
           for (const std::string& text : users) {
             auto uid = weir::cli::parse_user(text);
             if (!uid) throw CLI::ValidationError("--allow-uid", uid.error().message);
             settings.collector.allow_uids.push_back(*uid);
           }
         },
         "another user, by uid or name, who may send spans and view them; can be repeated (default: nobody)")
      ->type_name("UID")
      ->expected(1)
      ->take_all();
}

weir::Result<std::string> parse_address(const std::string& text) {
  if (auto checked = weir::TelemetryServer::check_address(text); !checked) return checked.error();
  constexpr std::string_view unix_prefix = "unix:";
  return text.starts_with(unix_prefix) ? std::string(unix_prefix) + *parse_path(text.substr(unix_prefix.size())) : text;
}

void add_telemetry_options(CLI::App& app, CollectSettings& settings) {
  CLI::Option* const http = add(app, "--http", settings.http, parse_address, "ADDRESS", "no telemetry",
                                "where instances send telemetry to and it is read, as 4318 (on 127.0.0.1), 127.0.0.1:4318 or unix:PATH");
  add(app, "--telemetry-db", settings.telemetry_db, parse_path, "FILE", "in memory", "the database that telemetry is kept in")->needs(http);
  add(app, "--telemetry-policy", settings.telemetry_policy, parse_path, "FILE", "an update each hour",
      "what instances are told, in JSON; read again when it changes")
      ->needs(http);
}

weir::Result<std::string> parse_input(const std::string& text) { return text == "-" ? weir::Result<std::string>(text) : parse_path(text); }

weir::Result<weir::AnalysisSort> parse_sort(const std::string& text) {
  if (text == "total") return weir::AnalysisSort::total;
  if (text == "avg") return weir::AnalysisSort::average;
  if (text == "p95") return weir::AnalysisSort::p95;
  if (text == "count") return weir::AnalysisSort::count;
  return weir::Error{std::make_error_code(std::errc::invalid_argument), "'" + text + "' is not one of total, avg, p95, count"};
}

void add_view_options(CLI::App& app, ViewSettings& settings) {
  CLI::Option* const socket =
      add(app, "--view-socket", settings.view_socket, parse_path, "PATH",
          "the running one: of WEIR_SOCKET, else in " + weir::default_socket_directory(), "the view socket of the collector");
  CLI::Option* const last = add(app, "--last", settings.last, parse_replay, "N", "0: live spans only; with --analyze or --once: 1000",
                                "begin with the last N traces that the collector keeps, at most 1000, as far as they fit into 1MiB");
  app.add_flag("--json", settings.json, "one line of JSON per span instead of trees, or the analysis as one object (default: off)");
  CLI::Option* const follow =
      app.add_flag("--follow", settings.follow, "wait for a collector, and for the next one when it ends (default: off)");
  CLI::Option* const once =
      app.add_flag("--once", settings.once, "end behind the traces that the collector keeps instead of waiting for more (default: off)")
          ->excludes(follow);
  add(app, "--input", settings.input, parse_input, "FILE", "a collector; with --analyze: stdin, if that is a file",
      "read spans from a file of JSON lines, as --json and `weir collect --print json` write them; -: from stdin")
      ->excludes(socket)
      ->excludes(last)
      ->excludes(once)
      ->excludes(follow);

  CLI::Option* const analyze =
      app.add_flag("--analyze", settings.analyze,
                   "at the end, print which endpoints, queries and functions took the time, and N+1 queries (default: off)");
  add(app, "--sort", settings.order.sort, parse_sort, "total|avg|p95|count", "total", "what the rows of the analysis are ordered by")
      ->needs(analyze);
  add(app, "--limit", settings.order.limit, parse_last, "N", std::to_string(settings.order.limit), "rows of each table; 0: all")
      ->needs(analyze);
  app.add_option_function<std::vector<std::string>>(
         "--path-group",
         [&settings](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) {
             auto group = weir::parse_path_group(text);
             if (!group) throw CLI::ValidationError("--path-group", group.error().message);
             if (auto checked = weir::PathGroups::create({*group}); !checked) {
               throw CLI::ValidationError("--path-group", checked.error().message);
             }
             settings.path_groups.push_back(std::move(*group));
           }
         },
         "paths that are one endpoint, as '/users/[0-9]+=/users/:id'; the first that matches a whole path counts; can be repeated "
         "(default: none)")
      ->type_name("REGEX=NAME")
      ->expected(1)
      ->take_all()
      ->needs(analyze);
  add(app, "--path-groups", settings.path_groups_file, parse_path, "FILE", "none", "further path groups, one to a line; # begins a comment")
      ->needs(analyze);
  app.footer(
      "Ends when the collector does. With --follow, --last asks each collector that it connects to; a span that comes\n"
      "again is shown once in trees, each time with --json. SIGINT ends it, and an analysis is printed then, too.\n"
      "Colours only on a terminal and without NO_COLOR.");
}

/// --keep and --drop make one list, in the order in which they are given.
void add_keep_options(CLI::App& app, weir::TraceStoreOptions& store) {
  const auto add_rule = [&](const std::string& name, double part, const std::string& help) {
    const auto take = [&store, name, part](const std::string& text) {
      auto rule = weir::KeepRule::parse(text);
      if (!rule) throw CLI::ValidationError(name, rule.error().message);
      rule->part = part;
      store.keep.push_back(std::move(*rule));
    };
    app.add_option_function<std::string>(name, take, help)->type_name("CONDITION")->trigger_on_parse();
  };
  add_rule("--keep", 1,
           "keep completed traces for which this holds: error, duration>=250ms, name=GLOB (of the root), service=GLOB, KEY=GLOB (an "
           "attribute), or several with && between; can be repeated, the first --keep or --drop that holds decides; what becomes of "
           "all others, --keep-ratio says (default: all)");
  add_rule("--drop", 0, "do not print, keep or replay completed traces for which this holds; viewers see their spans (default: none)");
  add(app, "--keep-ratio", store.keep_ratio, weir::cli::parse_ratio, "RATIO", "1",
      "keep this part, from 0 to 1, of the traces for which no --keep or --drop holds; by trace id, as samplers do");
}

CLI::App& add_stats(CLI::App& app, StatsSettings& settings) {
  CLI::App& stats = *app.add_subcommand("stats", "Print the counters of a running collector");
  add(stats, "--view-socket", settings.view_socket, parse_path, "PATH",
      "the running one: of WEIR_SOCKET, else in " + weir::default_socket_directory(), "the view socket of the collector");
  add(stats, "--timeout", settings.timeout, weir::cli::parse_duration, "DURATION", "1s", "how long to wait for the answer");
  CLI::Option* const json = stats.add_flag("--json", settings.json, "one line of JSON, as the collector answers (default: a table)");
  stats.add_flag("--all", settings.all, "counters that are zero, too (default: off)")->excludes(json);
  return stats;
}

weir::Result<weir::cli::AgentDetector> parse_detector(const std::string& text) {
  using weir::cli::AgentDetector;
  if (text == "best") return AgentDetector::best;
  if (text == "kernel-events") return AgentDetector::kernel_events;
  if (text == "ebpf") return AgentDetector::ebpf;
  if (text == "proc") return AgentDetector::proc;
  return weir::Error{std::make_error_code(std::errc::invalid_argument), "'" + text + "' is not one of best, kernel-events, ebpf, proc"};
}

/// Also none at all.
weir::Result<std::chrono::milliseconds> parse_age(const std::string& text) {
  if (text == "0") return std::chrono::milliseconds{0};
  return weir::cli::parse_duration(text);
}

CLI::App& add_agent(CLI::App& app, AgentSettings& settings) {
  CLI::App& agent = *app.add_subcommand("agent", "Find processes, instrument them, keep them configured as a file says");
  add(agent, "--config", settings.config, parse_path, "FILE", "",
      "groups of processes and their configurations, in JSON; read again when it changes")
      ->required();
  add(agent, "--socket", settings.socket, parse_path, "PATH", weir::cli::default_agent_socket(), "the socket that tells of the processes");
  add(agent, "--detector", settings.detector, parse_detector, "best|kernel-events|ebpf|proc", "best: the first that works here",
      "how processes are found");
  add(agent, "--minimum-age", settings.minimum_age, parse_age, "DURATION", "1s",
      "how long a process must have run before it is looked at; 0: at once");
  add(agent, "--retry", settings.retry, weir::cli::parse_duration, "DURATION", "10s", "how long to wait before what failed is tried again");
  add(agent, "--timeout", settings.timeout, weir::cli::parse_duration, "DURATION", "2s", "how long to wait for a process's answer");
  agent.footer(
      "Prints `watching config=... socket=... detector=...` on stderr when ready, and a line on stdout for each process that is\n"
      "instrumented, failed, exited, or left. SIGINT or SIGTERM stops it, within ten seconds; what it has configured stays as it is. A\n"
      "second signal, after 200ms at the earliest, ends it at once. docs/instrumentation.md describes the file.");
  return agent;
}

CLI::App& add_ps(CLI::App& app, PsSettings& settings) {
  CLI::App& ps =
      *app.add_subcommand("ps", "List the processes that an agent knows, and their state; without an agent, those with a control socket");
  add(ps, "--socket", settings.socket, parse_path, "PATH", weir::cli::default_agent_socket(), "the agent's socket");
  add(ps, "--timeout", settings.timeout, weir::cli::parse_duration, "DURATION", "2s",
      "how long to wait for the agent, and for each process");
  ps.add_flag("--stats", settings.stats, "also ask each process for its counters (default: off)");
  ps.add_flag("--json", settings.json, "one line of JSON, also when there is no agent and no process (default: a table)");
  return ps;
}

CLI::App& add_doctor(CLI::App& app, bool& json) {
  CLI::App& doctor = *app.add_subcommand("doctor", "Try what weir needs of this machine, and say what to do where it does not work");
  doctor.add_flag("--json", json, "one line of JSON (default: a line for each check)");
  doctor.footer("Exit codes: 0 services can be traced here, 1 they cannot, 2 wrong usage. Nothing that it makes stays.");
  return doctor;
}

/// Throws CLI::ValidationError if the rules change nothing.
void check_keep_options(const weir::TraceStoreOptions& store) {
  const bool drops =
      store.keep_ratio < 1 || std::any_of(store.keep.begin(), store.keep.end(), [](const auto& rule) { return rule.part < 1; });
  if (store.keep.empty() || drops) return;
  throw CLI::ValidationError("--keep", "all other traces are kept, too; say with --keep-ratio 0 or with --drop which are not");
}

/// Throws CLI::ValidationError if viewers would be given the socket that is for services; `socket`: the default.
void check_sockets(const CollectSettings& settings, const std::string& socket) {
  if (settings.view_socket.empty() || settings.view_socket != (settings.socket.empty() ? socket : settings.socket)) return;
  throw CLI::ValidationError("--view-socket", "'" + settings.view_socket + "' is the socket for services; viewers need one of their own");
}

/// `weir help [COMMAND]` means `weir [COMMAND] --help`. What is no command stays, and is refused.
void spell_out_help(const CLI::App& app, std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.front() != "help") return;
  while (!arguments.empty() && arguments.front() == "help") arguments.erase(arguments.begin());
  if (arguments.empty())
    arguments.push_back("--help");
  else if (!app.get_subcommands([&](const CLI::App* command) { return command->get_name() == arguments.front(); }).empty())
    arguments.insert(arguments.begin() + 1, "--help");
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
  return text;
}

int dispatch(std::vector<std::string> arguments) {
  CLI::App app("weir: see what flows through a C++ service.", "weir");
  app.set_version_flag("--version", "weir " WEIR_VERSION_STRING);
  app.require_subcommand(1);
  app.footer("Exit codes: 0 fine, 1 failed, 2 wrong usage. `weir help COMMAND` lists the options of a command.");

  CollectSettings collect_settings;
  CLI::App& collect = *app.add_subcommand("collect", "Collect spans from services, print their traces, serve viewers");
  add_collect_options(collect, collect_settings, weir::default_socket_path(), "stdout");
  add_keep_options(collect, collect_settings.collector.store);
  add_telemetry_options(collect, collect_settings);
  collect.footer(
      "Prints `listening socket=... view=... [http=...] [db=...]` on stderr when ready. SIGINT or SIGTERM stops it: what has arrived is\n"
      "completed and printed, the counters follow as one line of JSON on stderr, or as a short summary where that is a\n"
      "terminal. A second signal, after 200ms at the earliest, ends it at once.\n"
      "Services find it through WEIR_SOCKET, else at the default path. Colours only on a terminal and without NO_COLOR.");

  CollectSettings run_settings;
  CLI::App& run = *app.add_subcommand("run", "Run a command with a collector of its own: weir run [OPTIONS] -- COMMAND...");
  add_collect_options(run, run_settings, weir::default_socket_directory() + "/run-PID.sock", "stderr");
  add_keep_options(run, run_settings.collector.store);
  run.prefix_command();
  run.footer(
      "The command finds the collector through WEIR_SOCKET and keeps its stdin, stdout and stderr; traces are printed on\n"
      "stderr. Its exit code is passed on: 128 + N when signal N killed it, 127 when it was not found, 126 when it cannot\n"
      "be executed. Signals sent to weir are passed on to it.");

  ViewSettings view_settings;
  CLI::App& view = *app.add_subcommand("view", "Show the spans of a running collector as they come");
  add_view_options(view, view_settings);

  StatsSettings stats_settings;
  const CLI::App& stats = add_stats(app, stats_settings);
  AgentSettings agent_settings;
  const CLI::App& agent = add_agent(app, agent_settings);
  PsSettings ps_settings;
  const CLI::App& ps = add_ps(app, ps_settings);
  bool doctor_json = false;
  const CLI::App& doctor = add_doctor(app, doctor_json);

  spell_out_help(app, arguments);
  // What stands behind `--` is a command's, never ours.
  const auto separator = std::find(arguments.begin(), arguments.end(), "--");
  const bool separated = separator != arguments.end();
  const std::vector<std::string> behind(separated ? separator + 1 : arguments.end(), arguments.end());
  arguments.erase(separator, arguments.end());

  const std::string first = arguments.empty() ? "" : arguments.front();
  std::vector<std::string> command;
  try {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    app.parse(arguments);
    command = run.remaining();
    if (separated && !command.empty()) command.push_back("--");
    command.insert(command.end(), behind.begin(), behind.end());
    if (separated && !run.parsed()) throw CLI::ExtrasError({"--"});
    check_keep_options((run.parsed() ? run_settings : collect_settings).collector.store);
    if (collect.parsed()) check_sockets(collect_settings, weir::default_socket_path());
    if (run.parsed()) {
      check_sockets(run_settings, "");
      if (command.empty()) throw CLI::RequiredError("A command, as in weir run -- COMMAND,");
      if (command.front().starts_with('-') && !run.remaining().empty()) throw CLI::ExtrasError({command.front()});
    }
  } catch (const CLI::ParseError& error) {
    // CLI11 would say that a subcommand is missing, or show help that was not asked for.
    const bool unknown = app.get_subcommands().empty() && !first.empty();
    if (error.get_exit_code() == 0 && (!unknown || first.starts_with('-'))) return app.exit(error);  // help, version
    std::string name = "weir";
    for (const CLI::App* subcommand : app.get_subcommands()) name += " " + subcommand->get_name();
    const std::string what = unknown ? "There is no '" + first + "'" : one_line(error.what());
    weir::cli::say(what + ". Try `" + name + " --help`");
    return weir::cli::exit_usage;
  }
  if (collect.parsed()) return weir::cli::collect(collect_settings);
  if (run.parsed()) return weir::cli::run(run_settings, command);
  if (stats.parsed()) return weir::cli::stats(stats_settings);
  if (agent.parsed()) return weir::cli::agent(agent_settings);
  if (ps.parsed()) return weir::cli::ps(ps_settings);
  if (doctor.parsed()) return weir::cli::doctor(doctor_json);
  return weir::cli::view(view_settings);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return dispatch({argv + std::min(argc, 1), argv + argc});
  } catch (const std::exception& error) {
    weir::cli::say(error.what());
    return weir::cli::exit_failed;
  }
}
