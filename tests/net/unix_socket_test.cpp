#include "net/unix_socket.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/scratch_dir.hpp"

using weir::Result;
using weir::net::Accepted;
using weir::net::Fd;
using weir::net::UnixListener;
using weir::testing::ScratchDir;

namespace {

struct stat status_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status;
}

bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

mode_t mode_of(const std::string& path) { return status_of(path).st_mode & 07777; }

std::string error_of(const std::string& path, std::errc expected) {
  const Result<UnixListener> bound = UnixListener::bind(path);
  REQUIRE_FALSE(bound);
  INFO(bound.error().message);
  CHECK(bound.error().code == expected);
  CHECK(bound.error().message.find('\n') == std::string::npos);
  return bound.error().message;
}

/// A socket file without weir's rules: bound, and left behind when the descriptor goes.
Fd raw_socket(const std::string& path, bool listening) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  if (listening) REQUIRE(::listen(fd.get(), 1) == 0);
  return fd;
}

/// Runs `body` in a forked child as the user `uid` and returns what it returned (0 to 99), 100 when it could not.
int as_user(uid_t uid, const std::function<int()>& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (uid != ::geteuid() && (::setgid(uid) != 0 || ::setuid(uid) != 0)) ::_exit(100);
    ::_exit(body());
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}

bool root() {
  if (::geteuid() == 0) return true;
  WARN("skipped: needs root to act as another user");
  return false;
}

constexpr uid_t somebody = 65534;

/// Waits for the listener to have something, with a guard against hanging, then accepts.
Accepted next(UnixListener& listener) {
  pollfd entry{listener.fd(), POLLIN, 0};
  REQUIRE(::poll(&entry, 1, 10'000) == 1);
  return listener.accept();
}

}  // namespace

TEST_CASE("a socket is made where nothing is, private, and removed on close") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  for (const mode_t mask : {0000, 0022, 0077, 0277}) {
    const mode_t before = ::umask(mask);
    auto listener = UnixListener::bind(path);
    ::umask(before);
    REQUIRE(listener);
    CHECK(mode_of(path) == 0600);
    CHECK(listener->path() == path);
    CHECK(weir::net::is_live(path));
    listener->close();
    listener->close();
    CHECK_FALSE(exists(path));
    CHECK_FALSE(exists(path + ".lock"));
    CHECK_FALSE(weir::net::is_live(path));
  }
}

TEST_CASE("a missing directory is made for its owner alone, but only its last component") {
  ScratchDir dir;
  auto listener = UnixListener::bind(dir / "new/a.sock");
  REQUIRE(listener);
  CHECK(mode_of(dir / "new") == 0700);
  CHECK(error_of(dir / "one/two/a.sock", std::errc::no_such_file_or_directory).find("one/two") != std::string::npos);
  CHECK_FALSE(exists(dir / "one"));
}

TEST_CASE("a stale socket is replaced") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  raw_socket(path, true).reset();
  const ino_t stale = status_of(path).st_ino;
  Fd keep_inode(::open(path.c_str(), O_PATH | O_CLOEXEC));
  auto listener = UnixListener::bind(path);
  REQUIRE(listener);
  CHECK(status_of(path).st_ino != stale);
}

TEST_CASE("a live socket is in use and is left alone") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  SECTION("of another program") {
    const Fd other = raw_socket(path, true);
    const ino_t inode = status_of(path).st_ino;
    CHECK(error_of(path, std::errc::address_in_use).find(path) != std::string::npos);
    CHECK(status_of(path).st_ino == inode);
    CHECK(weir::net::is_live(path));
  }
  SECTION("of another program whose backlog is full") {
    const Fd other = raw_socket(path, true);
    std::vector<Fd> waiting;
    for (;;) {
      auto connected = weir::net::connect_unix(path);
      if (!connected) {
        CHECK(connected.error().code == std::errc::resource_unavailable_try_again);
        break;
      }
      waiting.push_back(std::move(*connected));
      REQUIRE(waiting.size() < 100);
    }
    CHECK(weir::net::is_live(path));
    error_of(path, std::errc::address_in_use);
  }
  SECTION("of ours") {
    auto first = UnixListener::bind(path);
    REQUIRE(first);
    error_of(path, std::errc::address_in_use);
    CHECK(weir::net::is_live(path));
  }
  SECTION("of ours, whose file someone removed") {
    auto first = UnixListener::bind(path);
    REQUIRE(first);
    ::unlink(path.c_str());
    error_of(path, std::errc::address_in_use);
  }
}

TEST_CASE("what is not a socket is reported and never removed") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  std::string what;
  SECTION("a file") {
    std::ofstream(path) << "precious";
    what = "a file";
  }
  SECTION("a symbolic link to a file") {
    std::ofstream(dir / "target") << "precious";
    REQUIRE(::symlink((dir / "target").c_str(), path.c_str()) == 0);
    what = "a symbolic link";
  }
  SECTION("a symbolic link to a stale socket") {
    raw_socket(dir / "target", false).reset();
    REQUIRE(::symlink((dir / "target").c_str(), path.c_str()) == 0);
    what = "a symbolic link";
  }
  SECTION("a symbolic link to nothing") {
    REQUIRE(::symlink((dir / "nothing").c_str(), path.c_str()) == 0);
    what = "a symbolic link";
  }
  SECTION("a directory") {
    REQUIRE(::mkdir(path.c_str(), 0700) == 0);
    what = "a directory";
  }
  SECTION("a FIFO") {
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    what = "a FIFO";
  }
  const ino_t inode = status_of(path).st_ino;
  CHECK(error_of(path, std::errc::not_a_socket).find(what) != std::string::npos);
  CHECK(status_of(path).st_ino == inode);
  CHECK_FALSE(exists(path + ".lock"));
}

TEST_CASE("the lock file is followed nowhere and must be ours") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  SECTION("a symbolic link") {
    REQUIRE(::symlink((dir / "elsewhere").c_str(), (path + ".lock").c_str()) == 0);
    error_of(path, std::errc::too_many_symbolic_link_levels);
    CHECK_FALSE(exists(dir / "elsewhere"));
  }
  SECTION("a FIFO") {
    REQUIRE(::mkfifo((path + ".lock").c_str(), 0600) == 0);
    error_of(path, std::errc::file_exists);
  }
  SECTION("a file that a killed process left") {
    std::ofstream(path + ".lock") << "";
    CHECK(UnixListener::bind(path));
  }
  SECTION("somebody else's file") {
    if (!root()) return;
    std::ofstream(path + ".lock") << "";
    REQUIRE(::chown((path + ".lock").c_str(), somebody, somebody) == 0);
    error_of(path, std::errc::operation_not_permitted);
    CHECK(exists(path + ".lock"));
  }
}

TEST_CASE("a socket of another user is left alone") {
  if (!root()) return;
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  raw_socket(path, false).reset();
  REQUIRE(::chown(path.c_str(), somebody, somebody) == 0);
  CHECK(error_of(path, std::errc::operation_not_permitted).find("uid 65534") != std::string::npos);
  CHECK(exists(path));
}

TEST_CASE("the directory must be one in which nobody else can replace the socket") {
  ScratchDir dir;
  const std::string inner = dir / "inner";
  REQUIRE(::mkdir(inner.c_str(), 0700) == 0);
  SECTION("writable by others") {
    REQUIRE(::chmod(inner.c_str(), 0777) == 0);
    CHECK(error_of(inner + "/a.sock", std::errc::operation_not_permitted).find("chmod go-w") != std::string::npos);
  }
  SECTION("writable by the group") {
    REQUIRE(::chmod(inner.c_str(), 0770) == 0);
    error_of(inner + "/a.sock", std::errc::operation_not_permitted);
  }
  SECTION("writable by others, but sticky") {
    REQUIRE(::chmod(inner.c_str(), 01777) == 0);
    CHECK(UnixListener::bind(inner + "/a.sock"));
  }
  SECTION("somebody else's") {
    if (!root()) return;
    REQUIRE(::chown(inner.c_str(), somebody, somebody) == 0);
    error_of(inner + "/a.sock", std::errc::operation_not_permitted);
    REQUIRE(::chmod(inner.c_str(), 01777) == 0);  // the sticky bit does not bind the directory's owner
    error_of(inner + "/a.sock", std::errc::operation_not_permitted);
  }
  SECTION("reached by somebody else's symbolic link") {
    if (!root()) return;
    REQUIRE(::symlink(inner.c_str(), (dir / "link").c_str()) == 0);
    CHECK(UnixListener::bind(dir / "link/a.sock"));
    REQUIRE(::lchown((dir / "link").c_str(), somebody, somebody) == 0);
    error_of(dir / "link/a.sock", std::errc::operation_not_permitted);
  }
  SECTION("not a directory") {
    std::ofstream(dir / "file") << "";
    error_of(dir / "file/a.sock", std::errc::not_a_directory);
  }
  SECTION("read-only") {
    const auto attempt = [&] {
      const auto bound = UnixListener::bind(inner + "/a.sock");
      return bound ? 1 : bound.error().code == std::errc::permission_denied ? 0 : 2;
    };
    const uid_t user = ::geteuid() == 0 ? somebody : ::geteuid();
    REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
    REQUIRE(::chown(inner.c_str(), user, static_cast<gid_t>(-1)) == 0);
    REQUIRE(::chmod(inner.c_str(), 0500) == 0);
    CHECK(as_user(user, attempt) == 0);
    REQUIRE(::chmod(inner.c_str(), 0700) == 0);
    CHECK(as_user(user, attempt) == 1);
  }
}

TEST_CASE("a path of 107 bytes works, a longer one is an error that names the limit") {
  ScratchDir dir;
  const auto path_of = [&](std::size_t size) { return dir / std::string(size - dir.path().size() - 1, 'x'); };
  REQUIRE(path_of(107).size() == 107);
  {
    auto listener = UnixListener::bind(path_of(107));
    REQUIRE(listener);
    CHECK(exists(path_of(107)));
    CHECK(weir::net::connect_unix(path_of(107)));
  }
  CHECK_FALSE(exists(path_of(107)));
  for (const std::size_t size : {108u, 109u, 4000u}) {
    CHECK(error_of(path_of(size), std::errc::filename_too_long).find("at most 107") != std::string::npos);
    const auto connected = weir::net::connect_unix(path_of(size));
    REQUIRE_FALSE(connected);
    CHECK(connected.error().code == std::errc::filename_too_long);
  }
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("a path that names no file is refused") {
  ScratchDir dir;
  error_of("", std::errc::invalid_argument);
  error_of(dir / "", std::errc::invalid_argument);
  error_of(dir / std::string("a\0b", 3), std::errc::invalid_argument);
}

TEST_CASE("a relative path works") {
  ScratchDir dir;
  const std::string before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  {
    auto listener = UnixListener::bind("a.sock");
    REQUIRE(listener);
    CHECK(weir::net::is_live(dir / "a.sock"));
  }
  CHECK(std::filesystem::is_empty(dir.path()));
  std::filesystem::current_path(before);
}

TEST_CASE("of many binders exactly one wins, stale socket or not") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  for (int round = 0; round < 200; ++round) {
    if (round % 2 == 0) raw_socket(path, false).reset();
    std::atomic<int> won{0}, in_use{0}, ready{0}, finished{0};
    std::vector<std::thread> binders;
    for (int i = 0; i < 4; ++i) {
      binders.emplace_back([&] {
        ++ready;
        while (ready < 4) std::this_thread::yield();
        auto listener = UnixListener::bind(path);
        if (listener) {
          ++won;
        } else if (listener.error().code == std::errc::address_in_use) {
          ++in_use;
        }
        ++finished;
        while (finished < 4) std::this_thread::yield();
      });
    }
    for (std::thread& binder : binders) binder.join();
    REQUIRE(won == 1);
    REQUIRE(in_use == 3);
    REQUIRE_FALSE(exists(path));
  }
}

TEST_CASE("close removes only a file that is still ours") {
  ScratchDir dir;
  const std::string path = dir / "a.sock";
  auto listener = UnixListener::bind(path);
  REQUIRE(listener);
  SECTION("replaced by a file") {
    Fd keep_inode(::open(path.c_str(), O_PATH | O_CLOEXEC));
    ::unlink(path.c_str());
    std::ofstream(path) << "precious";
    listener->close();
    CHECK(exists(path));
  }
  SECTION("replaced by another socket") {
    Fd keep_inode(::open(path.c_str(), O_PATH | O_CLOEXEC));
    ::unlink(path.c_str());
    const Fd other = raw_socket(path, true);
    listener->close();
    CHECK(exists(path));
  }
  SECTION("closed by a forked child") {
    CHECK(as_user(::geteuid(), [&] {
            listener->close();
            return 0;
          }) == 0);
    CHECK(exists(path));
    CHECK(weir::net::is_live(path));
    CHECK(exists(path + ".lock"));
  }
  SECTION("moved") {
    UnixListener moved = std::move(*listener);
    listener->close();
    CHECK(exists(path));
    moved.close();
    CHECK_FALSE(exists(path));
  }
}

TEST_CASE("accept says who the peer is and never blocks") {
  ScratchDir dir;
  auto listener = UnixListener::bind(dir / "a.sock");
  REQUIRE(listener);
  CHECK(listener->accept().status == Accepted::Status::empty);
  auto client = weir::net::connect_unix(dir / "a.sock");
  REQUIRE(client);
  const Accepted accepted = next(*listener);
  REQUIRE(accepted.status == Accepted::Status::accepted);
  CHECK(accepted.peer.pid == ::getpid());
  CHECK(accepted.peer.uid == ::geteuid());
  for (const int fd : {client->get(), accepted.peer.fd.get(), listener->fd()}) {
    CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
  }
  char byte = 0;
  CHECK(weir::net::receive_some(accepted.peer.fd.get(), &byte, 1) == -EAGAIN);
  CHECK(weir::net::send_some(client->get(), "x", 1) == 1);
  CHECK(weir::net::receive_some(accepted.peer.fd.get(), &byte, 1) == 1);
  client->reset();
  CHECK(weir::net::receive_some(accepted.peer.fd.get(), &byte, 1) == 0);
  CHECK(weir::net::send_some(accepted.peer.fd.get(), "x", 1) == -EPIPE);  // and no SIGPIPE
}

TEST_CASE("a peer of another user is refused unless it is allowed") {
  if (!root()) return;
  ScratchDir dir;
  REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
  const std::string path = dir / "run/a.sock";
  const auto connect = [&] { return weir::net::connect_unix(path) ? 0 : 1; };
  SECTION("the mode alone keeps it out") {
    auto listener = UnixListener::bind(path);
    REQUIRE(listener);
    CHECK(as_user(somebody, connect) == 1);
  }
  SECTION("the uid is checked where the mode lets it through") {
    auto listener = UnixListener::bind(path);
    REQUIRE(listener);
    REQUIRE(::chmod((dir / "run").c_str(), 0755) == 0);
    REQUIRE(::chmod(path.c_str(), 0666) == 0);
    CHECK(as_user(somebody, connect) == 0);
    const Accepted accepted = next(*listener);
    CHECK(accepted.status == Accepted::Status::refused);
    CHECK(accepted.peer.uid == somebody);
    CHECK_FALSE(accepted.peer.fd);
  }
  SECTION("allowed: its group may write, others not") {
    auto listener = UnixListener::bind(path, {.allow_uids = {somebody}});
    REQUIRE(listener);
    CHECK(mode_of(path) == 0660);
    CHECK(mode_of(dir / "run") == 0710);
    CHECK(as_user(somebody, connect) == 0);
    const Accepted accepted = next(*listener);
    CHECK(accepted.status == Accepted::Status::accepted);
    CHECK(accepted.peer.uid == somebody);
    CHECK(as_user(1, connect) == 1);
  }
  SECTION("allowed, without a common group: the uid check remains") {
    auto listener = UnixListener::bind(path, {.allow_uids = {somebody, 1}});
    REQUIRE(listener);
    CHECK(mode_of(path) == 0666);
    CHECK(mode_of(dir / "run") == 0711);
    CHECK(as_user(1, connect) == 0);
    CHECK(next(*listener).status == Accepted::Status::accepted);
    CHECK(as_user(2, connect) == 0);
    CHECK(next(*listener).status == Accepted::Status::refused);
  }
  SECTION("root and ourselves need no wider mode") {
    auto listener = UnixListener::bind(path, {.allow_uids = {0, ::geteuid()}});
    REQUIRE(listener);
    CHECK(mode_of(path) == 0600);
  }
  SECTION("allowed, but the directory that is there keeps it out") {
    REQUIRE(::mkdir((dir / "run").c_str(), 0700) == 0);
    const auto bound = UnixListener::bind(path, {.allow_uids = {somebody}});
    REQUIRE_FALSE(bound);
    CHECK(bound.error().code == std::errc::permission_denied);
    CHECK(mode_of(dir / "run") == 0700);
  }
}

TEST_CASE("connecting says what is missing") {
  ScratchDir dir;
  const auto code = [](const std::string& path) {
    const auto connected = weir::net::connect_unix(path);
    REQUIRE_FALSE(connected);
    CHECK(connected.error().message.find(path) != std::string::npos);
    return connected.error().code;
  };
  CHECK(code(dir / "missing") == std::errc::no_such_file_or_directory);
  raw_socket(dir / "stale", false).reset();
  CHECK(code(dir / "stale") == std::errc::connection_refused);
  CHECK(exists(dir / "stale"));
  CHECK_FALSE(weir::net::is_live(dir / "stale"));
}

TEST_CASE("a wake-up before the wait is not lost") {
  auto event = weir::net::EventFd::create();
  REQUIRE(event);
  pollfd entry{event->fd(), POLLIN, 0};
  CHECK(::poll(&entry, 1, 0) == 0);
  event->wake();
  event->wake();
  CHECK(::poll(&entry, 1, 0) == 1);
  event->drain();
  CHECK(::poll(&entry, 1, 0) == 0);
  event->drain();
}

TEST_CASE("a thread that is cancelled wakes others up all the same") {
  auto event = weir::net::EventFd::create();
  REQUIRE(event);
  pthread_t thread;
  REQUIRE(pthread_create(
              &thread, nullptr,
              [](void* woken) -> void* {
                pthread_cancel(pthread_self());
                static_cast<weir::net::EventFd*>(woken)->wake();
                pthread_testcancel();
                return woken;
              },
              &*event) == 0);
  void* result = nullptr;
  REQUIRE(pthread_join(thread, &result) == 0);
  CHECK(result == PTHREAD_CANCELED);
  pollfd entry{event->fd(), POLLIN, 0};
  CHECK(::poll(&entry, 1, 0) == 1);
}
