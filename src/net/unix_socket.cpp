#include "net/unix_socket.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>

namespace weir::inline v0::net {

namespace {

Error failure(std::errc code, std::string message) { return Error{std::make_error_code(code), std::move(message)}; }

std::string quoted(std::string_view path) { return "'" + std::string(path) + "'"; }

std::string octal(mode_t mode) {
  std::string digits;
  for (int shift = 9; shift >= 0; shift -= 3) digits += static_cast<char>('0' + (mode >> shift & 7));
  return digits;
}

Result<sockaddr_un> address_of(const std::string& path, const std::string& doing) {
  if (path.empty()) return failure(std::errc::invalid_argument, doing + ": the path is empty");
  if (path.find('\0') != std::string::npos) return failure(std::errc::invalid_argument, doing + ": the path contains a NUL byte");
  if (path.size() > max_socket_path) {
    return failure(std::errc::filename_too_long, doing + ": the path has " + std::to_string(path.size()) +
                                                     " bytes and a Unix socket's has at most " + std::to_string(max_socket_path) +
                                                     ". Use a shorter one");
  }
  if (path.back() == '/') return failure(std::errc::invalid_argument, doing + ": the path ends in '/'. Name the socket file");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

socklen_t length_of(const std::string& path) { return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1); }

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  const std::size_t end = path.find_last_not_of('/', slash);
  return end == std::string::npos ? "/" : path.substr(0, end + 1);
}

std::optional<passwd> look_up(uid_t uid, std::vector<char>& buffer) {
  buffer.resize(1024);
  for (;;) {
    passwd entry{};
    passwd* found = nullptr;
    const int error = ::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found);
    if (error == ERANGE && buffer.size() < (1u << 20)) {
      buffer.resize(buffer.size() * 2);
    } else if (error != EINTR) {
      return found != nullptr ? std::optional(entry) : std::nullopt;
    }
  }
}

/// How far others are let in.
struct Access {
  bool others = false;         // anyone but us and root
  std::optional<gid_t> group;  // all of them have this primary group
  mode_t socket_mode() const { return !others ? 0600 : group ? 0660 : 0666; }
  mode_t directory_mode() const { return !others ? 0700 : group ? 0710 : 0711; }
};

bool may_give_to(gid_t group) {
  if (::geteuid() == 0 || ::getegid() == group) return true;
  const int count = ::getgroups(0, nullptr);
  if (count <= 0) return false;
  std::vector<gid_t> groups(static_cast<std::size_t>(count));
  const int got = ::getgroups(count, groups.data());
  return got > 0 && std::find(groups.begin(), groups.begin() + got, group) != groups.begin() + got;
}

Access access_for(const std::vector<uid_t>& allow_uids) {
  Access access;
  bool one_group = true;
  std::vector<char> buffer;
  for (const uid_t uid : allow_uids) {
    if (uid == ::geteuid() || uid == 0) continue;  // root needs no permission bits
    access.others = true;
    const std::optional<passwd> user = look_up(uid, buffer);
    if (!user || (access.group && *access.group != user->pw_gid)) one_group = false;
    if (user && one_group) access.group = user->pw_gid;
  }
  if (!one_group || (access.group && !may_give_to(*access.group))) access.group.reset();
  return access;
}

/// The directory must be one in which nobody but us and root can replace or remove our files.
Result<void> prepare_directory(const std::string& directory, const std::string& doing, const Access& access) {
  if (::mkdir(directory.c_str(), 0700) == 0) {
    if (!access.others) return {};
    const Fd made(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!made || (access.group && ::fchown(made.get(), static_cast<uid_t>(-1), *access.group) != 0) ||
        ::fchmod(made.get(), access.directory_mode()) != 0) {
      return system_error(errno, doing + ": cannot open the new directory " + quoted(directory) + " for the allowed users");
    }
    return {};
  }
  const int mkdir_error = errno;
  struct stat link {};
  if (::lstat(directory.c_str(), &link) != 0) {
    // What mkdir said is the reason (no permission, a missing parent); lstat only adds that it is not there.
    const std::string_view advice = mkdir_error == ENOENT ? "Create its parent directory, or choose another path" : "";
    return system_error(mkdir_error, doing + ": cannot create the directory " + quoted(directory), advice);
  }
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) {
    return system_error(errno, doing + ": cannot look at the directory " + quoted(directory));
  }
  if (!S_ISDIR(status.st_mode)) return system_error(ENOTDIR, doing + ": " + quoted(directory));
  const uid_t own = ::geteuid();
  for (const uid_t owner : {link.st_uid, status.st_uid}) {
    if (owner != own && owner != 0) {
      return failure(std::errc::operation_not_permitted, doing + ": the directory " + quoted(directory) + " belongs to " +
                                                             describe_user(owner) +
                                                             ", who could replace the socket. Use a directory "
                                                             "of your own");
    }
  }
  if ((status.st_mode & 0022) != 0 && (status.st_mode & S_ISVTX) == 0) {
    return failure(std::errc::operation_not_permitted, doing + ": others may write the directory " + quoted(directory) + " (mode " +
                                                           octal(status.st_mode) + ") and could replace the socket. Run chmod go-w " +
                                                           quoted(directory) + ", or use another directory");
  }
  if (access.others && (status.st_mode & 0011) == 0) {
    return failure(std::errc::permission_denied, doing + ": the allowed users cannot enter the directory " + quoted(directory) + " (mode " +
                                                     octal(status.st_mode) + "). Run chmod go+x " + quoted(directory) +
                                                     ", or use a directory that they can enter");
  }
  return {};
}

Result<Fd> lock_path(const std::string& path, const std::string& doing) {
  const std::string lock_file = path + ".lock";
  const std::string where = doing + ": cannot lock " + quoted(lock_file);
  for (int attempt = 0; attempt < 100; ++attempt) {
    Fd lock(uninterrupted([&] { return ::open(lock_file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600); }));
    if (!lock) return system_error(errno, where, errno == ELOOP ? "It is a symbolic link; remove it" : "");
    struct stat held {};
    if (::fstat(lock.get(), &held) != 0) return system_error(errno, where);
    if (!S_ISREG(held.st_mode)) return failure(std::errc::file_exists, where + ": it is not a regular file. Remove it");
    if (held.st_uid != ::geteuid()) {
      return failure(std::errc::operation_not_permitted, where + ": it belongs to " + describe_user(held.st_uid) + ". Choose another path");
    }
    if (uninterrupted([&] { return ::flock(lock.get(), LOCK_EX | LOCK_NB); }) != 0) {
      if (errno != EWOULDBLOCK) return system_error(errno, where);
      return system_error(EADDRINUSE, doing, "Another process holds " + quoted(lock_file) + "; stop it, or choose another path");
    }
    // Its last holder removes the file, perhaps between our open and our lock: then we hold a lock that nobody else will see.
    struct stat there {};
    if (::lstat(lock_file.c_str(), &there) == 0 && there.st_dev == held.st_dev && there.st_ino == held.st_ino) return lock;
  }
  return system_error(EADDRINUSE, where, "Other processes keep replacing it");
}

/// Makes room for our socket at `path`; removes nothing but a socket of ours that nobody answers on. Requires: the lock.
Result<void> clear_stale(const std::string& path, const std::string& doing) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return system_error(errno, doing);
  }
  if (!S_ISSOCK(status.st_mode)) {
    const std::string_view what = S_ISLNK(status.st_mode)    ? "a symbolic link"
                                  : S_ISDIR(status.st_mode)  ? "a directory"
                                  : S_ISFIFO(status.st_mode) ? "a FIFO"
                                  : S_ISREG(status.st_mode)  ? "a file"
                                                             : "a device";
    return failure(std::errc::not_a_socket,
                   doing + ": " + std::string(what) + " is there, not a socket. Remove it yourself, or choose another path");
  }
  if (status.st_uid != ::geteuid()) {
    return failure(std::errc::operation_not_permitted,
                   doing + ": the socket there belongs to " + describe_user(status.st_uid) + ". Choose another path");
  }
  const Result<Fd> probe = connect_unix(path);
  const int error = probe ? 0 : probe.error().code.value();
  switch (error) {
    case 0:
    case EAGAIN:
    case EPROTOTYPE:  // a datagram socket: somebody's too
      return system_error(EADDRINUSE, doing, "Another process listens there; stop it, or choose another path");
    case ECONNREFUSED:
      if (::unlink(path.c_str()) != 0 && errno != ENOENT) return system_error(errno, doing + ": cannot remove the stale socket");
      return {};
    case ENOENT: return {};
    default: return system_error(error, doing + ": cannot find out whether the socket there is in use");
  }
}

}  // namespace

Result<EventFd> EventFd::create() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return system_error(errno, "cannot make an eventfd");
  return EventFd(std::move(fd));
}

void EventFd::wake() const noexcept {
  const int kept = errno;
  const std::uint64_t one = 1;
  int cancellation = 0;  // threads that end spans come here
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancellation);
  (void)uninterrupted([&] { return ::write(fd_.get(), &one, sizeof one); });  // EAGAIN: already awake
  pthread_setcancelstate(cancellation, nullptr);
  errno = kept;
}

void EventFd::drain() const noexcept {
  std::uint64_t count = 0;
  (void)uninterrupted([&] { return ::read(fd_.get(), &count, sizeof count); });
}

UnixListener::UnixListener(UnixListener&& other) noexcept { *this = std::move(other); }

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  lock_path_ = std::move(other.lock_path_);
  socket_ = std::move(other.socket_);
  lock_ = std::move(other.lock_);
  device_ = other.device_;
  inode_ = other.inode_;
  owner_ = other.owner_;
  uid_ = other.uid_;
  allow_uids_ = std::move(other.allow_uids_);
  return *this;
}

Result<UnixListener> UnixListener::bind(const std::string& path, UnixListenerOptions options) {
  const std::string doing = "cannot listen on " + quoted(path);
  const Result<sockaddr_un> address = address_of(path, doing);
  if (!address) return address.error();
  const Access access = access_for(options.allow_uids);
  if (auto ready = prepare_directory(directory_of(path), doing, access); !ready) return ready.error();
  Result<Fd> lock = lock_path(path, doing);
  if (!lock) return lock.error();

  UnixListener listener;
  listener.path_ = path;
  listener.lock_path_ = path + ".lock";
  listener.lock_ = std::move(*lock);
  listener.owner_ = ::getpid();
  listener.uid_ = ::geteuid();
  listener.allow_uids_ = std::move(options.allow_uids);
  // From here on close() also removes the lock file.
  if (auto free = clear_stale(path, doing); !free) return free.error();

  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(errno, doing);
  // The file that bind makes takes its mode from the socket (less the umask): it is never wider than 0600.
  if (::fchmod(fd.get(), 0600) != 0) return system_error(errno, doing + ": fchmod");
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), length_of(path)) != 0) return system_error(errno, doing);
  listener.socket_ = std::move(fd);
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return system_error(errno, doing);
  listener.device_ = status.st_dev;
  listener.inode_ = status.st_ino;
  // Only ever widened after bind, and before listen: nobody can have connected. The directory is safe, so is the name.
  if (access.group && ::lchown(path.c_str(), static_cast<uid_t>(-1), *access.group) != 0) {
    return system_error(errno, doing + ": cannot give the socket to group " + std::to_string(*access.group));
  }
  if ((status.st_mode & 07777) != access.socket_mode() &&
      ::fchmodat(AT_FDCWD, path.c_str(), access.socket_mode(), AT_SYMLINK_NOFOLLOW) != 0) {
    return system_error(errno, doing + ": cannot set the socket's mode");
  }
  if (::listen(listener.fd(), options.backlog) != 0) return system_error(errno, doing);
  return listener;
}

Accepted UnixListener::accept() {
  Accepted result;
  for (;;) {
    Fd fd(uninterrupted([&] { return ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }));
    if (!fd) {
      result.error = errno;
      switch (errno) {
        case EAGAIN: result.status = Accepted::Status::empty; return result;
        case ECONNABORTED: continue;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM: result.status = Accepted::Status::exhausted; return result;
        default: result.status = Accepted::Status::failed; return result;
      }
    }
    ucred credentials{};
    socklen_t size = sizeof credentials;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
      result.error = errno;
      result.status = Accepted::Status::refused;
      return result;
    }
    result.peer.pid = credentials.pid;
    result.peer.uid = credentials.uid;
    const bool allowed = credentials.uid == uid_ || std::find(allow_uids_.begin(), allow_uids_.end(), credentials.uid) != allow_uids_.end();
    result.status = allowed ? Accepted::Status::accepted : Accepted::Status::refused;
    if (allowed) result.peer.fd = std::move(fd);
    return result;
  }
}

void UnixListener::close() noexcept {
  const bool ours = owner_ == ::getpid();  // a forked child only lets go
  if (socket_ && ours && inode_ != 0) {
    struct stat status {};
    if (::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
  }
  if (lock_ && ours) {
    struct stat held {
    }, there{};
    if (::fstat(lock_.get(), &held) == 0 && ::lstat(lock_path_.c_str(), &there) == 0 && held.st_dev == there.st_dev &&
        held.st_ino == there.st_ino) {
      ::unlink(lock_path_.c_str());
    }
  }
  socket_.reset();
  lock_.reset();  // last: who gets the lock finds the path free
}

Result<Fd> connect_unix(const std::string& path, std::atomic<int>* opened) {
  const std::string doing = "cannot connect to " + quoted(path);
  const Result<sockaddr_un> address = address_of(path, doing);
  if (!address) return address.error();
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(errno, doing);
  if (opened != nullptr) opened->store(fd.get(), std::memory_order_relaxed);
  if (uninterrupted([&] { return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), length_of(path)); }) != 0) {
    if (opened != nullptr) opened->store(-1, std::memory_order_relaxed);
    const std::string_view advice = errno == ENOENT || errno == ECONNREFUSED ? "Nothing listens there" : "";
    return system_error(errno, doing, advice);
  }
  return fd;
}

Result<uid_t> peer_uid(const Fd& fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return system_error(errno, "cannot find out who listens");
  return credentials.uid;
}

bool is_live(const std::string& path) {
  const Result<Fd> connected = connect_unix(path);
  return connected || connected.error().code.value() == EAGAIN;
}

ssize_t send_some(int fd, const void* data, std::size_t size) noexcept {
  const ssize_t sent = uninterrupted([&] { return ::send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT); });
  if (sent >= 0) return sent;
  return errno == ENOBUFS || errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

ssize_t receive_some(int fd, void* data, std::size_t size) noexcept {
  const ssize_t received = uninterrupted([&] { return ::recv(fd, data, size, MSG_DONTWAIT); });
  return received >= 0 ? received : -errno;
}

ssize_t send_with_descriptor(int fd, const void* data, std::size_t size, int passed) noexcept {
  iovec bytes{const_cast<void*>(data), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof passed)] = {};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof passed);
  std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
  const ssize_t sent = uninterrupted([&] { return ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT); });
  if (sent >= 0) return sent;
  // ETOOMANYREFS: too many descriptors of this user are on their way.
  return errno == ENOBUFS || errno == EWOULDBLOCK || errno == ETOOMANYREFS ? -EAGAIN : -errno;
}

ssize_t receive_with_descriptors(int fd, void* data, std::size_t size, std::vector<Fd>& passed, std::size_t max_passed,
                                 std::uint64_t& refused) noexcept {
  constexpr std::size_t most = 253;  // SCM_MAX_FD
  iovec bytes{data, size};
  alignas(cmsghdr) char control[CMSG_SPACE(most * sizeof(int))];
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t received = uninterrupted([&] { return ::recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (received < 0) return -errno;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int came = -1;
      std::memcpy(&came, CMSG_DATA(header) + i * sizeof came, sizeof came);
      Fd one(came);
      try {
        if (passed.size() < max_passed) passed.push_back(std::move(one));
      } catch (const std::bad_alloc&) {}
      if (one) ++refused;  // and is closed
    }
  }
  return received;
}

std::string describe_user(uid_t uid) {
  std::string text = "uid " + std::to_string(uid);
  std::vector<char> buffer;
  if (const std::optional<passwd> user = look_up(uid, buffer)) text.append(" (").append(user->pw_name).append(")");
  return text;
}

}  // namespace weir::inline v0::net
