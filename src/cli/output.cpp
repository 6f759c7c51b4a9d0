#include "cli/output.hpp"

#include <poll.h>
#include <unistd.h>
#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "weir/view/tree.hpp"

namespace weir::cli {

int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {  // somebody made the terminal that we share non-blocking
      pollfd entry{fd, POLLOUT, 0};
      (void)::poll(&entry, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

void say(std::string_view message) { (void)write_all(STDERR_FILENO, "weir: " + printable(message) + "\n"); }

bool wants_colour(int fd) {
  const char* const no_colour = std::getenv("NO_COLOR");
  const char* const terminal = std::getenv("TERM");
  return ::isatty(fd) == 1 && (no_colour == nullptr || *no_colour == '\0') && (terminal == nullptr || std::string_view(terminal) != "dumb");
}

Printer::Printer(int fd, std::string name, std::size_t max_bytes)
    : fd_(fd), name_(std::move(name)), max_bytes_(max_bytes), thread_([this] { write_loop(); }) {}

void Printer::print(std::string text) {
  bool say_full = false;
  {
    std::lock_guard lock(mutex_);
    if (broken_ || finished_) {
      ++dropped_;
      return;
    }
    if (bytes_ + text.size() > max_bytes_) {
      ++dropped_;
      say_full = !std::exchange(full_said_, true);
    } else {
      bytes_ += text.size();
      queue_.push_back(std::move(text));
      changed_.notify_one();
    }
  }
  if (say_full) say(name_ + " is read too slowly: not everything is printed");
}

void Printer::finish() {
  {
    std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Printer::write_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return finished_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const std::string text = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    const int error = write_all(fd_, text);
    lock.lock();
    bytes_ -= text.size();
    if (error == 0) {
      ++printed_;
      continue;
    }
    dropped_ += 1 + queue_.size();
    queue_.clear();
    bytes_ = 0;
    broken_ = true;
    lock.unlock();
    say("cannot write to " + name_ + " (" + std::system_category().message(error) + "): nothing is printed any more");
    return;
  }
}

std::uint64_t Printer::printed() const {
  std::lock_guard lock(mutex_);
  return printed_;
}

std::uint64_t Printer::dropped() const {
  std::lock_guard lock(mutex_);
  return dropped_;
}

}  // namespace weir::cli
