#include "instrument/control_client.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "text/ascii.hpp"
#include "text/json.hpp"
#include "text/json_depth.hpp"

namespace weir::inline v0::instrument {

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr std::size_t max_answer = 4u << 20;     // bytes
constexpr std::size_t max_proc_file = 8u << 20;  // bytes: environments may be large
constexpr std::size_t max_words = 1u << 10;      // bytes of what a process says in an error
constexpr int look_again = 20;                   // ms

std::string named(pid_t pid) { return "process " + std::to_string(pid); }

Error error_of(std::errc code, std::string message) { return {std::make_error_code(code), std::move(message)}; }

Result<std::string> read_proc(pid_t pid, const char* name) {
  const std::string path = "/proc/" + std::to_string(pid) + "/" + name;
  const net::Fd fd(net::uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (!fd)
    return errno == ENOENT || errno == ESRCH ? error_of(std::errc::no_such_process, "there is no " + named(pid))
                                             : system_error(errno, "cannot read " + path);
  std::string text;
  char part[16384];
  for (;;) {
    const ssize_t size = net::uninterrupted([&] { return ::read(fd.get(), part, sizeof part); });
    if (size == 0) return text;
    if (size < 0)
      return errno == ESRCH ? error_of(std::errc::no_such_process, named(pid) + " has ended") : system_error(errno, "cannot read " + path);
    text.append(part, static_cast<std::size_t>(size));
    if (text.size() > max_proc_file) return text;
  }
}

std::string variable(std::string_view environment, std::string_view name) {
  while (!environment.empty()) {
    const std::string_view entry = environment.substr(0, environment.find('\0'));
    if (entry.size() > name.size() && entry[name.size()] == '=' && entry.substr(0, name.size()) == name)
      return std::string(entry.substr(name.size() + 1));
    environment.remove_prefix(std::min(entry.size() + 1, environment.size()));
  }
  return {};
}

/// The fields of a line of /proc/PID/status, after its name.
std::vector<std::string> status_fields(std::string_view status, std::string_view name) {
  std::vector<std::string> fields;
  const std::size_t at = status.find("\n" + std::string(name) + ":");
  if (at == status.npos) return fields;
  std::string_view line = status.substr(at + name.size() + 2);
  line = line.substr(0, line.find('\n'));
  while (!line.empty()) {
    const std::size_t begin = line.find_first_not_of(" \t");
    if (begin == line.npos) break;
    const std::size_t end = std::min(line.find_first_of(" \t", begin), line.size());
    fields.emplace_back(line.substr(begin, end - begin));
    line.remove_prefix(end);
  }
  return fields;
}

/// Nobody runs in it any more; one whose first thread alone has ended still does.
bool has_ended(std::string_view status) {
  const std::vector<std::string> state = status_fields(status, "State"), threads = status_fields(status, "Threads");
  return !state.empty() && (state[0] == "Z" || state[0] == "X") && (threads.empty() || threads[0] == "0" || threads[0] == "1");
}

/// The user `uid`, a number as we see it, as the process sees it. As it is, if its user namespace is ours or does not have that user.
std::string inner_uid(pid_t pid, std::string uid) {
  std::array<char, 64> ours{}, theirs{};
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/user";
  if (::readlink("/proc/self/ns/user", ours.data(), ours.size()) <= 0 || ::readlink(path.c_str(), theirs.data(), theirs.size()) <= 0 ||
      ours == theirs) {
    return uid;
  }
  const Result<std::string> map = read_proc(pid, "uid_map");
  std::uint64_t outer = 0;
  if (!map || std::from_chars(uid.data(), uid.data() + uid.size(), outer).ec != std::errc{}) return uid;
  // Lines of three numbers: the first inside, the first as we see it, how many.
  std::array<std::uint64_t, 3> range{};
  std::size_t field = 0;
  const char *at = map->data(), *const end = at + map->size();
  while (at != end) {
    if (*at == ' ' || *at == '\n') {
      ++at;
      continue;
    }
    const auto [next, error] = std::from_chars(at, end, range[field]);
    if (error != std::errc{}) return uid;
    at = next;
    if (++field != range.size()) continue;
    field = 0;
    if (outer >= range[1] && outer - range[1] < range[2]) return std::to_string(range[0] + (outer - range[1]));
  }
  return uid;
}

bool is_true(std::string_view value) {
  const std::string lower = detail::lower(value);
  return lower == "1" || lower == "true";
}

/// Whether paths mean the same to it as to us.
bool same_files(pid_t pid) {
  std::array<char, 64> our_mounts{}, their_mounts{};
  const std::string proc = "/proc/" + std::to_string(pid);
  if (::readlink("/proc/self/ns/mnt", our_mounts.data(), our_mounts.size()) > 0 &&
      ::readlink((proc + "/ns/mnt").c_str(), their_mounts.data(), their_mounts.size()) > 0 && our_mounts != their_mounts) {
    return false;
  }
  struct stat ours {
  }, theirs{};
  return ::stat("/proc/self/root", &ours) == 0 && ::stat((proc + "/root").c_str(), &theirs) == 0 && ours.st_dev == theirs.st_dev &&
         ours.st_ino == theirs.st_ino;
}

bool is_socket(const std::string& path, int& error) {
  struct stat status {};
  error = ::stat(path.c_str(), &status) == 0 ? 0 : errno;
  return error == 0 && S_ISSOCK(status.st_mode);
}

/// Also of a path that is too long for a socket's address: then by way of its inode.
Result<net::Fd> connect_to(const std::string& path) {
  if (path.size() <= net::max_socket_path) return net::connect_unix(path);
  const net::Fd there(net::uninterrupted([&] { return ::open(path.c_str(), O_PATH | O_CLOEXEC); }));
  if (!there) return system_error(errno, "cannot open " + path);
  return net::connect_unix("/proc/self/fd/" + std::to_string(there.get()));
}

/// No more of a process's words than people read.
std::string clipped(std::string_view text) {
  if (text.size() <= max_words) return std::string(text);
  std::size_t end = max_words;
  for (int i = 0; i < 3 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80; ++i) --end;  // not inside a UTF-8 character
  return std::string(text.substr(0, end)) + "…";
}

std::string dumped(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

/// Keys with why, as one text.
std::string joined(const json& errors) {
  if (!errors.is_object()) return clipped(dumped(errors));
  std::string text;
  for (const auto& [key, why] : errors.items()) {
    if (text.size() > max_words) break;
    if (!text.empty()) text += "; ";
    text += clipped(key) + ": " + clipped(why.is_string() ? why.get_ref<const std::string&>() : dumped(why));
  }
  return clipped(text);
}

std::optional<json> parsed(std::string_view line) {
  if (detail::json_depth(line) > detail::max_json_depth) return std::nullopt;
  json value = json::parse(line, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  return value;
}

}  // namespace

Result<ControlPlace> find_control_socket(pid_t pid, const std::string& directory) {
  const Result<std::string> status = read_proc(pid, "status");
  if (!status) return status.error();
  if (has_ended(*status)) return error_of(std::errc::no_such_process, named(pid) + " has ended");
  const Result<std::string> environment = read_proc(pid, "environ");
  if (!environment && directory.empty()) return environment.error();
  const std::string_view variables = environment ? std::string_view(*environment) : std::string_view{};
  const std::vector<std::string> pids = status_fields(*status, "NSpid"), uids = status_fields(*status, "Uid");
  const std::string inner_pid = pids.empty() ? std::to_string(pid) : pids.back();

  const std::string wanted = variable(variables, "WEIR_CONTROL");
  const bool names_path = directory.empty() && wanted.substr(0, 1) == "/";
  const auto too_long = [&](const char* name) {
    return error_of(std::errc::filename_too_long, named(pid) + " has a " + name + " in its environment that is too long for a path");
  };
  std::string path = directory;
  if (names_path) {
    if (wanted.size() >= PATH_MAX) return too_long("WEIR_CONTROL");
    path = wanted;
    for (std::size_t at = 0; (at = path.find("%p", at)) != path.npos;) path.replace(at, 2, inner_pid);
  } else {
    if (path.empty()) {
      const std::string runtime = variable(variables, "XDG_RUNTIME_DIR");
      if (runtime.size() >= PATH_MAX) return too_long("XDG_RUNTIME_DIR");
      path = runtime.substr(0, 1) == "/" ? runtime + "/weir"
                                         : "/tmp/weir-" + (uids.size() > 1 ? inner_uid(pid, uids[1]) : std::to_string(::geteuid()));
    }
    path += "/control-" + inner_pid + ".sock";
  }
  if (directory.empty() && !same_files(pid)) path = "/proc/" + std::to_string(pid) + "/root" + path;

  ControlPlace place{std::move(path), false};
  int error = 0;
  if (is_socket(place.path, error)) return place;
  if (error == EACCES || error == EPERM) return system_error(error, "cannot reach the control socket of " + named(pid) + ", " + place.path);
  const bool off = is_true(variable(variables, "WEIR_DISABLED")) || is_true(variable(variables, "OTEL_SDK_DISABLED"));
  place.promised = !off && (is_true(wanted) || wanted.substr(0, 1) == "/");
  if (place.promised) return place;
  return Error{make_error_code(InstrumentErrc::not_applicable),
               named(pid) + " has no control socket at " + place.path +
                   (off ? ": weir is disabled in its environment"
                        : ": set WEIR_CONTROL=1 in its environment, or call weir::enable_control() in it")};
}

Result<std::unique_ptr<ControlClient>> ControlClient::connect(pid_t pid, const std::string& directory, std::chrono::milliseconds timeout,
                                                              const net::EventFd* cancel) {
  const Deadline deadline = Clock::now() + timeout;
  for (;;) {
    const Result<ControlPlace> place = find_control_socket(pid, directory);
    if (!place) return place.error();
    Result<net::Fd> fd = connect_to(place->path);
    if (fd) {
      ucred peer{};
      socklen_t size = sizeof peer;
      if (::getsockopt(fd->get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return system_error(errno, "cannot find out who listens at " + place->path);
      if (peer.pid != pid) {
        return error_of(std::errc::operation_not_permitted,
                        "at " + place->path + " listens " + (peer.pid != 0 ? named(peer.pid) : "somebody else") + ", not " + named(pid));
      }
      std::unique_ptr<ControlClient> client(new ControlClient(pid, std::move(*fd), timeout, cancel));
      const std::lock_guard lock(client->mutex_);
      if (auto greeted = client->greeted(deadline); !greeted) return std::move(greeted).error();
      return Result<std::unique_ptr<ControlClient>>(std::move(client));
    }
    // A full backlog, a socket that is not there yet, a stale one of another process that had this pid.
    const int code = fd.error().code.value();
    const bool may_come = code == EAGAIN || ((code == ENOENT || code == ECONNREFUSED) && Clock::now() < deadline);
    if (!may_come) return fd.error();
    if (Clock::now() >= deadline)
      return error_of(std::errc::timed_out, named(pid) + " takes no connection at " + place->path + " in time; is it stopped?");
    pollfd entry{cancel != nullptr ? cancel->fd() : -1, POLLIN, 0};
    const int ready = ::poll(&entry, 1, look_again);
    if (ready < 0 && errno != EINTR) return system_error(errno, "poll");
    if (ready > 0) return error_of(std::errc::operation_canceled, "closed");
  }
}

Result<void> ControlClient::greeted(Deadline deadline) {
  const Result<std::string> hello = line(deadline);
  if (!hello) return hello.error();
  const auto said = parsed(*hello);
  if (said && said->contains("error"))
    return error_of(std::errc::connection_refused, named(pid_) + " refuses: " + joined((*said)["error"]));
  if (!said || said->value("weir", json()) != "control")
    return error_of(std::errc::protocol_error, named(pid_) + " does not speak as a control socket does");
  if (said->value("version", json()) != 1) {
    return error_of(std::errc::protocol_not_supported,
                    named(pid_) + " speaks version " + clipped(dumped(said->value("version", json()))) +
                        " of the control socket, and this is version 1: use the same weir on both sides");
  }
  return {};
}

Result<std::string> ControlClient::request(std::string_view what, bool& refused) {
  refused = false;
  const Deadline deadline = Clock::now() + timeout_;
  const std::lock_guard lock(mutex_);
  const std::uint64_t id = ++last_id_;
  std::string text = "{\"id\":" + std::to_string(id) + ",";
  text.append(what).append("}\n");
  if (auto sent = send(text, deadline); !sent) return std::move(sent).error();
  for (;;) {
    Result<std::string> got = line(deadline);
    if (!got) return got;
    const auto answer = parsed(*got);
    if (!answer) return error_of(std::errc::protocol_error, named(pid_) + " answers with what is no JSON object");
    const json its = answer->value("id", json());
    if (its.is_null() ? !answer->contains("error") : its != id) continue;  // late, of a request that nobody waits for any more
    if (const auto error = answer->find("error"); error != answer->end()) {
      refused = true;
      return error_of(std::errc::invalid_argument, named(pid_) + " refuses: " + joined(*error));
    }
    return got;
  }
}

/// Requires, as those below: the mutex.
Result<std::string> ControlClient::line(Deadline deadline) {
  for (;;) {
    if (const std::size_t end = received_.find('\n'); end != received_.npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      return line;
    }
    if (received_.size() > max_answer) return error_of(std::errc::message_size, named(pid_) + " answers with too long a line");
    // Before each part: one that never stops sending ends neither the time nor the wish to close.
    if (auto waited = wait(POLLIN, deadline); !waited) return std::move(waited).error();
    std::array<char, 16384> part;
    const ssize_t size = net::receive_some(fd_.get(), part.data(), part.size());
    if (size > 0) {
      received_.append(part.data(), static_cast<std::size_t>(size));
    } else if (size != -EAGAIN) {
      return error_of(std::errc::connection_reset, named(pid_) + " has closed its control socket");
    }
  }
}

Result<void> ControlClient::send(std::string_view text, Deadline deadline) {
  const std::size_t whole = text.size();
  while (!text.empty()) {
    const ssize_t size = net::send_some(fd_.get(), text.data(), text.size());
    if (size > 0) {
      text.remove_prefix(static_cast<std::size_t>(size));
    } else if (size == -EAGAIN) {
      auto waited = wait(POLLOUT, deadline);
      if (waited) continue;
      if (text.size() != whole) ::shutdown(fd_.get(), SHUT_RDWR);  // what follows half a line would be taken for its rest
      return waited;
    } else {
      return error_of(std::errc::connection_reset, named(pid_) + " has closed its control socket");
    }
  }
  return {};
}

Result<void> ControlClient::wait(short events, Deadline deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      return error_of(std::errc::timed_out,
                      named(pid_) + " has not answered within " + std::to_string(timeout_.count()) + " ms; is it stopped?");
    }
    std::array<pollfd, 2> entries{pollfd{fd_.get(), events, 0}, pollfd{cancel_ != nullptr ? cancel_->fd() : -1, POLLIN, 0}};
    const int ready = ::poll(entries.data(), entries.size(), static_cast<int>(std::min<std::int64_t>(left.count(), 3'600'000)));
    if (ready < 0 && errno != EINTR) return system_error(errno, "poll");
    if (ready > 0 && entries[1].revents != 0)
      return error_of(std::errc::operation_canceled, "the instrumentation of " + named(pid_) + " is being closed");
    if (ready > 0) return {};
  }
}

Result<std::string> set_member(const Config& config) {
  std::string out = "\"set\":{";
  for (const auto& [key, value] : config) {
    if (out.back() != '{') out += ',';
    detail::append_json_string(out, key);
    out += ':';
    if (const bool* const flag = std::get_if<bool>(&value)) {
      out += *flag ? "true" : "false";
    } else if (const std::int64_t* const integer = std::get_if<std::int64_t>(&value)) {
      detail::append_integer(out, *integer);
    } else if (const double* const number = std::get_if<double>(&value)) {
      if (!std::isfinite(*number)) return error_of(std::errc::invalid_argument, key + ": takes a finite number");
      char digits[32];
      out.append(digits, std::to_chars(digits, digits + sizeof digits, *number).ptr);
    } else if (const std::string* const text = std::get_if<std::string>(&value)) {
      detail::append_json_string(out, *text);
    } else {
      out += '[';
      for (const std::string& each : std::get<std::vector<std::string>>(value)) {
        if (out.back() != '[') out += ',';
        detail::append_json_string(out, each);
      }
      out += ']';
    }
  }
  out += '}';
  return out;
}

}  // namespace weir::inline v0::instrument
