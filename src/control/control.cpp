#include "control/control.hpp"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "activity/fork_mutex.hpp"
#include "control/request.hpp"
#include "control/server.hpp"
#include "control/settings.hpp"
#include "net/unix_socket.hpp"
#include "telemetry/fork_handler.hpp"
#include "text/ascii.hpp"
#include "text/json.hpp"
#include "weir/control.hpp"
#include "weir/core/detail/immortal.hpp"
#include "weir/core/version.hpp"
#include "weir/trace/socket_path.hpp"

namespace weir::inline v0 {

namespace control {

namespace {

/// Empty: unset.
std::string_view variable(const char* name) {
  const char* const text = std::getenv(name);
  return text != nullptr ? text : "";
}

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), detail::lower(text)) != words.end();
}

bool is_on(std::string_view value) { return is_one_of(value, {"1", "true"}); }
bool is_path(std::string_view value) { return value.substr(0, 1) == "/"; }
bool disabled() { return is_on(variable("WEIR_DISABLED")) || is_on(variable("OTEL_SDK_DISABLED")); }

std::string with_pid(std::string path) {
  for (std::size_t at = 0; (at = path.find("%p", at)) != path.npos;) path.replace(at, 2, std::to_string(::getpid()));
  return path;
}

/// The one of the process; never destroyed.
struct Control {
  detail::ForkMutex mutex;  // guards what follows. Not taken by the server's thread, which stop() waits for under it
  std::unique_ptr<ControlServer> server;
  ControlSettings settings;       // in force; of the server's thread while there is one. Written while nobody forks
  std::uint64_t fork = 0;         // `server` is of
  ControlServer* lost = nullptr;  // the parent's
  // Something may be in force. Set first: in a child that was forked in between, `settings` does not know of it.
  std::atomic<bool> touched{false};

  std::string service, told_service;  // guarded by no_forks()

  /// In the child of a fork the server is the parent's. Requires: the mutex.
  void forget_the_parents() noexcept {
    if (std::exchange(fork, detail::fork_count()) != detail::fork_count() && server != nullptr) lost = server.release();
  }
  Result<void> start(ControlOptions options);
  void stop() noexcept {
    forget_the_parents();
    server.reset();
  }
  std::string name() {
    const auto lock = detail::no_forks();
    if (!service.empty()) return service;
    if (!told_service.empty()) return told_service;
    const std::string_view around = variable("OTEL_SERVICE_NAME");
    return std::string(around.empty() ? ::program_invocation_short_name : around);
  }
  void keep(ControlSettings given) noexcept {
    const auto whole_in_children = detail::no_forks();
    settings = std::move(given);
  }
  std::string greeting();
  Answer answer(std::string_view line);
};

Control& the_control() noexcept {
  static detail::Immortal<Control> control;
  return control.value;
}

/// Nobody waits for what the server's thread would do at the end of the process.
void at_end() {
  Control& control = the_control();
  const std::lock_guard lock(control.mutex);
  control.stop();
}

/// Of processes that were killed: removes control-<pid>.sock, and its lock, where nobody has that pid, the lock is free and the
/// socket refuses. Never throws: what is left there does no harm.
void remove_stale_siblings(const std::string& directory) noexcept try {
  constexpr int max_names = 4'096, max_tried = 64;
  constexpr std::string_view before = "control-", after = ".sock";
  std::vector<std::string> stale;
  {
    const auto no_forks = detail::no_forks();
    const std::unique_ptr<DIR, int (*)(DIR*)> names(::opendir(directory.c_str()), [](DIR* open) { return ::closedir(open); });
    if (names == nullptr) return;
    stale.reserve(max_tried);
    for (int i = 0; i < max_names && stale.size() < max_tried; ++i) {
      const dirent* const entry = ::readdir(names.get());
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (!name.starts_with(before) || !name.ends_with(after) || name.size() <= before.size() + after.size()) continue;
      pid_t pid = 0;
      const char* const end = name.data() + name.size() - after.size();
      const auto [read, error] = std::from_chars(name.data() + before.size(), end, pid);
      if (error == std::errc{} && read == end && pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) stale.emplace_back(name);
    }
  }
  for (const std::string& name : stale) {
    const auto no_forks = detail::no_forks();
    (void)net::UnixListener::bind(directory + "/" + name);  // replaces no other than a stale one of ours; and removes its own
  }
} catch (const std::bad_alloc&) {}

Result<void> Control::start(ControlOptions options) {
  const bool usual = options.socket.empty() && !is_path(variable("WEIR_CONTROL"));
  if (options.socket.empty())
    options.socket = is_path(variable("WEIR_CONTROL")) ? variable("WEIR_CONTROL") : control_socket_path(::getpid());
  {
    const auto lock = detail::no_forks();
    service = std::move(options.service);
  }
  Logger& logger = options.logger != nullptr ? *options.logger : stderr_logger();
  Result<std::unique_ptr<ControlServer>> started = ControlServer::start(
      with_pid(std::move(options.socket)), greeting(), [this](std::string_view line) { return answer(line); }, logger);
  if (!started) return std::move(started).error();
  server = std::move(*started);
  if (usual) remove_stale_siblings(default_socket_directory());
  static const bool registered = std::atexit(at_end) == 0 && ::at_quick_exit(at_end) == 0;  // without room a socket file stays
  (void)registered;
  return {};
}

std::string Control::greeting() {
  std::string line = "{\"weir\":\"control\",\"version\":1,\"pid\":";
  detail::append_integer(line, ::getpid());
  line += ",\"service\":";
  detail::append_json_string(line, name());
  line += ",\"library\":\"" WEIR_VERSION_STRING "\"}";
  return line;
}

Answer Control::answer(std::string_view line) {
  ControlRequest request;
  auto problem = parse_request(line, request);
  Problems problems;
  ControlSettings wanted;
  if (problem) {
    problems.emplace_back("request", *std::move(problem));
  } else if (request.has_set == request.get.has_value()) {
    problems.emplace_back("request", "takes either \"set\", an object, or \"get\", a text");
  } else if (request.has_set) {
    problems = read_settings(request.set, wanted);
  } else if (*request.get != "stats") {
    problems.emplace_back("get", "takes \"stats\"");
  }

  Answer answer{"{\"id\":", problems.empty()};
  std::string& out = answer.line;
  request.id ? detail::append_integer(out, *request.id) : void(out += "null");
  if (problems.empty() && request.has_set) {
    touched.store(true, std::memory_order_relaxed);
    if (apply(wanted))
      keep(std::move(wanted));
    else
      problems.emplace_back("request", "there is no memory for it; nothing has changed");
  }
  if (problems.empty()) {
    out += ",\"ok\":true";
    if (request.get) out += ",\"stats\":" + statistics(name(), settings);
    out += '}';
    return answer;
  }
  out += ",\"error\":";
  char before = '{';
  for (const auto& [key, why] : problems) {
    out += std::exchange(before, ',');
    detail::append_json_string(out, key);
    out += ':';
    detail::append_json_string(out, why);
  }
  out += "}}";
  return answer;
}

}  // namespace

void set_service(const std::string& service) noexcept try {
  Control& control = the_control();
  const auto lock = detail::no_forks();
  control.told_service = service;
} catch (const std::bad_alloc&) {}

bool wanted(Logger& logger) {
  const std::string_view value = variable("WEIR_CONTROL");
  if (is_on(value) || is_path(value)) return true;
  if (!value.empty() && !is_one_of(value, {"0", "false"})) {
    logger.log(Logger::Level::warning,
               "WEIR_CONTROL=" + std::string(value) + " is ignored: it takes true and false, 1 and 0, or the absolute path of a socket");
  }
  return false;
}

}  // namespace control

Result<void> enable_control(ControlOptions options) {
  try {
    if (control::disabled()) return {};
    control::Control& control = control::the_control();
    const std::lock_guard lock(control.mutex);
    control.forget_the_parents();
    if (control.server != nullptr) return {};
    return control.start(std::move(options));
  } catch (const std::bad_alloc&) {
    return Error{std::make_error_code(std::errc::not_enough_memory), "no memory for a control socket"};
  }
}

void disable_control() noexcept {
  control::Control& control = control::the_control();
  const std::lock_guard lock(control.mutex);
  control.stop();
  if (!control.touched.load(std::memory_order_relaxed) || !control::apply({})) return;
  control.keep({});
  control.touched.store(false, std::memory_order_relaxed);
}

std::string control_socket() {
  control::Control& control = control::the_control();
  const std::lock_guard lock(control.mutex);
  control.forget_the_parents();
  return control.server != nullptr ? control.server->path() : std::string();
}

std::string control_socket_path(pid_t pid) { return default_socket_directory() + "/control-" + std::to_string(pid) + ".sock"; }

}  // namespace weir::inline v0
