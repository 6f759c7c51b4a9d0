#include "weir/instrument/detector.hpp"

#include <poll.h>

#include <array>
#include <chrono>
#include <new>
#include <string>
#include <utility>

#include "instrument/detector_core.hpp"
#include "instrument/ebpf_source.hpp"
#include "instrument/kernel_events.hpp"
#include "instrument/process_reader.hpp"

namespace weir::inline v0 {

namespace {

using Made = Result<std::unique_ptr<ProcessDetector>>;
using instrument::DetectorCore;

/// Without a source: scans. Wrong options come before what this machine lacks.
Made make(DetectorOptions options, std::unique_ptr<instrument::RawSource> source) {
  Result<std::unique_ptr<DetectorCore>> core = DetectorCore::create(std::move(options), std::move(source));
  if (!core) return std::move(core).error();
  if (auto works = (*core)->self_test(); !works) return std::move(works).error();
  return std::unique_ptr<ProcessDetector>(*std::move(core));
}

}  // namespace

std::string_view to_string(ProcessEvent::Type type) noexcept {
  switch (type) {
    case ProcessEvent::Type::exec: return "exec";
    case ProcessEvent::Type::fork: return "fork";
    case ProcessEvent::Type::file_open: return "file open";
    case ProcessEvent::Type::exit: return "exit";
  }
  return "unknown";
}

constexpr auto patience = std::chrono::seconds{1};  // with a process that executes something while it is read

Made ProcessDetector::kernel_events(DetectorOptions options) {
  auto source = instrument::make_kernel_events(options.receive_buffer);
  return make(std::move(options), std::move(source));
}

Made ProcessDetector::ebpf(DetectorOptions options) {
  if (auto right = DetectorCore::create(options, nullptr); !right) return std::move(right).error();
  Result<std::unique_ptr<instrument::RawSource>> source = instrument::make_ebpf_source(options);
  if (!source) return std::move(source).error();
  return make(std::move(options), *std::move(source));
}

Made ProcessDetector::proc_scan(DetectorOptions options) { return make(std::move(options), nullptr); }

Made ProcessDetector::best_available(DetectorOptions options) {
  if (auto right = DetectorCore::create(options, nullptr); !right) return std::move(right).error();
  Logger& logger = options.logger != nullptr ? *options.logger : stderr_logger();
  using Make = Made (*)(DetectorOptions);
  std::array<Make, 3> makes{&kernel_events, &ebpf, &proc_scan};
  if (!options.files.empty()) std::swap(makes[0], makes[1]);
  Made detector = Error{};
  std::string why_no_ebpf;
  for (const Make next : makes) {
    detector = next(options);
    if (detector) {
      // An eBPF detector that cannot has said so, and why, itself.
      if (!options.files.empty() && !why_no_ebpf.empty()) {
        const std::array<Attribute, 1> attributes{Attribute{"reason", why_no_ebpf}};
        logger.log(Logger::Level::warning, "Files that processes open will not be told: only eBPF can, and it does not work here",
                   attributes);
      }
      return detector;
    }
    if (next == &ebpf) why_no_ebpf = detector.error().message;
    const std::array<Attribute, 1> attributes{Attribute{"reason", detector.error().message}};
    logger.log(Logger::Level::debug, "A process detector does not work here", attributes);
  }
  return detector;
}

Result<ProcessEvent> read_process(pid_t pid, std::span<const std::string> environment) {
  const instrument::ProcessReader& reader = instrument::proc_reader();
  const Error none{std::make_error_code(std::errc::no_such_process), "process " + std::to_string(pid) + ": there is none"};
  if (pid <= 0) return none;
  const Result<net::Fd> pidfd = reader.open(pid);
  if (!pidfd) return pidfd.error();
  const auto filters = instrument::FilterSet::keeping({environment.begin(), environment.end()});
  const auto end = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto before = reader.stat(pid);
    ProcessEvent event;
    const auto read = reader.read(pid, filters, event);
    const auto after = reader.stat(pid);
    for (const auto* stat : {&before, &after}) {
      if (!*stat && instrument::cannot_tell_now(stat->error())) return stat->error();
    }
    if (!before || !after || after->ended || instrument::has_ended(*pidfd)) return none;
    const bool changing = before->executing || after->executing || before->image != after->image;
    if (changing && std::chrono::steady_clock::now() < end) {
      (void)::poll(nullptr, 0, 1);
      continue;
    }
    if (!read) return read.error();
    event.start_time = after->start_time;
    return event;
  }
}

}  // namespace weir::inline v0
