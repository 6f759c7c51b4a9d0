#pragma once
// DetectorCore: every ProcessDetector: a source of events (none: scans of /proc alone), the process table, and the thread that calls
// run() (private to src).
//
//   RawSource ─events─▶ ProcessTable ─▶ sink        pidfds ─exits─▶ ProcessTable        lost() grew ─▶ a scan repairs
//
// One epoll set holds the source, the pidfds and what wakes it: track() and stop.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "instrument/process_filters.hpp"
#include "instrument/process_reader.hpp"
#include "instrument/raw_source.hpp"
#include "net/fd.hpp"
#include "net/unix_socket.hpp"
#include "weir/instrument/detector.hpp"

namespace weir::inline v0::instrument {

class DetectorCore final : public ProcessDetector {
 public:
  /// `source`: not attached; nullptr: scans. `reader` must outlive the detector.
  static Result<std::unique_ptr<DetectorCore>> create(DetectorOptions options, std::unique_ptr<RawSource> source,
                                                      const ProcessReader& reader = proc_reader());

  /// Error: the source, or /proc, does not show a child of our own. Before run().
  Result<void> self_test();
  Result<void> run(const StopToken& stop, Sink sink) override;
  Result<void> track(std::span<const pid_t> pids) override;
  DetectorCapabilities capabilities() const override;
  DetectorStats stats() const override;

 private:
  class Loop;
  using Identity = std::pair<pid_t, std::uint64_t>;  // and start time

  DetectorCore(DetectorOptions options, FilterSet filters, std::unique_ptr<RawSource> source, const ProcessReader& reader, net::Fd epoll,
               net::EventFd wake);
  Result<void> track_one(pid_t pid);
  std::map<Identity, net::Fd> take_tracked();

  const DetectorOptions options_;
  const FilterSet filters_;
  const std::unique_ptr<RawSource> source_;
  const ProcessReader& reader_;
  Logger& logger_;
  const net::Fd epoll_;
  const net::EventFd wake_;

  std::atomic<bool> ran_{false}, ended_{false};
  std::atomic<bool> file_open_;           // attaching can find that it does not work
  std::atomic<bool> has_tracked_{false};  // there is something in tracked_
  std::mutex mutex_;
  std::map<Identity, net::Fd> tracked_;  // guarded by mutex_: what run() has not taken yet

  std::atomic<std::uint64_t> events_{0}, lost_{0}, rescans_{0}, unreadable_{0};
  std::atomic<std::size_t> processes_{0};
};

}  // namespace weir::inline v0::instrument
