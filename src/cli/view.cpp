#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "cli/sessions.hpp"
#include "cli/signals.hpp"
#include "cli/span_input.hpp"
#include "net/unix_socket.hpp"
#include "weir/trace/socket_path.hpp"
#include "weir/view/analysis.hpp"
#include "weir/view/tree.hpp"
#include "weir/view/tree_assembler.hpp"
#include "weir/view/view_client.hpp"

namespace weir::cli {

namespace {

constexpr auto retry_pause = std::chrono::milliseconds{250};
constexpr auto tick = std::chrono::seconds{1};

/// Writes to stdout until it fails; then requests a stop. A reader that went (`weir view | head`) is no failure.
class Out {
 public:
  explicit Out(StopSource stop) : stop_(std::move(stop)) {}
  void write(std::string_view text) {
    if (error_ == 0 && (error_ = write_all(STDOUT_FILENO, text)) != 0) stop_.request_stop();
  }
  int error() const { return error_ == EPIPE ? 0 : error_; }

 private:
  StopSource stop_;
  int error_ = 0;
};

/// Trees out of a stream of spans; orphans come out in time even when nothing else arrives.
class Trees {
 public:
  explicit Trees(std::function<void(const Span& tree)> on_tree)
      : trees_(std::move(on_tree)), ticker_([this] {
          std::unique_lock lock(mutex_);
          while (!ended_.wait_for(lock, tick, [&] { return end_; })) trees_.advance(std::chrono::steady_clock::now());
        }) {}
  ~Trees() {
    {
      std::lock_guard lock(mutex_);
      end_ = true;
      ended_.notify_one();
    }
    ticker_.join();
  }
  Trees(const Trees&) = delete;
  Trees& operator=(const Trees&) = delete;

  void add(const Span& span) {
    std::lock_guard lock(mutex_);
    trees_.add(span);
  }
  void finish() {
    std::lock_guard lock(mutex_);
    trees_.finish();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool end_ = false;     // guarded by mutex_
  TreeAssembler trees_;  // guarded by mutex_
  std::thread ticker_;
};

/// Waits; false when stop was requested meanwhile.
bool pause(const StopToken& stop, std::chrono::milliseconds time) {
  std::mutex mutex;
  std::condition_variable stopped;
  bool requested = false;
  StopCallback on_stop(stop, [&] {
    std::lock_guard lock(mutex);
    requested = true;
    stopped.notify_one();
  });
  std::unique_lock lock(mutex);
  return !stopped.wait_for(lock, time, [&] { return requested; });
}

/// `weir view --analyze < FILE` means the file.
bool stdin_is_a_file() {
  struct stat status {};
  return ::fstat(STDIN_FILENO, &status) == 0 && S_ISREG(status.st_mode);
}

Result<PathGroups> path_groups_of(const ViewSettings& settings) {
  std::vector<PathGroup> groups = settings.path_groups;
  const std::string& path = settings.path_groups_file;
  if (!path.empty()) {
    if (std::filesystem::is_directory(path)) return system_error(EISDIR, "cannot read '" + path + "'");
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file) return system_error(errno != 0 ? errno : EIO, "cannot read '" + path + "'");
    auto more = parse_path_groups(text);
    if (!more) return Error{more.error().code, path + ": " + more.error().message};
    groups.insert(groups.end(), std::make_move_iterator(more->begin()), std::make_move_iterator(more->end()));
  }
  Result<PathGroups> result = PathGroups::create(groups);
  if (!result && !path.empty()) return Error{result.error().code, path + ": " + result.error().message};
  return result;
}

/// Connects again and again with --follow. How many lines were skipped.
Result<std::uint64_t> view_collector(const ViewSettings& settings, std::string path, const StopToken& stop,
                                     const std::function<void(const Span&)>& on_span) {
  const bool any = settings.view_socket.empty();  // with --follow: whichever session comes
  bool waiting = false;
  std::uint64_t skipped = 0;
  for (;;) {
    ViewClient client(path);
    const std::size_t last = settings.last.value_or(settings.analyze || settings.once ? most_replayed : 0);
    if (settings.once && last == 0) return skipped;
    settings.once ? client.replay_once(last) : client.replay(last);
    client.on_connected([&] {
      if (settings.follow)
        say("connected to " + path);
      else if (!settings.once && !settings.analyze && ::isatty(STDERR_FILENO) == 1)
        say("connected to " + path + ", waiting for traces");
      waiting = false;
    });
    client.on_dropped([&](std::uint64_t count) {
      const std::string spans = std::to_string(count) + (count == 1 ? " span" : " spans");
      say(settings.once ? spans + " of before left out: a replay is at most 1 MiB" : "reading too slowly: " + spans + " dropped");
    });
    client.on_loss([](std::string_view service, std::uint64_t spans) {
      say(std::string(service) + " lost " + std::to_string(spans) + (spans == 1 ? " span" : " spans"));
    });
    const Result<void> ended = client.run(stop, [&](std::string_view, const Span& span) { on_span(span); });
    skipped += client.skipped_lines();
    if (!ended && !settings.follow) return ended.error();
    if (!settings.follow || stop.stop_requested()) return skipped;
    if (!std::exchange(waiting, true)) say("waiting for a collector on " + path);
    if (!pause(stop, retry_pause)) return skipped;
    if (any) {
      const std::vector<std::string> sessions = live_sessions(default_socket_directory());
      if (sessions.size() == 1) path = sessions.front();
    }
  }
}

/// The view socket to begin with.
Result<std::string> socket_of(const ViewSettings& settings) {
  if (!settings.view_socket.empty()) {
    const std::string mistaken = socket_for_services(settings.view_socket);
    // It would never say that this was all.
    if (settings.once && !mistaken.empty() && net::is_live(view_socket_path(settings.view_socket)))
      return Error{std::make_error_code(std::errc::invalid_argument), mistaken};
    if (!mistaken.empty()) say(mistaken);
    return settings.view_socket;
  }
  Result<std::string> found = find_session();
  if (found) return found;
  if (settings.follow && found.error().code == std::errc::no_such_file_or_directory) return default_view_socket_path();
  if (settings.analyze) found.error().message += ", or read spans with --input FILE";
  return found;
}

}  // namespace

int view(const ViewSettings& settings) {
  const bool file_given =
      settings.analyze && settings.view_socket.empty() && !settings.follow && !settings.once && !settings.last && stdin_is_a_file();
  const std::string input = settings.input.empty() && file_given ? "-" : settings.input;
  Result<PathGroups> groups = path_groups_of(settings);
  if (!groups) return say(groups.error().message), exit_failed;
  std::string path;
  if (input.empty()) {
    Result<std::string> found = socket_of(settings);
    if (!found) return say(found.error().message), exit_failed;
    path = std::move(*found);
  }

  Result<Signals> signals = Signals::block({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return say(signals.error().message), exit_failed;
  Result<net::EventFd> end = net::EventFd::create();
  if (!end) return say(end.error().message), exit_failed;
  StopSource stop;
  SignalThread on_signal(*signals, std::move(*end), stop_on_signal(stop));

  Out out(stop);
  Analysis analysis({.path_groups = *groups});
  Trees trees([&, style = TreeStyle{.colour = wants_colour(STDOUT_FILENO)}](const Span& tree) {
    if (settings.analyze) return analysis.add(tree);
    std::string text;
    if (!tree.parent_id.empty()) text = "… of trace " + printable(tree.trace_id) + ":\n";
    out.write(text + format_tree(tree, style));
  });
  bool any = false;
  const auto on_span = [&](const Span& span) {
    any = true;
    if (settings.json && !settings.analyze) {
      out.write(to_json(span) + "\n");
    } else {
      trees.add(span);
    }
  };
  if (settings.analyze && input.empty() && !settings.once && ::isatty(STDERR_FILENO) == 1)
    say("gathering spans until the collector ends, or ^C");
  const auto skipped = input.empty() ? view_collector(settings, path, stop.token(), on_span) : read_spans(input, stop.token(), on_span);
  if (!skipped) return say(skipped.error().message), exit_failed;
  if (!input.empty() && !any && !stop.stop_requested()) {
    say((input == "-" ? "stdin" : input) + ": no spans" + (*skipped != 0 ? " in " + std::to_string(*skipped) + " lines" : "") +
        "; it takes lines of JSON, as `weir view --json` and `weir collect --print json` write them");
    return exit_failed;
  }
  trees.finish();
  if (settings.analyze) {
    const AnalysisReport report = analysis.report(settings.order);
    out.write(settings.json ? to_json(report) + "\n" : format_analysis(report));
  }
  if (*skipped != 0) say("skipped " + std::to_string(*skipped) + " lines that are not spans");
  if (out.error() != 0) return say("cannot write to stdout: " + std::system_category().message(out.error())), exit_failed;
  return exit_ok;
}

}  // namespace weir::cli
