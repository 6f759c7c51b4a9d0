#pragma once
// Unix stream sockets, with the rules that every socket of weir follows (private to src):
//
//   UnixListener::bind(path)                                   connect_unix(path)
//     the directory: ours or root's, nobody else may write       non-blocking: connected at once, or EAGAIN (full backlog)
//     flock on path.lock, held until close                     is_live(path)
//     what is there: nothing ─▶ bind
//                    our socket, nobody answers ─▶ replaced
//                    our socket, someone answers ─▶ address_in_use
//                    anything else ─▶ not_a_socket / operation_not_permitted, and it is left alone
//     mode 0600 from the first moment on (no umask race)
//     accept() checks the peer's uid
//
// Descriptors are close-on-exec and non-blocking, interrupted calls are repeated, no call raises SIGPIPE.

#include <sys/types.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/fd.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0::net {

/// The longest path a Unix socket can have, in bytes.
inline constexpr std::size_t max_socket_path = 107;

/// Wakes a thread out of poll: the state persists, so a wake-up before the wait is not lost.
/// Thread-safety: shared: safe. wake() is also safe in signal handlers.
class EventFd {
 public:
  static Result<EventFd> create();
  int fd() const noexcept { return fd_.get(); }
  void wake() const noexcept;
  /// Takes all wake-ups back.
  void drain() const noexcept;

 private:
  explicit EventFd(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

/// A connected client, as the kernel describes it at the moment of its connect.
struct Peer {
  Fd fd;
  pid_t pid = 0;
  uid_t uid = 0;
};

struct Accepted {
  enum class Status {
    accepted,   ///< `peer` is connected and allowed
    refused,    ///< `peer.pid` and `peer.uid` were not allowed; the connection is closed already
    empty,      ///< nobody waits
    exhausted,  ///< out of descriptors or memory (`error`): try again later, the client waits in the backlog
    failed      ///< the listener is of no use any more (`error`)
  };
  Status status = Status::empty;
  Peer peer;
  int error = 0;  ///< errno
};

struct UnixListenerOptions {
  /// Users besides our own that may connect. The socket is then opened as far as they need: group and 0660 when they all
  /// share a primary group that we can give it to, else 0666; so is the directory if bind() makes it (0710 / 0711). An
  /// existing directory is not changed; one that only its owner may enter is an error.
  std::vector<uid_t> allow_uids{};
  int backlog = 128;
};

/// A listening socket and its file. Thread-safety: Distinct objects: safe. Shared: unsafe, but for path(), fd().
class UnixListener {
 public:
  /// Makes the directory (0700) if its last component is missing. Error codes:
  ///   filename_too_long        over 107 bytes
  ///   invalid_argument         empty, ends in '/', or contains a NUL
  ///   no_such_file_or_directory, permission_denied, read_only_file_system …   the directory, as the system says it
  ///   operation_not_permitted  the directory, the socket or the lock is somebody else's, or others may write the directory
  ///   not_a_socket             something else is there (a file, a symbolic link, a directory, a FIFO); it is left alone
  ///   address_in_use           someone listens there, or is about to
  static Result<UnixListener> bind(const std::string& path, UnixListenerOptions options = {});

  UnixListener() = default;  ///< closed
  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&& other) noexcept;
  ~UnixListener() { close(); }

  /// Never blocks.
  Accepted accept();
  /// Removes the socket file and its lock if they are still ours (same device and inode, same process that bound them) and
  /// closes. Idempotent.
  void close() noexcept;

  explicit operator bool() const noexcept { return static_cast<bool>(socket_); }
  int fd() const noexcept { return socket_.get(); }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_, lock_path_;
  Fd socket_;
  Fd lock_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  pid_t owner_ = 0;
  uid_t uid_ = 0;
  std::vector<uid_t> allow_uids_;
};

/// A connected, non-blocking descriptor. Errors: as connect(2): connection_refused (stale), no_such_file_or_directory,
/// resource_unavailable_try_again (the backlog is full: it lives, try later), filename_too_long, permission_denied.
/// `opened`: holds the descriptor as soon as there is one, for the child of a fork to close; -1 again when connecting failed.
Result<Fd> connect_unix(const std::string& path, std::atomic<int>* opened = nullptr);

/// The effective uid at the other end of a connected socket: for who connected, that of the listener when it began to listen.
Result<uid_t> peer_uid(const Fd& fd);

/// True when somebody listens at `path`, a full backlog included. Removes nothing.
bool is_live(const std::string& path);

/// send(2) without SIGPIPE, repeated when interrupted. Bytes accepted, or -errno (ENOBUFS as EAGAIN).
ssize_t send_some(int fd, const void* data, std::size_t size) noexcept;
/// recv(2), repeated when interrupted. Bytes read (0: the other side closed), or -errno.
ssize_t receive_some(int fd, void* data, std::size_t size) noexcept;

/// send_some, with a descriptor that the other side gets a copy of. It goes with the first byte: once any were accepted, the
/// rest is sent without it.
ssize_t send_with_descriptor(int fd, const void* data, std::size_t size, int passed) noexcept;
/// receive_some, which appends the descriptors that came with these bytes (close-on-exec). Those beyond `max_passed` in the
/// list, and those for which there is no memory, are closed and counted in `refused`.
ssize_t receive_with_descriptors(int fd, void* data, std::size_t size, std::vector<Fd>& passed, std::size_t max_passed,
                                 std::uint64_t& refused) noexcept;

/// "uid 1000" or "uid 1000 (name)".
std::string describe_user(uid_t uid);

}  // namespace weir::inline v0::net
