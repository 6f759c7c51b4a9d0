#include "activity/audit_file.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

namespace weir::inline v0::detail {

/// All open files, for the child of a fork: a descriptor that it kept would keep the lock after the parent's end.
struct AuditFiles {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // held across fork, and where descriptors are made and closed
  AuditFile* first = nullptr;
  std::atomic<unsigned> forks{0};

  static void watch_forks() {
    static const int watched = pthread_atfork(&AuditFiles::lock, &AuditFiles::unlock, &AuditFiles::child);
    (void)watched;  // fails without memory only: then children keep descriptors
  }
  static void lock() noexcept;
  static void unlock() noexcept;
  static void child() noexcept;

  static int open(AuditFile& file, const char* path, int flags, mode_t mode) noexcept;
  static void close(AuditFile& file) noexcept;
};

namespace {

constinit AuditFiles files{};

constexpr std::string_view line_begin = R"({"time":")";
constexpr std::size_t sector = 512;  // a disk writes no less

template <class Call>
auto uninterrupted(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

bool is_file(const struct stat& status, dev_t device, ino_t inode) { return status.st_dev == device && status.st_ino == inode; }

/// All of `text`, or fewer bytes and errno.
std::size_t write_all(int fd, std::string_view text) noexcept {
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t size = uninterrupted([&] { return ::write(fd, text.data() + written, text.size() - written); });
    if (size == 0) errno = EIO;
    if (size <= 0) break;
    written += static_cast<std::size_t>(size);
  }
  return written;
}

/// All that is from `offset` on, or fewer bytes if the file ends, or nothing and errno.
std::optional<std::string> read_from(int fd, std::uint64_t offset, std::size_t size) {
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = uninterrupted([&] { return ::pread(fd, text.data() + done, size - done, static_cast<off_t>(offset + done)); });
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

/// The seq of a line, without its newline; 0 if it is none of ours.
std::uint64_t seq_of(std::string_view line) {
  constexpr std::string_view before = R"(","seq":)";
  if (!line.starts_with(line_begin) || !line.ends_with('}')) return 0;
  const std::size_t time_end = line.find('"', line_begin.size());
  if (time_end == line.npos || !line.substr(time_end).starts_with(before)) return 0;
  const char* const digits = line.data() + time_end + before.size();
  std::uint64_t seq = 0;
  const auto [end, error] = std::from_chars(digits, line.data() + line.size(), seq);
  return error == std::errc() && *end == ',' ? seq : 0;
}

/// No line of ours has such a byte.
bool is_foreign(char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n'; }

Error not_an_audit_trail(const std::string& path) {
  return {std::make_error_code(std::errc::bad_message),
          "the file " + path + " is no audit trail, and was left alone; move it away or name another path"};
}

Error cannot(const char* what, const std::string& path, std::string_view advice = {}) {
  return system_error(errno, std::string("cannot ") + what + " the audit trail " + path, advice);
}

/// The entry of a new file in its directory.
Result<void> sync_directory(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const int fd = uninterrupted([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  const bool synced = fd >= 0 && (::fsync(fd) == 0 || errno == EINVAL);  // EINVAL: this file system does it by itself
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (synced) return {};
  return system_error(error, "cannot sync the directory " + directory + " of a new audit trail",
                      "It must be readable, or the file must be made and written by somebody else");
}

}  // namespace

unsigned audit_forks() noexcept { return files.forks.load(std::memory_order_relaxed); }

void AuditFiles::lock() noexcept { pthread_mutex_lock(&files.mutex); }
void AuditFiles::unlock() noexcept { pthread_mutex_unlock(&files.mutex); }

void AuditFiles::child() noexcept {
  files.forks.fetch_add(1, std::memory_order_relaxed);
  for (AuditFile* file = files.first; file != nullptr; file = file->next_) {  // they stay in the list, where leak checkers find them
    if (file->fd_ >= 0) ::close(file->fd_);
    file->fd_ = -1;
  }
  unlock();
}

int AuditFiles::open(AuditFile& file, const char* path, int flags, mode_t mode) noexcept {
  lock();
  file.fd_ = uninterrupted([&] { return ::open(path, flags, mode); });
  const int error = errno;
  if (file.fd_ >= 0) {
    file.next_ = files.first;
    file.link_ = &files.first;
    if (file.next_ != nullptr) file.next_->link_ = &file.next_;
    files.first = &file;
  }
  unlock();
  errno = error;
  return file.fd_;
}

void AuditFiles::close(AuditFile& file) noexcept {
  lock();
  if (file.link_ != nullptr) *file.link_ = file.next_;
  if (file.next_ != nullptr) file.next_->link_ = file.link_;
  if (file.fd_ >= 0) {
    ::flock(file.fd_, LOCK_UN);  // a child may have a copy that it has not closed yet
    ::close(file.fd_);
  }
  unlock();
}

AuditFile::~AuditFile() { AuditFiles::close(*this); }

Result<std::unique_ptr<AuditFile>> AuditFile::open(const std::string& path, mode_t mode, const AuditFile* current) {
  AuditFiles::watch_forks();
  if (path.empty() || path.find('\0') != path.npos) {
    return Error{std::make_error_code(std::errc::invalid_argument), "the path of an audit trail is empty or contains a NUL; name a file"};
  }
  constexpr int attempts = 16;
  for (int i = 0; i < attempts; ++i) {
    std::unique_ptr<AuditFile> file(new AuditFile);
    if (Result<void> opened = file->open_descriptor(path, mode); !opened) return std::move(opened).error();
    if (current != nullptr && file->device_ == current->device_ && file->inode_ == current->inode_) return std::unique_ptr<AuditFile>();
    if (uninterrupted([&] { return ::flock(file->fd_, LOCK_EX | LOCK_NB); }) != 0) {
      if (errno != EWOULDBLOCK) return cannot("lock", path);
      return Error{std::make_error_code(std::errc::device_or_resource_busy),
                   "the audit trail " + path + " is being written by another tracker; give each a file of its own, or end the other"};
    }
    struct stat status {};
    if (::fstat(file->fd_, &status) != 0) return cannot("look at", path);
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (::lstat(path.c_str(), &status) != 0 || !is_file(status, file->device_, file->inode_)) continue;  // moved away meanwhile
    if (Result<void> recovered = file->recover(path, size); !recovered) return std::move(recovered).error();
    if (::fsync(file->fd_) != 0) return cannot("sync", path);
    if (size == 0) {
      if (Result<void> synced = sync_directory(path); !synced) return std::move(synced).error();
    }
    return file;
  }
  return Error{std::make_error_code(std::errc::resource_unavailable_try_again),
               "the audit trail " + path + " is replaced again and again while it is opened"};
}

Result<void> AuditFile::open_descriptor(const std::string& path, mode_t mode) {
  constexpr int flags = O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK;  // a FIFO must not stop us
  struct stat status {};
  const bool opened = AuditFiles::open(*this, path.c_str(), flags, mode) >= 0;
  const int error = errno;
  if (!opened && error == ELOOP && ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) {
    return Error{std::make_error_code(std::errc::not_supported),
                 "the audit trail " + path + " is a symbolic link; name the file that it leads to"};
  }
  const bool known = opened ? ::fstat(fd_, &status) == 0 : ::lstat(path.c_str(), &status) == 0;
  if (known && !S_ISREG(status.st_mode) && (opened || !S_ISLNK(status.st_mode))) {
    return Error{std::make_error_code(std::errc::not_supported),
                 "the audit trail " + path + " is no regular file; name one, or a path where none is"};
  }
  errno = error;
  if (!opened) return cannot("open", path, error == ENOENT ? "Its directory must be there" : "It must be readable and writable");
  if (!known) return cannot("look at", path);
  device_ = status.st_dev;
  inode_ = status.st_ino;
  counts_links_ = status.st_nlink != 0;
  return {};
}

Result<void> AuditFile::recover(const std::string& path, std::uint64_t size) {
  if (size == 0) return {};
  const auto head = read_from(fd_, 0, static_cast<std::size_t>(std::min<std::uint64_t>(size, sector)));
  if (!head) return cannot("read", path);
  const bool unwritten = head->find_first_not_of('\0') == head->npos;
  if (!unwritten && !line_begin.starts_with(head->substr(0, line_begin.size())) && !head->starts_with(line_begin))
    return not_an_audit_trail(path);

  // The last batch, and the line before it.
  const std::uint64_t begin = size - std::min<std::uint64_t>(size, 2 * max_batch_bytes + 1);
  const auto read = read_from(fd_, begin, static_cast<std::size_t>(size - begin));
  if (!read) return cannot("read", path);
  const std::string_view tail = *read;
  const std::size_t batch = tail.size() - std::min(tail.size(), max_batch_bytes);
  const auto foreign = std::find_if(tail.begin() + static_cast<std::ptrdiff_t>(batch), tail.end(), is_foreign);
  const std::string_view sound = tail.substr(0, static_cast<std::size_t>(foreign - tail.begin()));
  const std::size_t end = sound.rfind('\n') + 1;  // npos + 1 == 0
  if (end == 0 && begin != 0) return not_an_audit_trail(path);
  if (end != 0) {
    const std::size_t last = end > 1 ? tail.rfind('\n', end - 2) + 1 : 0;
    last_seq_ = last == 0 && begin != 0 ? 0 : seq_of(tail.substr(last, end - 1 - last));
    if (last_seq_ == 0) return not_an_audit_trail(path);
  }
  cut_bytes_ = tail.size() - end;
  if (cut_bytes_ == 0) return {};
  if (uninterrupted([&] { return ::ftruncate(fd_, static_cast<off_t>(begin + end)); }) != 0)
    return cannot("take a torn line off the end of", path, "It must not be append-only");
  return {};
}

bool AuditFile::restore() noexcept {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) return false;
  if (status.st_size > keep_ && uninterrupted([&] { return ::ftruncate(fd_, keep_); }) != 0) return false;
  keep_ = -1;
  return true;
}

AuditFile::Appended AuditFile::append(std::string_view lines) noexcept {
  if (keep_ >= 0 && !restore()) return {0, "ftruncate", errno};
  struct stat status {};
  if (::fstat(fd_, &status) != 0) return {0, "fstat", errno};
  const off_t base = status.st_size;  // asked for each time: somebody may have emptied the file

  Appended result;
  const std::size_t written = write_all(fd_, lines);
  if (written < lines.size()) {
    result.failed = "write";
    result.error = errno;
  }
  result.durable = written == lines.size() ? written : lines.substr(0, written).rfind('\n') + 1;
  if (result.durable < written) {
    keep_ = base + static_cast<off_t>(result.durable);
    restore();
  }
  if (result.durable == 0) return result;
  if (::fdatasync(fd_) != 0) {
    // The kernel may have forgotten the pages: only what is written again can be synced again.
    result = {0, "fdatasync", errno};
    keep_ = base;
    restore();
    return result;
  }
  if (counts_links_ && ::fstat(fd_, &status) == 0 && status.st_nlink == 0) {
    keep_ = base;
    return {0, "the file was removed", 0, true};
  }
  return result;
}

}  // namespace weir::inline v0::detail
