#pragma once
// SocketSender: brings finished spans from the rings to the collector, on one background thread. The service never waits for it.
//
//   native   the collector reads the rings itself, in shared memory; the thread tells it where they are and when to look. What was
//            written is not lost when the service is killed
//   records  the same records, over the socket, where the collector does not map memory or the kernel has no memfd
//   lines    JSON, to a collector that does not answer: the original's
//
//   rings ─drained every few ms─▶ batch ─non-blocking send─▶ collector                 ring space is given back when the
//     ▲                                                         │                       kernel has accepted what was in it;
//     └── a lost connection: what was not accepted comes again ◀┘                       native: when the collector has it
//
//   absent ─connect─▶ asking ─answered, or 100 ms later─▶ connected ─closed, or nothing accepted for 5 s─▶ absent
//                                                    backoff 100 to 500 ms while spans wait
//
// The first line of each connection is a hello: ["weir",1,{"service":…,"pid":…,"start_time":…,"sequence":…,"native":1}], sequence
// being the number of spans delivered on earlier connections. Spans that were dropped are told as ["dropped",n], n since the
// last such line. Over the socket, a span open for more than a second has its start line sent ahead of its end.
//
// fork(): the child's sender begins anew, with its own thread, rings and connection, at the child's first span.

#include <sys/types.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weir/core/logger.hpp"
#include "weir/trace/sender.hpp"
#include "weir/trace/socket_path.hpp"

namespace weir::inline v0 {

/// How spans travel to the collector.
enum class Wire : std::uint8_t {
  automatic,  ///< natively if the collector answers within 100 ms, else as JSON lines
  native,     ///< natively or not at all: spans wait for a collector that answers
  json,       ///< as JSON lines
};

/// Spans that were dropped, by reason: see TracerStats. Thread-safety: a value.
struct DroppedSpans {
  std::uint64_t full = 0, too_large = 0, no_ring = 0, reentrant = 0;

  std::uint64_t total() const noexcept { return full + too_large + no_ring + reentrant; }
  friend bool operator==(const DroppedSpans&, const DroppedSpans&) = default;
};

struct SocketSenderOptions {
  std::size_t ring_bytes = 1u << 20;            ///< per thread; a power of two from 4 KiB. Larger: longer bursts and absences are kept
  std::size_t max_rings = 1024;                 ///< threads beyond drop their spans
  std::size_t max_total_bytes = 256u << 20;     ///< of all rings of the process, whatever their tracer
  std::chrono::milliseconds flush_interval{5};  ///< between two looks into the rings; up to 50 ms when nothing happens
  /// A collector that accepts nothing for so long is disconnected. Not one that reads the rings: nothing waits for it.
  std::chrono::milliseconds stall_timeout{5000};
  std::chrono::milliseconds send_ahead_after{1000};  ///< open for longer: the start is sent before the end
  Wire wire = Wire::automatic;
  Logger* logger = nullptr;  ///< nullptr: stderr_logger()
  /// Told of the spans that were dropped since the last call: on the sender's thread, at most once a second, and before that ends. Not of
  /// those that stop() leaves, which its result has. Must not call the sender or its tracer's flush() and stop(); what it throws is
  /// dropped.
  std::function<void(const DroppedSpans&)> on_drop{};
  /// Users besides root and our own (effective) one whose collector may have the spans. Any other that listens at the path is
  /// left at once, is told nothing, and is named in the log once a minute; the spans wait in the rings.
  std::vector<uid_t> allow_uids{};
};

/// Thread-safety: shared: safe, once a Tracer has it. Before that: movable.
class SocketSender final : public Sender {
 public:
  /// `path`: absolute, at most 107 bytes. Any other is reported to the logger when the tracer starts, and spans are dropped.
  explicit SocketSender(std::string path = default_path(), SocketSenderOptions options = {});
  ~SocketSender() override;  ///< stops at once; the tracer has given it time before
  SocketSender(SocketSender&&) noexcept;
  SocketSender& operator=(SocketSender&&) noexcept;

  static std::string default_path() { return default_socket_path(); }

  void start(const SenderSetup& setup) noexcept override;
  detail::ThreadRing* open_ring() noexcept override;
  void wake() noexcept override;
  FlushResult flush(Deadline deadline) noexcept override;
  /// A collector that was never there is tried once more, not waited for.
  FlushResult stop(Deadline deadline) noexcept override;
  TracerStats stats() const noexcept override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::inline v0
