#include "telemetry/spool.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>

#include "net/fd.hpp"
#include "telemetry/json_members.hpp"
#include "weir/telemetry/instance_id.hpp"

namespace weir::inline v0::detail {

namespace {

using net::uninterrupted;

constexpr std::string_view ending = ".json", temporary = ".json.tmp";
constexpr std::size_t id_size = 32, sequence_size = 12, max_sequence_size = 18;
constexpr std::uint64_t max_file_bytes = std::uint64_t{1} << 30;

/// Closes, and keeps errno.
void close_keeping_errno(int fd) noexcept {
  const int error = errno;
  ::close(fd);
  errno = error;
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

bool is_update_id(std::string_view text) noexcept {
  return text.size() == id_size && text.find_first_not_of("0123456789abcdef") == text.npos;
}

struct Name {
  std::uint64_t sequence = 0;
  std::string_view update_id;
  bool is_temporary = false;
};

/// Nothing if it is no file of a spool.
std::optional<Name> parse_name(std::string_view text) noexcept {
  Name name;
  const std::size_t dash = text.find('-');
  if (dash == text.npos || dash == 0 || dash > max_sequence_size) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + dash, name.sequence);
  if (error != std::errc() || end != text.data() + dash) return std::nullopt;
  name.update_id = text.substr(dash + 1, id_size);
  if (!is_update_id(name.update_id)) return std::nullopt;
  const std::string_view rest = text.substr(dash + 1 + id_size);
  name.is_temporary = rest == temporary;
  return name.is_temporary || rest == ending ? std::optional(name) : std::nullopt;
}

/// The instance id of a body; empty if it is no payload of this update.
std::string instance_of(std::string_view body, std::string_view update_id) {
  JsonMember members[] = {{.name = "instance_id"}, {.name = "update_id"}};
  if (read_members(body, members) != JsonProblem::none) return {};
  std::string& instance_id = members[0].text;
  return members[1].text == update_id && InstanceId::parse(instance_id).valid() ? std::move(instance_id) : std::string();
}

}  // namespace

std::string Spool::File::name() const {
  std::string digits = std::to_string(sequence);
  if (digits.size() < sequence_size) digits.insert(0, sequence_size - digits.size(), '0');
  return digits + "-" + update_id + std::string(ending);
}

Error Spool::cannot(const char* what, std::string_view name) const {
  std::string path = directory_;
  if (!name.empty()) path.append("/").append(name);
  return system_error(errno, std::string("cannot ") + what + " " + path + " of the telemetry spool");
}

Result<std::unique_ptr<Spool>> Spool::open(const std::string& directory, std::size_t max_bytes) {
  if (directory.empty() || directory.find('\0') != directory.npos) {
    return Error{std::make_error_code(std::errc::invalid_argument),
                 "the path of a telemetry spool is empty or contains a NUL; name a directory"};
  }
  std::unique_ptr<Spool> spool(new Spool(directory, max_bytes));
  add_fork_handler(*spool);
  spool->listening_ = true;
  if (Result<void> opened = spool->open_directory(); !opened) return std::move(opened).error();
  if (Result<void> locked = spool->take_lock(); !locked) return std::move(locked).error();
  if (Result<void> scanned = spool->scan(); !scanned) return std::move(scanned).error();
  return spool;
}

Spool::~Spool() {
  const auto guard = no_forks();
  if (lock_fd_ >= 0) {
    ::flock(lock_fd_, LOCK_UN);  // a child may have a copy that it has not closed yet
    ::close(lock_fd_);
  }
  if (directory_fd_ >= 0) ::close(directory_fd_);
  lock_fd_ = directory_fd_ = -1;
  if (listening_) remove_fork_handler(*this, guard);
}

void Spool::in_child() noexcept {
  if (lock_fd_ >= 0) ::close(lock_fd_);
  if (directory_fd_ >= 0) ::close(directory_fd_);
  lock_fd_ = directory_fd_ = -1;
}

Result<void> Spool::open_directory() {
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) return cannot("make the directory", {});
  {
    const auto guard = no_forks();
    directory_fd_ = uninterrupted([&] { return ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW); });
  }
  if (directory_fd_ < 0) return cannot("open the directory", {});
  struct stat status {};
  if (::fstat(directory_fd_, &status) != 0) return cannot("look at the directory", {});
  if (status.st_uid == ::geteuid() && (status.st_mode & 077) == 0) return {};
  return Error{std::make_error_code(std::errc::operation_not_permitted),
               "the directory " + directory_ + " of the telemetry spool " +
                   (status.st_uid != ::geteuid() ? "belongs to another user" : "may be entered by others") +
                   "; name one of mode 0700 that is your own"};
}

Result<void> Spool::take_lock() {
  {
    const auto guard = no_forks();
    lock_fd_ = uninterrupted([&] { return ::openat(directory_fd_, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600); });
  }
  if (lock_fd_ < 0) return cannot("open", "lock");
  if (uninterrupted([&] { return ::flock(lock_fd_, LOCK_EX | LOCK_NB); }) == 0) return {};
  if (errno != EWOULDBLOCK) return cannot("lock", "lock");
  return Error{std::make_error_code(std::errc::device_or_resource_busy),
               "the telemetry spool " + directory_ + " is used by another emitter; give each a directory of its own, or end the other"};
}

Result<void> Spool::scan() {
  const int copy = uninterrupted([&] { return ::openat(directory_fd_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (copy < 0) return cannot("read the directory", {});
  DIR* const listing = ::fdopendir(copy);
  if (listing == nullptr) {
    close_keeping_errno(copy);
    return cannot("read the directory", {});
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> closed(listing, &::closedir);
  while (const dirent* const entry = ::readdir(listing)) {
    const std::optional<Name> name = parse_name(entry->d_name);
    if (!name) continue;
    if (name->is_temporary) {
      ::unlinkat(directory_fd_, entry->d_name, 0);
      continue;
    }
    struct stat status {};
    if (::fstatat(directory_fd_, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode)) continue;
    File file{name->sequence, std::string(name->update_id), static_cast<std::uint64_t>(status.st_size)};
    last_sequence_ = std::max(last_sequence_, file.sequence);
    if (file.name() != entry->d_name) continue;  // a number that we would write otherwise
    bytes_ += file.bytes;
    files_.push_back(std::move(file));
  }
  std::sort(files_.begin(), files_.end(),
            [](const File& a, const File& b) { return a.sequence != b.sequence ? a.sequence < b.sequence : a.update_id < b.update_id; });
  return {};
}

Result<std::uint64_t> Spool::add(std::string_view update_id, std::string_view body) {
  if (!has_room(body.size())) {
    return Error{std::make_error_code(std::errc::no_space_on_device), "the telemetry spool " + directory_ + " has no room for " +
                                                                          std::to_string(body.size()) + " bytes more; it is bounded by " +
                                                                          std::to_string(max_bytes_) + " (max_spool_bytes)"};
  }
  files_.push_back({last_sequence_ + 1, std::string(update_id), body.size()});
  Result<void> written = write(files_.back().name(), body);
  if (!written) {
    files_.pop_back();
    return std::move(written).error();
  }
  bytes_ += body.size();
  return ++last_sequence_;
}

Result<void> Spool::write(const std::string& name, std::string_view body) {
  const std::string draft = name + ".tmp";
  const int fd =
      uninterrupted([&] { return ::openat(directory_fd_, draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600); });
  if (fd < 0) return cannot("make", draft);
  const bool written = write_all(fd, body) && ::fsync(fd) == 0;
  close_keeping_errno(fd);
  const bool renamed = written && ::renameat(directory_fd_, draft.c_str(), directory_fd_, name.c_str()) == 0;
  if (!renamed || (::fsync(directory_fd_) != 0 && errno != EINVAL)) {  // EINVAL: this file system does it by itself
    Error error = cannot("write", name);
    ::unlinkat(directory_fd_, (renamed ? name : draft).c_str(), 0);
    return error;
  }
  return {};
}

Result<std::string> Spool::read(const File& file) const {
  const std::string name = file.name();
  const int fd = uninterrupted([&] { return ::openat(directory_fd_, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); });
  if (fd < 0) return cannot("open", name);
  std::string text;
  if (file.bytes <= max_file_bytes) text.resize(static_cast<std::size_t>(file.bytes));
  std::size_t size = 0;
  ssize_t got = 1;
  while (size < text.size() && got > 0) {
    got = uninterrupted([&] { return ::read(fd, text.data() + size, text.size() - size); });
    if (got > 0) size += static_cast<std::size_t>(got);
  }
  close_keeping_errno(fd);
  if (got < 0) return cannot("read", name);
  text.resize(size);
  return text;
}

Error Spool::set_aside(const File& file, std::string_view why) {
  const std::string name = file.name();
  Error error{std::make_error_code(std::errc::bad_message),
              "the file " + directory_ + "/" + name + " of the telemetry spool is not sent: " + std::string(why)};
  ::renameat(directory_fd_, name.c_str(), directory_fd_, (name + ".bad").c_str());
  return error;
}

Result<std::optional<Spool::Stored>> Spool::oldest() {
  if (files_.empty()) return std::optional<Stored>();
  const File& file = files_.front();
  Result<std::string> body = read(file);
  std::string instance_id = body ? instance_of(*body, file.update_id) : std::string();
  if (!instance_id.empty()) return std::optional<Stored>(Stored{file.sequence, std::move(instance_id), file.update_id, std::move(*body)});
  Error error = body ? set_aside(file, "it holds no payload of this update_id") : std::move(body).error();
  bytes_ -= file.bytes;
  files_.pop_front();
  return error;
}

Result<void> Spool::remove(std::uint64_t sequence) {
  const auto found = std::find_if(files_.begin(), files_.end(), [&](const File& file) { return file.sequence == sequence; });
  if (found == files_.end()) return {};
  const std::string name = found->name();
  bytes_ -= found->bytes;
  files_.erase(found);
  if (::unlinkat(directory_fd_, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  return cannot("remove", name);
}

}  // namespace weir::inline v0::detail
