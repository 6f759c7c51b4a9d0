#include "weir/telemetry/transport.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

#include "net/fd.hpp"

namespace weir::inline v0 {

namespace {

using net::uninterrupted;

/// Waits for other writers of the file, for a moment.
bool lock(int fd, const StopToken& stop) noexcept {
  for (int tries = 0; tries < 500 && !stop.stop_requested(); ++tries) {
    if (uninterrupted([&] { return ::flock(fd, LOCK_EX | LOCK_NB); }) == 0) return true;
    if (errno != EWOULDBLOCK) return false;
    ::poll(nullptr, 0, 10);
  }
  errno = stop.stop_requested() ? ECANCELED : EWOULDBLOCK;
  return false;
}

bool write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = uninterrupted([&] { return ::write(fd, text.data(), text.size()); });
    if (written == 0) errno = EIO;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

/// One line of its own, or no change.
bool append_line(int fd, std::string_view body) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return false;
  std::string line;
  char last = '\n';
  if (status.st_size > 0 && uninterrupted([&] { return ::pread(fd, &last, 1, status.st_size - 1); }) < 0) return false;
  if (last != '\n') line += '\n';  // whoever wrote before us was torn away
  const std::size_t begin = line.size();
  line += body;
  std::replace_if(
      line.begin() + static_cast<std::ptrdiff_t>(begin), line.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  line += '\n';
  if (write_all(fd, line)) return true;
  const int error = errno;
  (void)uninterrupted([&] { return ::ftruncate(fd, status.st_size); });
  errno = error;
  return false;
}

}  // namespace

Answer json_answer(int status, std::string body) { return {status, "application/json", {}, std::move(body)}; }

Delivery FileTransport::send(const Update& update, const StopToken& stop) noexcept try {
  const auto failed = [&](const char* what) {
    return Delivery::not_sent(system_error(errno, std::string("cannot ") + what + " the telemetry file " + path_));
  };
  constexpr int flags = O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK;  // a FIFO must not stop us
  const net::Fd file(uninterrupted([&] { return ::open(path_.c_str(), flags, 0600); }));
  if (!file) return failed("open");
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return failed("look at");
  if (!S_ISREG(status.st_mode)) {
    return Delivery::not_sent({std::make_error_code(std::errc::not_supported), "the telemetry file " + path_ + " is no regular file"});
  }
  if (!lock(file.get(), stop)) return failed("lock");
  if (!append_line(file.get(), update.body)) return failed("write");
  return Delivery::answered(json_answer(200, "{}"));
} catch (const std::exception&) {
  return Delivery::not_sent({std::make_error_code(std::errc::not_enough_memory), {}});
}

Delivery InMemoryTransport::send(const Update& update, const StopToken&) noexcept try {
  {
    const std::lock_guard lock(state_->mutex);
    state_->bodies.emplace_back(update.body);
  }
  return state_->respond ? state_->respond(update) : Delivery::answered(json_answer(200, "{}"));
} catch (const std::exception& error) {  // of `respond`, or no memory
  return Delivery::unknown({std::make_error_code(std::errc::not_enough_memory), error.what()});
}

std::vector<std::string> InMemoryTransport::bodies() const {
  const std::lock_guard lock(state_->mutex);
  return state_->bodies;
}

}  // namespace weir::inline v0
