#include "instrument/process_reader.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace weir::inline v0::instrument {

namespace {

constexpr std::size_t max_arguments = 128 << 10;   // bytes of a command line that are kept
constexpr std::size_t max_environment = 16 << 20;  // bytes that are looked at
constexpr std::size_t max_variable = 256 << 10;    // a longer one is skipped; the kernel allows 128 KiB
constexpr std::size_t max_small_file = 64 << 10;   // stat, status, cgroup
constexpr std::uint64_t pf_kthread = 0x00200000;

class ProcPath {
 public:
  ProcPath(pid_t pid, pid_t thread, std::string_view file) noexcept {
    append("/proc/");
    append(pid);
    if (thread != 0) {
      append("/task/");
      append(thread);
    }
    append("/");
    append(file);
    text_[size_] = '\0';
  }
  const char* c_str() const noexcept { return text_.data(); }

 private:
  void append(std::string_view part) noexcept {
    std::copy(part.begin(), part.end(), text_.begin() + size_);
    size_ += static_cast<std::ptrdiff_t>(part.size());
  }
  void append(pid_t number) noexcept {
    size_ = std::to_chars(text_.data() + size_, text_.data() + text_.size(), number).ptr - text_.data();
  }

  std::array<char, 64> text_;
  std::ptrdiff_t size_ = 0;
};

net::Fd open_file(const ProcPath& path) noexcept {
  return net::Fd(net::uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY); }));
}

ssize_t read_some(const net::Fd& fd, char* data, std::size_t size) noexcept {
  return net::uninterrupted([&] { return ::read(fd.get(), data, size); });
}

/// The file, or what of it `limit` allows; false: it cannot be read.
bool read_file(const ProcPath& path, std::size_t limit, std::string& text) {
  text.clear();
  const net::Fd fd = open_file(path);
  if (!fd) return false;
  std::array<char, 4096> part;
  while (text.size() < limit) {
    const ssize_t size = read_some(fd, part.data(), std::min(part.size(), limit - text.size()));
    if (size < 0) return false;
    if (size == 0) break;
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  return true;
}

template <class Number>
bool parse(std::string_view text, Number& number) noexcept {
  const auto end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  return error == std::errc{} && at == end;
}

/// The next word of `text`, taken from its front.
std::string_view next_word(std::string_view& text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
  text.remove_prefix(word.size());
  return word;
}

template <class Take>
Result<void> each_number_in(const char* directory, Take take) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(directory), &::closedir);
  if (!open) return system_error(errno, directory);
  for (;;) {
    errno = 0;
    const dirent* const entry = ::readdir(open.get());
    if (entry == nullptr) {
      if (errno != 0) return system_error(errno, directory);
      return {};
    }
    pid_t number = 0;
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && parse(std::string_view(entry->d_name), number)) {
      if (!take(number)) return {};
    }
  }
}

/// The fields of a stat file from the third on (the second, a name, may contain anything); by their numbers in proc(5).
class StatFields {
 public:
  static constexpr std::size_t count = 50;
  bool parse_line(std::string_view line) noexcept {
    const std::size_t name_end = line.rfind(')');
    if (name_end == line.npos) return false;
    line.remove_prefix(name_end + 1);
    const std::string_view state = next_word(line);
    if (state.size() != 1) return false;
    state_ = state[0];
    for (std::size_t i = 4; i < values_.size(); ++i) {
      const std::string_view word = next_word(line);
      if (word.empty()) break;  // of an older kernel
      if (word[0] != '-') (void)parse(word, values_[i]);
      known_ = i;
    }
    return known_ >= 22;
  }
  char state() const noexcept { return state_; }
  std::uint64_t operator[](std::size_t field) const noexcept { return values_[field]; }

 private:
  char state_ = '?';
  std::array<std::uint64_t, count> values_{};
  std::size_t known_ = 0;
};

std::uint64_t mix(std::uint64_t sum, std::uint64_t value) noexcept {
  sum ^= value + 0x9e3779b97f4a7c15u + (sum << 6) + (sum >> 2);
  sum *= 0xbf58476d1ce4e5b9u;
  return sum ^ (sum >> 31);
}

constexpr std::size_t virtual_size = 23, start_code = 26, end_code = 27, start_stack = 28, start_data = 45, end_data = 46;

/// 0 where the kernel shows no addresses.
std::uint64_t image_of(const StatFields& fields) noexcept {
  if (fields[start_stack] == 0) return 0;
  std::uint64_t sum = 1;
  for (const std::size_t field : {start_code, end_code, start_stack, start_data, end_data}) sum = mix(sum, fields[field]);
  return sum == 0 ? 1 : sum;
}

/// Its memory is new, and there is nothing in it yet. (Where addresses are not shown, the kernel writes 1.)
bool is_executing(const StatFields& fields) noexcept { return fields[virtual_size] != 0 && fields[start_code] == 0; }

bool wants_resources(int error) noexcept { return error == EMFILE || error == ENFILE || error == ENOMEM; }

/// Returns an errno.
int read_stat(pid_t pid, pid_t thread, StatFields& fields) noexcept {
  const net::Fd fd = open_file(ProcPath(pid, thread, "stat"));
  if (!fd) return errno;
  std::array<char, 2048> text;
  const ssize_t size = read_some(fd, text.data(), text.size());
  if (size < 0) return errno;
  return fields.parse_line({text.data(), static_cast<std::size_t>(size)}) ? 0 : ESRCH;
}

Error no_stat(pid_t pid, int error) {
  if (wants_resources(error)) return system_error(error, "/proc/" + std::to_string(pid) + "/stat");
  return {std::make_error_code(std::errc::no_such_process), "no such process"};
}

/// A thread of the process that still has its memory, where the first has ended; 0: none. Error: cannot_tell_now().
Result<pid_t> living_thread(pid_t pid) {
  pid_t living = 0;
  int error = 0;
  const Result<void> listed = each_number_in(ProcPath(pid, 0, "task").c_str(), [&](pid_t thread) {
    if (thread == pid) return true;
    StatFields fields;
    error = read_stat(pid, thread, fields);
    if (wants_resources(error)) return false;
    if (error != 0 || fields.state() == 'Z' || fields.state() == 'X') return true;
    living = thread;
    return false;
  });
  if (wants_resources(error)) return no_stat(pid, error);
  if (!listed && cannot_tell_now(listed.error())) return listed.error();
  return living;
}

std::chrono::milliseconds age_of(std::uint64_t start_time) noexcept {
  static const auto ticks_per_second = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const auto started =
      static_cast<std::int64_t>(start_time / ticks_per_second * 1000 + start_time % ticks_per_second * 1000 / ticks_per_second);
  return std::chrono::milliseconds(std::max<std::int64_t>(0, std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000 - started));
}

/// The line of `text` that begins with `name`, without it.
std::string_view line_of(std::string_view text, std::string_view name) noexcept {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.substr(0, name.size()) == name) return line.substr(name.size());
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return {};
}

void keep_variable(std::string_view variable, const FilterSet& filters, FilterSet::Environment& kept) {
  const std::size_t equals = variable.find('=');
  if (equals == variable.npos || !filters.keeps(variable.substr(0, equals))) return;
  kept.try_emplace(std::string(variable.substr(0, equals)), variable.substr(equals + 1));  // getenv() finds the first, too
}

bool read_environment(const ProcPath& path, const FilterSet& filters, FilterSet::Environment& kept) {
  const net::Fd fd = open_file(path);
  if (!fd) return false;
  std::string part(64 << 10, '\0'), begun;
  bool skipping = false;
  for (std::size_t total = 0; total < max_environment;) {
    const ssize_t size = read_some(fd, part.data(), part.size());
    if (size < 0) return false;
    if (size == 0) break;
    total += static_cast<std::size_t>(size);
    std::string_view rest(part.data(), static_cast<std::size_t>(size));
    for (std::size_t end; (end = rest.find('\0')) != rest.npos; rest.remove_prefix(end + 1)) {
      if (begun.empty() && !skipping) {
        keep_variable(rest.substr(0, end), filters, kept);
      } else if (!std::exchange(skipping, false) && begun.size() + end <= max_variable) {
        keep_variable(begun.append(rest.substr(0, end)), filters, kept);
      }
      begun.clear();
    }
    if (skipping || begun.size() + rest.size() > max_variable) {
      skipping = true;
      begun.clear();
    } else {
      begun.append(rest);
    }
  }
  if (!begun.empty()) keep_variable(begun, filters, kept);
  return true;
}

Error not_readable(pid_t pid, std::string_view file) {
  const int error = errno != 0 ? errno : ESRCH;
  return system_error(error, "/proc/" + std::to_string(pid) + "/" + std::string(file));
}

class ProcReader final : public ProcessReader {
 public:
  Result<void> list(const std::function<void(pid_t)>& take) const override {
    return each_number_in("/proc", [&](pid_t pid) {
      take(pid);
      return true;
    });
  }

  Result<ProcessStat> stat(pid_t pid) const override {
    StatFields fields;
    if (const int error = read_stat(pid, 0, fields); error != 0) return no_stat(pid, error);
    ProcessStat stat;
    stat.parent = static_cast<pid_t>(fields[4]);
    stat.kernel_thread = (fields[9] & pf_kthread) != 0;
    stat.start_time = fields[22];
    stat.age = age_of(stat.start_time);
    stat.image = image_of(fields);
    stat.executing = is_executing(fields);
    if (fields.state() == 'Z' || fields.state() == 'X') {
      stat.ended = fields[20] <= 1;
      const Result<pid_t> thread = stat.ended ? Result<pid_t>(0) : living_thread(pid);
      if (!thread) return thread.error();
      if (*thread != 0) {
        StatFields of_thread;
        const int error = read_stat(pid, *thread, of_thread);
        if (wants_resources(error)) return no_stat(pid, error);
        if (error == 0) stat.image = image_of(of_thread);
      }
    }
    return stat;
  }

  Result<net::Fd> open(pid_t pid) const override {
    net::Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));  // always close-on-exec
    if (!fd) return system_error(errno, "pidfd of process " + std::to_string(pid), errno == ENOSYS ? "Linux 5.3 has them" : "");
    return fd;
  }

  Result<bool> read(pid_t pid, const FilterSet& filters, ProcessEvent& event) const override {
    std::array<char, PATH_MAX> path;
    pid_t thread = 0;
    const auto read_link = [&] { return ::readlink(ProcPath(pid, thread, "exe").c_str(), path.data(), path.size()); };
    errno = 0;
    ssize_t size = read_link();
    if (size < 0 && errno == ENOENT) {
      const Result<pid_t> living = living_thread(pid);
      if (!living) return living.error();
      errno = ENOENT;
      if ((thread = *living) != 0) size = read_link();
    }
    std::optional<Error> unreadable;  // that it does not pass may still be known
    if (size < 0) unreadable = not_readable(pid, "exe");
    event.pid = pid;
    event.executable.assign(path.data(), static_cast<std::size_t>(std::max<ssize_t>(0, size)));
    if (!unreadable && !filters.passes_executable(event.executable)) return false;

    std::string text;
    errno = 0;
    if (!read_file(ProcPath(pid, 0, "status"), max_small_file, text)) return not_readable(pid, "status");
    std::string_view uids = line_of(text, "Uid:"), parent = line_of(text, "PPid:");
    next_word(uids);  // the real one; what follows is the effective one
    if (!parse(next_word(uids), event.uid) || !parse(next_word(parent), event.parent)) return not_readable(pid, "status");
    if (!filters.passes_uid(event.uid)) return false;
    event.inner_pid = pid;
    std::string_view pids = line_of(text, "NSpid:");
    for (std::string_view word; !(word = next_word(pids)).empty();) (void)parse(word, event.inner_pid);

    event.cgroup.clear();
    if (read_file(ProcPath(pid, thread, "cgroup"), max_small_file, text)) {
      event.cgroup = line_of(text, "0::");
    } else if (wants_resources(errno)) {
      return not_readable(pid, "cgroup");
    }
    if (!filters.passes_cgroup(event.cgroup)) return false;
    if (unreadable) return *std::move(unreadable);

    event.environment.clear();
    errno = 0;
    if (filters.keeps_any() && !read_environment(ProcPath(pid, thread, "environ"), filters, event.environment))
      return not_readable(pid, "environ");
    if (!filters.passes_environment(event.environment)) return false;

    errno = 0;
    if (!read_file(ProcPath(pid, thread, "cmdline"), max_arguments, text)) return not_readable(pid, "cmdline");
    event.arguments.clear();
    for (std::string_view rest = text; !rest.empty();) {
      const std::string_view argument = rest.substr(0, rest.find('\0'));
      event.arguments.emplace_back(argument);
      rest.remove_prefix(std::min(rest.size(), argument.size() + 1));
    }
    return true;
  }
};

}  // namespace

const ProcessReader& proc_reader() {
  static const ProcReader* const reader = new ProcReader;
  return *reader;
}

bool cannot_tell_now(const Error& error) noexcept {
  return error.code == std::errc::too_many_files_open || error.code == std::errc::too_many_files_open_in_system ||
         error.code == std::errc::not_enough_memory;
}

bool has_ended(const net::Fd& pidfd) noexcept {
  pollfd entry{pidfd.get(), POLLIN, 0};
  return net::uninterrupted([&] { return ::poll(&entry, 1, 0); }) > 0 && (entry.revents & POLLIN) != 0;
}

}  // namespace weir::inline v0::instrument
