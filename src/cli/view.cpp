#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "cli/sessions.hpp"
#include "cli/signals.hpp"
#include "weir/trace/socket_path.hpp"
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
  explicit Trees(Out& out)
      : trees_([&out, style = TreeStyle{.colour = wants_colour(STDOUT_FILENO)}](const Span& tree) {
          std::string text;
          if (!tree.parent_id.empty()) text = "… of trace " + printable(tree.trace_id) + ":\n";
          out.write(text + format_tree(tree, style));
        }),
        ticker_([this] {
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

}  // namespace

int view(const ViewSettings& settings) {
  std::string path = settings.view_socket;
  bool waiting = false;
  if (path.empty()) {
    Result<std::string> found = find_session();
    if (found) {
      path = std::move(*found);
    } else if (settings.follow && found.error().code == std::errc::no_such_file_or_directory) {
      path = default_view_socket_path();
    } else {
      return say(found.error().message), exit_failed;
    }
  }
  const bool any = settings.view_socket.empty();  // with --follow: whichever session comes

  Result<Signals> signals = Signals::block({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return say(signals.error().message), exit_failed;
  Result<net::EventFd> end = net::EventFd::create();
  if (!end) return say(end.error().message), exit_failed;
  StopSource stop;
  SignalThread on_signal(*signals, std::move(*end), stop_on_signal(stop));

  Out out(stop);
  Trees trees(out);
  std::uint64_t skipped = 0;
  for (;;) {
    ViewClient client(path);
    client.replay(settings.last);
    client.on_connected([&] {
      if (settings.follow) say("connected to " + path);
      waiting = false;
    });
    client.on_dropped([](std::uint64_t count) { say("reading too slowly: " + std::to_string(count) + " spans were dropped"); });
    client.on_loss([](std::string_view service, std::uint64_t spans) {
      say(std::string(service) + " lost " + std::to_string(spans) + (spans == 1 ? " span" : " spans"));
    });
    const Result<void> ended = client.run(stop.token(), [&](std::string_view, const Span& span) {
      if (settings.json) {
        out.write(to_json(span) + "\n");
      } else {
        trees.add(span);
      }
    });
    skipped += client.skipped_lines();
    if (!ended && !settings.follow) return say(ended.error().message), exit_failed;
    if (!settings.follow || stop.stop_requested()) break;
    if (!std::exchange(waiting, true)) say("waiting for a collector on " + path);
    if (!pause(stop.token(), retry_pause)) break;
    if (any) {
      const std::vector<std::string> sessions = live_sessions(default_socket_directory());
      if (sessions.size() == 1) path = sessions.front();
    }
  }
  trees.finish();
  if (skipped != 0) say("skipped " + std::to_string(skipped) + " lines that are not spans");
  if (out.error() != 0) return say("cannot write to stdout: " + std::system_category().message(out.error())), exit_failed;
  return exit_ok;
}

}  // namespace weir::cli
