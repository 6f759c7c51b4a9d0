#include "weir/telemetry/instance_id.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "net/fd.hpp"

namespace weir::inline v0 {

namespace {

using net::uninterrupted;

Error cannot(const char* what, const std::string& path, std::string_view advice = {}) {
  return system_error(errno, std::string("cannot ") + what + " the file " + path + " of an instance id", advice);
}

/// Its error has the code no_such_file_or_directory if there is nothing.
Result<InstanceId> read_id(const std::string& path) {
  const net::Fd file(uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); }));
  if (!file) return cannot("open", path);
  char text[64];
  const ssize_t size = uninterrupted([&] { return ::read(file.get(), text, sizeof text); });
  if (size < 0) return cannot("read", path);
  std::string_view line(text, static_cast<std::size_t>(size));
  line = line.substr(0, line.find('\n'));
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
  const InstanceId id = InstanceId::parse(line);
  if (id.valid()) return id;
  return Error{std::make_error_code(std::errc::bad_message),
               "the file " + path +
                   " holds no instance id (a UUID in its first line); remove it, and a new one "
                   "is made, or name another path"};
}

/// A temporary file beside the path, with an id in it. Removed at its end, unless it has moved.
class Draft {
 public:
  explicit Draft(const std::string& path) : path_(path + "." + InstanceId::random().to_string() + ".tmp") {}
  ~Draft() {
    const int error = errno;
    ::unlink(path_.c_str());
    errno = error;
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  /// False: see errno.
  bool write(InstanceId id) {
    const std::string text = id.to_string() + "\n";
    const net::Fd file(
        uninterrupted([&] { return ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0644); }));
    if (!file) return false;
    const ssize_t written = uninterrupted([&] { return ::write(file.get(), text.data(), text.size()); });
    if (written >= 0 && static_cast<std::size_t>(written) < text.size()) errno = ENOSPC;
    return static_cast<std::size_t>(written) == text.size() && ::fsync(file.get()) == 0;
  }
  /// Takes the path if nobody has it. False: see errno; EEXIST: somebody has.
  bool take_place(const std::string& path) noexcept {
    if (::link(path_.c_str(), path.c_str()) == 0) return true;
    if (errno == EEXIST) return false;
#ifdef RENAME_NOREPLACE
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) return true;  // it has no hard links
#endif
    return false;
  }

 private:
  std::string path_;
};

void sync_directory_of(const std::string& path) noexcept {
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : path.substr(0, slash + 1);
  const net::Fd opened(uninterrupted([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (opened.get() >= 0) ::fsync(opened.get());  // after a crash there may be a new id, which is no harm
}

}  // namespace

Result<InstanceId> InstanceId::from_file(const std::string& path) {
  if (path.empty() || path.find('\0') != path.npos) {
    return Error{std::make_error_code(std::errc::invalid_argument), "the path of an instance id is empty or contains a NUL; name a file"};
  }
  constexpr int attempts = 16;
  for (int i = 0; i < attempts; ++i) {
    Result<InstanceId> id = read_id(path);
    if (id || id.error().code != std::errc::no_such_file_or_directory) return id;
    Draft draft(path);
    const InstanceId mine = random();
    if (!draft.write(mine)) return cannot("make", path, errno == ENOENT ? "Its directory must be there" : "");
    if (draft.take_place(path)) {
      sync_directory_of(path);
      return mine;
    }
    if (errno != EEXIST) return cannot("make", path);
  }
  return Error{std::make_error_code(std::errc::resource_unavailable_try_again),
               "the file " + path + " of an instance id comes and goes, or is a symbolic link to nothing; name a file"};
}

}  // namespace weir::inline v0
