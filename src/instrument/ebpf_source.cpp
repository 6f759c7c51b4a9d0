#include "instrument/ebpf_source.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <sys/stat.h>
#include <unistd.h>
#include <weir_process_events.skel.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "instrument/bpf/process_events.h"
#include "instrument/guarded.hpp"
#include "net/fd.hpp"

namespace weir::inline v0::instrument {
namespace {

constexpr std::size_t max_ring = 1u << 30;
constexpr std::size_t max_watched = 1u << 16;
constexpr std::size_t record_size = 8 + sizeof(weir_event);  // in the ring buffer, with its header
constexpr const char* type_information = "/sys/kernel/btf/vmlinux";

// What libbpf says while one of these lives, on its thread, instead of on stderr. Its print function belongs to the whole process: what
// other threads have to say goes to the function that was there.
class LibbpfText {
 public:
  LibbpfText() : lock_(mutex_) {
    here_ = this;
    before_ = libbpf_set_print(&LibbpfText::print);
  }
  ~LibbpfText() {
    libbpf_set_print(before_);
    here_ = nullptr;
  }
  LibbpfText(const LibbpfText&) = delete;
  LibbpfText& operator=(const LibbpfText&) = delete;

  /// Its first line, without its name.
  std::string_view first_line() const {
    std::string_view line = std::string_view(text_).substr(0, text_.find('\n'));
    if (line.starts_with("libbpf: ")) line.remove_prefix(8);
    return line;
  }
  const std::string& text() const { return text_; }

 private:
  static constexpr std::size_t max_text = 16 * 1024;

  static int print(libbpf_print_level level, const char* format, va_list arguments) {
    if (here_ == nullptr) {
      const libbpf_print_fn_t before = before_;
      return before != nullptr ? before(level, format, arguments) : 0;
    }
    if (level != LIBBPF_WARN || here_->text_.size() >= max_text) return 0;
    std::array<char, 1024> line{};
    const int size = std::vsnprintf(line.data(), line.size(), format, arguments);
    try {
      if (size > 0) here_->text_ += line.data();
    } catch (...) {
      return 0;
    }
    return size;
  }

  static inline std::mutex mutex_;
  static inline thread_local LibbpfText* here_ = nullptr;
  static inline std::atomic<libbpf_print_fn_t> before_{nullptr};

  std::lock_guard<std::mutex> lock_;
  std::string text_;
};

struct Destroy {
  void operator()(weir_process_events* programs) const noexcept { weir_process_events__destroy(programs); }
  void operator()(ring_buffer* ring) const noexcept { ring_buffer__free(ring); }
};

// How openings are seen: see process_events.bpf.c.
enum class Openings { at_function, at_system_call, not_seen };

// The cheaper way first. Where a system call keeps its arguments is known of these processors.
#if defined(__x86_64__) || defined(__aarch64__)
constexpr std::array file_openings{Openings::at_function, Openings::at_system_call};
#else
constexpr std::array file_openings{Openings::at_function};
#endif

std::string_view advice_for(int error) {
  switch (error) {
    case EPERM:
    case EACCES: return "It needs root, or CAP_BPF and CAP_PERFMON; in a container, also a seccomp profile that allows bpf()";
    case ENOSYS: return "This kernel was built without eBPF (CONFIG_BPF_SYSCALL)";
    case EINVAL:
    case ESRCH:
    case ENOENT:
    case EOPNOTSUPP: return "It needs Linux 5.8 or newer with BTF (CONFIG_DEBUG_INFO_BTF)";
    default: return "";
  }
}

Error cannot(int error, std::string_view what, const LibbpfText& said) {
  Error result = system_error(error, "eBPF: cannot " + std::string(what), advice_for(error));
  // Where it may not, libbpf begins with the memory limit, which is not what is missing.
  if (error != EPERM && !said.first_line().empty()) result.message.append(" (libbpf: ").append(said.first_line()).append(")");
  return result;
}

class EbpfSource final : public RawSource {
 public:
  explicit EbpfSource(const DetectorOptions& options)
      : files_(options.files),
        ring_size_(static_cast<std::uint32_t>(
            std::bit_ceil(std::clamp(options.receive_buffer, static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)), max_ring)))),
        logger_(options.logger != nullptr ? *options.logger : stderr_logger()) {
    choose_hashes();
  }
  ~EbpfSource() override { detach(); }
  EbpfSource(const EbpfSource&) = delete;
  EbpfSource& operator=(const EbpfSource&) = delete;

  std::string_view name() const noexcept override { return "eBPF"; }
  bool file_open() const noexcept override { return file_open_; }
  int fd() const noexcept override { return programs_ ? bpf_map__fd(programs_->maps.events) : -1; }

  Result<void> attach() override {
    if (programs_) return Error{std::make_error_code(std::errc::already_connected), "eBPF: attached already"};
    if (::access(type_information, R_OK) != 0) {
      return system_error(errno, std::string("eBPF: cannot read the types of the kernel, ") + type_information,
                          "It needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y), and /sys");
    }
    struct stat own {};
    if (::stat("/proc/self/ns/pid", &own) != 0) {
      return system_error(errno, "eBPF: cannot tell our pid namespace, /proc/self/ns/pid", "It needs /proc");
    }
    std::vector<Openings> ways{Openings::not_seen};
    if (!files_.empty()) ways.insert(ways.begin(), file_openings.begin(), file_openings.end());
    std::string why_no_openings;
    for (const Openings way : ways) {
      const Result<void> attached = attach(way, static_cast<std::uint32_t>(own.st_ino));
      file_open_ = way != Openings::not_seen || files_.empty();
      if (attached && file_open_) return {};
      if (attached) {
        const bool said = std::exchange(said_not_seen_, true);
        if (!said) logger_.log(Logger::Level::warning, "opened files cannot be told of: " + why_no_openings);
        return {};
      }
      if (way == Openings::not_seen) return attached;
      logger_.log(Logger::Level::debug, attached.error().message);
      why_no_openings = attached.error().message;
    }
    return {};
  }

  Result<void> read(const std::function<void(const RawEvent&)>& take) override {
    if (!programs_) return Error{std::make_error_code(std::errc::not_connected), "eBPF: not attached"};
    Reading reading{&take, ring_size_ / record_size, std::nullopt};
    reading_ = &reading;
    const int result = ring_buffer__consume(ring_.get());
    reading_ = nullptr;
    if (reading.failed) return std::move(*reading.failed);
    if (result < 0 && result != -ECANCELED) return system_error(-result, "eBPF: cannot read the ring buffer");
    return {};
  }

  std::uint64_t lost() const noexcept override { return programs_ ? lost_now() : lost_; }

  void watch(pid_t pid) override {
    if (files_.empty() || pid <= 0) return;
    int error = 0;
    {
      const std::lock_guard lock(watch_mutex_);
      if (watched_.contains(pid)) return;
      error = watched_.size() < max_watched ? tell_watched(pid) : ENOSPC;
      if (error == 0) watched_.insert(pid);
      if (error != 0 && std::exchange(said_full_, true)) return;
    }
    if (error != 0) {
      logger_.log(Logger::Level::warning, system_error(error, "eBPF: of a process it is not told which files it opens").message);
    }
  }

  void unwatch(pid_t pid) override {
    const std::lock_guard lock(watch_mutex_);
    if (watched_.erase(pid) == 0) return;
    said_full_ = false;
    if (watched_fd_ >= 0) bpf_map_delete_elem(watched_fd_, &pid);
  }

  void detach() noexcept override {
    if (!programs_) return;
    weir_process_events__detach(programs_.get());
    lost_ = lost_now();
    unload();
  }

 private:
  struct Reading {
    const std::function<void(const RawEvent&)>* take;
    std::size_t left;  // as many as there can be when it begins: who writes faster than we read does not keep us here
    std::optional<Error> failed;
  };

  // Seeds are tried until no two of the files have the same hash.
  void choose_hashes() {
    do {
      ++seed_;
      hashes_.clear();
      for (std::size_t i = 0; i < files_.size(); ++i) hashes_.try_emplace(hash_of(files_[i]), static_cast<std::uint32_t>(i));
    } while (hashes_.size() < files_.size());
  }

  static weir_path padded(const std::string& file) {
    weir_path path{};
    std::memcpy(path.words, file.data(), file.size());
    return path;
  }

  std::uint64_t hash_of(const std::string& file) const {
    const weir_path path = padded(file);
    std::uint64_t hash = seed_;
    for (std::size_t i = 0; i < (file.size() + 7) / 8; ++i) hash = weir_hash_word(hash, path.words[i]);
    return hash;
  }

  Result<void> attach(Openings way, std::uint32_t namespace_number) {
    Result<void> result;
    std::string text;
    {
      LibbpfText said;
      result = load_and_attach(way, namespace_number, said);
      if (!result) unload();
      text = said.text();
    }
    if (!result && !text.empty()) logger_.log(Logger::Level::debug, text);
    return result;
  }

  Result<void> load_and_attach(Openings way, std::uint32_t namespace_number, const LibbpfText& said) {
    programs_.reset(weir_process_events__open());
    if (!programs_) return cannot(errno, "open its programs", said);
    const auto& maps = programs_->maps;
    const auto& progs = programs_->progs;
    programs_->rodata->own_pid_namespace = namespace_number;
    programs_->rodata->hash_seed = seed_;
    const auto files = static_cast<std::uint32_t>(std::max<std::size_t>(files_.size(), 1));
    int error = bpf_map__set_max_entries(maps.events, ring_size_);
    if (error == 0) error = bpf_map__set_max_entries(maps.watched, files_.empty() ? 1 : max_watched);
    if (error == 0) error = bpf_map__set_max_entries(maps.paths, files);
    if (error == 0) error = bpf_map__set_max_entries(maps.path_index, files);
    if (error == 0) error = bpf_program__set_autoload(progs.on_open, way == Openings::at_function);
    if (error == 0) error = bpf_program__set_autoload(progs.on_system_call, way == Openings::at_system_call);
    if (error != 0) return cannot(-error, "prepare its programs", said);
    error = weir_process_events__load(programs_.get());
    if (error != 0) return cannot(-error, "load its programs", said);
    if (const Result<void> filled = fill(said); !filled) return filled;
    ring_.reset(ring_buffer__new(bpf_map__fd(maps.events), &EbpfSource::take, this, nullptr));
    if (!ring_) return cannot(errno, "map its ring buffer", said);
    error = weir_process_events__attach(programs_.get());
    if (error != 0) return cannot(-error, "attach its programs", said);
    return {};
  }

  Result<void> fill(const LibbpfText& said) {
    for (const auto& [hash, index] : hashes_) {
      const std::string& file = files_[index];
      const weir_path path = padded(file);
      const weir_path_entry entry{index, static_cast<unsigned int>(file.size())};
      int error = bpf_map_update_elem(bpf_map__fd(programs_->maps.paths), &index, &path, BPF_ANY);
      if (error == 0) error = bpf_map_update_elem(bpf_map__fd(programs_->maps.path_index), &hash, &entry, BPF_ANY);
      if (error != 0) return cannot(-error, "tell the kernel of the files", said);
    }
    const std::lock_guard lock(watch_mutex_);
    watched_fd_ = bpf_map__fd(programs_->maps.watched);
    for (const pid_t pid : watched_) {
      if (const int error = tell_watched(pid); error != 0) return cannot(error, "tell the kernel whose files", said);
    }
    return {};
  }

  // Returns an errno.
  int tell_watched(pid_t pid) const noexcept {
    const char present = 1;
    return watched_fd_ < 0 ? 0 : -bpf_map_update_elem(watched_fd_, &pid, &present, BPF_ANY);
  }

  void unload() noexcept {
    ring_.reset();
    {
      const std::lock_guard lock(watch_mutex_);
      watched_fd_ = -1;
    }
    programs_.reset();
  }

  // What found no room, and what came while the same program was at work on that processor.
  std::uint64_t lost_now() const noexcept {
    std::uint64_t lost = __atomic_load_n(&programs_->bss->lost, __ATOMIC_RELAXED);
    const auto& progs = programs_->progs;
    for (const bpf_program* program : {progs.on_exec, progs.on_fork, progs.on_open, progs.on_system_call}) {
      const int fd = bpf_program__fd(program);
      if (fd < 0) continue;
      bpf_prog_info info{};
      std::uint32_t size = sizeof info;
      if (bpf_obj_get_info_by_fd(fd, &info, &size) == 0) lost += info.recursion_misses;
    }
    return lost;
  }

  static int take(void* context, void* data, std::size_t size) {
    auto& source = *static_cast<EbpfSource*>(context);
    Reading& reading = *source.reading_;
    weir_event event{};
    if (size < sizeof event) return 0;
    std::memcpy(&event, data, sizeof event);
    RawEvent told{.type = RawEvent::Type::exec, .pid = event.pid, .parent = event.parent, .file = {}};
    switch (event.type) {
      case weir_event_exec: break;
      case weir_event_fork: told.type = RawEvent::Type::fork; break;
      case weir_event_open:
        told.type = RawEvent::Type::open;
        told.file = source.files_[std::min<std::size_t>(event.index, source.files_.size() - 1)];
        break;
      default: return 0;
    }
    const Result<void> taken = detail::guarded<void>([&]() -> Result<void> {
      (*reading.take)(told);
      return {};
    });
    if (!taken) reading.failed = Error{{}, "eBPF: who takes the events: " + taken.error().message};
    return --reading.left == 0 || reading.failed ? -ECANCELED : 0;
  }

  const std::vector<std::string> files_;
  const std::uint32_t ring_size_;
  Logger& logger_;
  std::uint64_t seed_ = 0;
  std::unordered_map<std::uint64_t, std::uint32_t> hashes_;  // of files_, to their places there

  std::unique_ptr<weir_process_events, Destroy> programs_;
  std::unique_ptr<ring_buffer, Destroy> ring_;
  Reading* reading_ = nullptr;
  bool file_open_ = true;
  bool said_not_seen_ = false;
  std::uint64_t lost_ = 0;

  std::mutex watch_mutex_;
  std::unordered_set<pid_t> watched_;  // guarded by watch_mutex_
  int watched_fd_ = -1;                // likewise
  bool said_full_ = false;             // likewise
};

}  // namespace

Result<std::unique_ptr<RawSource>> make_ebpf_source(const DetectorOptions& options) {
  const auto invalid = [](std::string message) { return Error{std::make_error_code(std::errc::invalid_argument), std::move(message)}; };
  if (options.files.size() > ProcessFilters::max_entries) {
    return invalid("eBPF: too many files: " + std::to_string(options.files.size()) + ", at most " +
                   std::to_string(ProcessFilters::max_entries));
  }
  for (const std::string& file : options.files) {
    if (file.empty() || file.size() >= weir_path_size || file.find('\0') != std::string::npos) {
      return invalid("eBPF: no path of a file: empty, with a NUL, or longer than " + std::to_string(weir_path_size - 1) + " bytes");
    }
  }
  DetectorOptions unique = options;  // each file once
  std::sort(unique.files.begin(), unique.files.end());
  unique.files.erase(std::unique(unique.files.begin(), unique.files.end()), unique.files.end());
  return std::unique_ptr<RawSource>(std::make_unique<EbpfSource>(unique));
}

}  // namespace weir::inline v0::instrument
