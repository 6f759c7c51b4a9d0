#include "weir/telemetry/process_metrics.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <exception>
#include <optional>
#include <string_view>

namespace weir::inline v0 {

namespace {

constexpr std::string_view key = "process";

#ifdef __linux__

/// Threads and pages of memory from /proc/self/stat: "pid (name) state …", where a name may hold anything.
struct Status {
  std::optional<std::int64_t> threads, pages;

  Status() noexcept {
    const int fd = ::open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    char text[2048];
    const ssize_t size = ::read(fd, text, sizeof text);
    ::close(fd);
    std::string_view rest(text, size < 0 ? 0 : static_cast<std::size_t>(size));
    const std::size_t name_end = rest.rfind(") ");
    if (name_end == rest.npos) return;
    rest.remove_prefix(name_end + 2);
    constexpr int state_field = 3, threads_field = 20, pages_field = 24;
    for (int field = state_field; !rest.empty() && field <= pages_field; ++field) {
      const std::size_t end = std::min(rest.find(' '), rest.size());
      if (field == threads_field) threads = number(rest.substr(0, end));
      if (field == pages_field) pages = number(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }

 private:
  static std::optional<std::int64_t> number(std::string_view text) noexcept {
    std::int64_t value = 0;
    const bool whole = std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc();
    return whole ? std::optional(value) : std::nullopt;
  }
};

std::optional<std::int64_t> count_descriptors() noexcept {
  DIR* const directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return std::nullopt;
  std::int64_t count = 0;
  while (const dirent* const entry = ::readdir(directory)) count += entry->d_name[0] != '.' ? 1 : 0;
  ::closedir(directory);
  return count - 1;  // without the one that reads
}

#endif

}  // namespace

void process_metrics(const Telemetry& telemetry) noexcept try {
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) {
    const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6; };
    telemetry.set_nested(key, "cpu_seconds", seconds(usage.ru_utime) + seconds(usage.ru_stime));
  }
#ifdef __linux__
  const Status status;
  if (status.threads) telemetry.set_nested(key, "threads", *status.threads);
  if (status.pages) telemetry.set_nested(key, "resident_bytes", *status.pages * ::sysconf(_SC_PAGESIZE));
  if (const std::optional<std::int64_t> count = count_descriptors()) telemetry.set_nested(key, "file_descriptors", *count);
#endif
} catch (const std::exception&) {  // no memory for the values
}

}  // namespace weir::inline v0
