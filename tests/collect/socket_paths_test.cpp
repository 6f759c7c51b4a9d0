// What may be where a collector or a view server shall listen: of each the exact error, and that nothing is touched but a stale
// socket of our own.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "net/fd.hpp"
#include "net/unix_socket.hpp"
#include "support/catch.hpp"
#include "support/running_collector.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/collector.hpp"
#include "weir/view/view_server.hpp"

using namespace weir;
using weir::net::Fd;
using weir::testing::ScratchDir;
using weir::testing::silent;

namespace {

constexpr uid_t somebody = 65534;

bool root() {
  if (::geteuid() == 0) return true;
  WARN("skipped: needs root to act as another user");
  return false;
}

/// A socket file that is bound, and left behind when the descriptor goes.
Fd raw_socket(const std::string& path, bool listening) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  if (listening) REQUIRE(::listen(fd.get(), 1) == 0);
  return fd;
}

/// All that is in a directory: which file each name stands for, of what kind, whose, how large, and what it says.
std::map<std::string, std::string> inventory(const std::string& directory) {
  std::map<std::string, std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    struct stat status {};
    REQUIRE(::lstat(entry.path().c_str(), &status) == 0);
    std::string& what = found[entry.path().string()];
    what = std::to_string(status.st_ino) + " " + std::to_string(status.st_mode) + " " + std::to_string(status.st_uid) + " " +
           std::to_string(status.st_size);
    if (entry.is_symlink()) what += " " + std::filesystem::read_symlink(entry.path()).string();
    if (S_ISREG(status.st_mode)) {
      std::ifstream file(entry.path());
      what += " " + std::string(std::istreambuf_iterator<char>(file), {});
    }
  }
  return found;
}

/// The two that listen, with one face.
struct ListeningCollector {
  explicit ListeningCollector(const std::string& path) : server(path) {}
  Result<void> listen() { return server.listen(); }
  Collector server;
};
struct ListeningViewServer {
  explicit ListeningViewServer(const std::string& path) : server(path, {.logger = &silent}) {}
  Result<void> listen() { return server.listen(); }
  ViewServer server;
};

template <class Server>
void check_error(const std::string& path, std::errc code, const std::string& message) {
  Server server(path);
  const Result<void> listening = server.listen();
  REQUIRE_FALSE(listening);
  CHECK(listening.error().code == code);
  CHECK(listening.error().message == "cannot listen on '" + path + "'" + message);
}

/// The error, and that everything in `directory` is as it was.
template <class Server>
void check_left_alone(const std::string& directory, const std::string& path, std::errc code, const std::string& message) {
  const auto before = inventory(directory);
  check_error<Server>(path, code, message);
  CHECK(inventory(directory) == before);
}

/// It listens, lets a client in, and leaves nothing behind.
template <class Server>
void check_listens(const std::string& path) {
  {
    Server server(path);
    const Result<void> listening = server.listen();
    INFO((listening ? "" : listening.error().message));
    REQUIRE(listening);
    struct stat status {};
    REQUIRE(::lstat(path.c_str(), &status) == 0);
    CHECK(S_ISSOCK(status.st_mode));
    CHECK((status.st_mode & 07777) == 0600);
    CHECK(net::connect_unix(path));
  }
  CHECK_FALSE(std::filesystem::exists(path));
  CHECK_FALSE(std::filesystem::exists(path + ".lock"));
}

}  // namespace

TEMPLATE_TEST_CASE("what is at a path decides whether it can be listened on, and is left alone", "", ListeningCollector,
                   ListeningViewServer) {
  ScratchDir dir;
  const std::string path = dir / "a.sock", target = dir / "target";
  const std::string link_error = ": a symbolic link is there, not a socket. Remove it yourself, or choose another path";
  SECTION("nothing") { check_listens<TestType>(path); }
  SECTION("nothing, and no directory") { check_listens<TestType>(dir / "new/a.sock"); }
  SECTION("nothing, and no parent of the directory") {
    check_left_alone<TestType>(dir.path(), dir / "no/new/a.sock", std::errc::no_such_file_or_directory,
                               ": cannot create the directory '" + (dir / "no/new") +
                                   "': No such file or directory. Create its parent directory, or choose another path");
  }
  SECTION("a stale socket of ours") {
    raw_socket(path, false).reset();
    check_listens<TestType>(path);
  }
  SECTION("a live socket") {
    const Fd other = raw_socket(path, true);
    check_left_alone<TestType>(dir.path(), path, std::errc::address_in_use,
                               ": Address already in use. Another process listens there; stop it, or choose another path");
    CHECK(net::is_live(path));
  }
  SECTION("a socket of ours, served") {
    TestType other(path);
    REQUIRE(other.listen());
    check_left_alone<TestType>(dir.path(), path, std::errc::address_in_use,
                               ": Address already in use. Another process holds '" + path + ".lock'; stop it, or choose another path");
    CHECK(net::is_live(path));
  }
  SECTION("a file") {
    std::ofstream(path) << "precious";
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket,
                               ": a file is there, not a socket. Remove it yourself, or choose another path");
  }
  SECTION("a directory") {
    REQUIRE(::mkdir(path.c_str(), 0700) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket,
                               ": a directory is there, not a socket. Remove it yourself, or choose another path");
  }
  SECTION("a FIFO") {
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket,
                               ": a FIFO is there, not a socket. Remove it yourself, or choose another path");
  }
  SECTION("a symbolic link to nothing") {
    REQUIRE(::symlink(target.c_str(), path.c_str()) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket, link_error);
  }
  SECTION("a symbolic link to a stale socket") {
    raw_socket(target, false).reset();
    REQUIRE(::symlink(target.c_str(), path.c_str()) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket, link_error);
  }
  SECTION("a symbolic link to a live socket") {
    const Fd other = raw_socket(target, true);
    REQUIRE(::symlink(target.c_str(), path.c_str()) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket, link_error);
    CHECK(net::is_live(target));
  }
  SECTION("a symbolic link to a file") {
    std::ofstream(target) << "precious";
    REQUIRE(::symlink(target.c_str(), path.c_str()) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket, link_error);
  }
  SECTION("a symbolic link to a directory") {
    REQUIRE(::mkdir(target.c_str(), 0700) == 0);
    REQUIRE(::symlink(target.c_str(), path.c_str()) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket, link_error);
  }
  SECTION("a symbolic link to a FIFO") {
    REQUIRE(::mkfifo(target.c_str(), 0600) == 0);
    REQUIRE(::symlink(target.c_str(), path.c_str()) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::not_a_socket, link_error);
  }
  SECTION("a stale socket of another user") {
    if (!root()) return;
    raw_socket(path, false).reset();
    REQUIRE(::chown(path.c_str(), somebody, somebody) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::operation_not_permitted,
                               ": the socket there belongs to " + net::describe_user(somebody) + ". Choose another path");
  }
}

TEMPLATE_TEST_CASE("the directory decides whether its sockets are safe", "", ListeningCollector, ListeningViewServer) {
  ScratchDir dir;
  const std::string inner = dir / "inner", path = inner + "/a.sock";
  REQUIRE(::mkdir(inner.c_str(), 0700) == 0);
  SECTION("that others may write") {
    REQUIRE(::chmod(inner.c_str(), 0777) == 0);
    raw_socket(path, false).reset();  // not even that goes
    check_left_alone<TestType>(dir.path(), path, std::errc::operation_not_permitted,
                               ": others may write the directory '" + inner +
                                   "' (mode 0777) and could replace the socket. Run chmod go-w '" + inner + "', or use another directory");
  }
  SECTION("of another user") {
    if (!root()) return;
    raw_socket(path, false).reset();
    REQUIRE(::chown(inner.c_str(), somebody, somebody) == 0);
    check_left_alone<TestType>(dir.path(), path, std::errc::operation_not_permitted,
                               ": the directory '" + inner + "' belongs to " + net::describe_user(somebody) +
                                   ", who could replace the socket. Use a directory of your own");
  }
  SECTION("that is a file") {
    std::ofstream(dir / "file") << "precious";
    check_left_alone<TestType>(dir.path(), dir / "file/a.sock", std::errc::not_a_directory, ": '" + (dir / "file") + "': Not a directory");
  }
  SECTION("that is read-only") {
    // Root may write it all the same, so that another user tries, in a child.
    const uid_t user = ::geteuid() == 0 ? somebody : ::geteuid();
    raw_socket(path, false).reset();
    REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
    for (const std::string& file : {inner, path}) REQUIRE(::lchown(file.c_str(), user, static_cast<gid_t>(-1)) == 0);
    REQUIRE(::chmod(inner.c_str(), 0500) == 0);
    const auto before = inventory(dir.path());
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (user != ::geteuid() && (::setgid(user) != 0 || ::setuid(user) != 0)) ::_exit(1);
      TestType server(path);
      const Result<void> listening = server.listen();
      const std::string text = listening ? "it listens" : listening.error().message;
      const bool as_said = !listening && listening.error().code == std::errc::permission_denied;
      ::_exit(::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) && as_said ? 0 : 2);
    }
    ::close(ends[1]);
    std::string said(1000, '\0');
    said.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(ends[0], said.data(), said.size()))));
    ::close(ends[0]);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    CHECK(said == "cannot listen on '" + path + "': cannot lock '" + path + ".lock': Permission denied");
    CHECK(inventory(dir.path()) == before);
    REQUIRE(::chmod(inner.c_str(), 0700) == 0);
  }
}

TEMPLATE_TEST_CASE("a path has 107 bytes and no more", "", ListeningCollector, ListeningViewServer) {
  ScratchDir dir;
  const auto path_of = [&](std::size_t size) { return dir / std::string(size - dir.path().size() - 1, 'x'); };
  check_listens<TestType>(path_of(107));
  for (const std::size_t size : {108u, 109u}) {
    check_left_alone<TestType>(dir.path(), path_of(size), std::errc::filename_too_long,
                               ": the path has " + std::to_string(size) + " bytes and a Unix socket's has at most 107. Use a shorter one");
  }
  // Cut to 107 bytes it would be this one.
  raw_socket(path_of(107), false).reset();
  check_left_alone<TestType>(dir.path(), path_of(107) + "y", std::errc::filename_too_long,
                             ": the path has 108 bytes and a Unix socket's has at most 107. Use a shorter one");
}
