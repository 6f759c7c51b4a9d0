#include "cli/sessions.hpp"

#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <iostream>

#include "cli/output.hpp"
#include "cli/parse.hpp"
#include "net/unix_socket.hpp"
#include "trace/socket_variable.hpp"
#include "weir/trace/socket_path.hpp"
#include "weir/view/tree.hpp"

namespace weir::cli {

namespace {

Error several(const std::vector<std::string>& sessions) {
  std::string list;
  for (const std::string& session : sessions) list += (list.empty() ? "" : ", ") + session;
  return Error{std::make_error_code(std::errc::invalid_argument),
               std::to_string(sessions.size()) + " collectors are running; choose one with --view-socket: " + list};
}

Result<std::string> ask(const std::vector<std::string>& sessions) {
  std::string question = "Several collectors are running:\n";
  for (std::size_t i = 0; i < sessions.size(); ++i) question += "  " + std::to_string(i + 1) + "  " + printable(sessions[i]) + "\n";
  question += "Which one? [1] ";
  for (;;) {
    (void)write_all(STDERR_FILENO, question);
    std::string answer;
    if (!std::getline(std::cin, answer)) return several(sessions);
    if (answer.empty()) return sessions.front();
    const auto number = parse_count(answer);
    if (number && *number <= sessions.size()) return sessions[*number - 1];
    question = "A number from 1 to " + std::to_string(sessions.size()) + ", please: ";
  }
}

}  // namespace

std::vector<std::string> live_sessions(const std::string& directory) {
  std::vector<std::string> found;
  std::error_code ignored;
  for (auto entry = std::filesystem::directory_iterator(directory, ignored); !ignored && entry != std::filesystem::directory_iterator();
       entry.increment(ignored)) {
    const std::string path = entry->path().string();
    if (path.ends_with("view.sock") && net::is_live(path)) found.push_back(path);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string socket_for_services(const std::string& given) {
  const std::string beside = view_socket_path(given);
  std::error_code error;
  if (!std::filesystem::is_socket(beside, error)) return {};
  return "'" + given + "' looks like the socket for services; for viewers there is '" + beside + "'";
}

void hint_at_socket_variable() {
  if (const std::string complaint = detail::socket_variable_complaint(); !complaint.empty()) say(complaint);
}

Result<std::string> find_session(bool can_wait) {
  const std::string wait = can_wait ? "wait for one with --follow, " : "";
  hint_at_socket_variable();
  if (const auto socket = detail::socket_variable()) {
    const std::string view = view_socket_path(*socket);
    if (net::is_live(view)) return view;
    return Error{std::make_error_code(std::errc::no_such_file_or_directory),
                 "WEIR_SOCKET is '" + *socket + "', and no collector listens beside it at '" + view + "'. Start one with `weir collect`, " +
                     wait + "or name its socket with --view-socket"};
  }
  const std::string directory = default_socket_directory();
  const std::vector<std::string> sessions = live_sessions(directory);
  if (sessions.empty()) {
    return Error{std::make_error_code(std::errc::no_such_file_or_directory),
                 "no running collector found in '" + directory + "'. Start one with `weir collect` or `weir run -- COMMAND`, " + wait +
                     "or name its socket with --view-socket"};
  }
  if (sessions.size() == 1) return sessions.front();
  return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1 ? ask(sessions) : several(sessions);
}

}  // namespace weir::cli
