#include "net/read_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <system_error>

#include "net/fd.hpp"

namespace weir::inline v0::net {

Result<std::string> read_file(const std::string& path, std::string_view what, std::size_t max_bytes) {
  const std::string doing = "cannot read " + std::string(what) + " '" + path + "'";
  const auto wrong = [&](const std::string& why) { return Error{std::make_error_code(std::errc::invalid_argument), doing + ": " + why}; };
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0) return system_error(errno, doing);
  if (!S_ISREG(status.st_mode)) return wrong("it is not a file");
  std::string text(max_bytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = uninterrupted([&] { return ::read(fd.get(), text.data() + size, text.size() - size); });
    if (got < 0) return system_error(errno, doing);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > max_bytes) {
    const bool mebi = max_bytes % (1u << 20) == 0;
    return wrong("it is larger than " + std::to_string(max_bytes >> (mebi ? 20 : 10)) + (mebi ? " MiB" : " KiB"));
  }
  text.resize(size);
  return text;
}

}  // namespace weir::inline v0::net
