#pragma once
// NativeSource: what a service that speaks the native format has passed on one connection: its clock, its names, its rings.
// Spans go from there into the store (docs/wire_format.md, "Native").
//
//   control line ─▶ clock, names, memory, rings                  rings ─ drain() ─▶ SpanStore
//   ["records",bytes] and bytes ─▶ take_raw() ───────────────────────────────────▶ SpanStore
//   the connection has ended ─▶ finish(): what is left in the rings, and spans that are open and will never end

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collect/ring_reader.hpp"
#include "collect/span_store.hpp"
#include "net/fd.hpp"
#include "net/line_splitter.hpp"
#include "trace/control_line.hpp"
#include "weir/collect/collector.hpp"
#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// What all connections may map together. Thread-safety: shared: unsafe.
struct NativeBounds {
  std::size_t max_rings = 0, max_bytes = 0;
  std::size_t rings = 0, bytes = 0;  // now
};

/// Called with the collector's lock held. Thread-safety: shared: unsafe.
class NativeSource final : RecordVisitor {
 public:
  using TimePoint = SpanStore::TimePoint;
  static constexpr std::size_t max_raw = 512u << 10;  // bytes after one line

  /// `budget`: what waits for the rest of its bytes counts there.
  NativeSource(SpanStore& store, CollectorStats& stats, NativeBounds& bounds, net::BufferBudget& budget, RingReader::Buffer& buffer)
      : store_(store), stats_(stats), bounds_(bounds), budget_(budget), buffer_(buffer) {}
  ~NativeSource();
  NativeSource(const NativeSource&) = delete;
  NativeSource& operator=(const NativeSource&) = delete;

  void set_service(std::uint32_t service) noexcept { service_ = service; }
  /// One of the native lines. `passed`: descriptors that have come; it takes those that belong to the line.
  /// Error: the line is of no use, and why.
  Result<void> take_line(const ControlLine& line, std::vector<net::Fd>& passed);
  /// A line said that raw bytes follow: takes them from the front of `data`, until there are all. Error: they are of no use, and why;
  /// std::errc::not_enough_memory: there is no room for them, and what is left of them will be skipped.
  Result<void> take_raw(std::string_view& data, TimePoint now);
  bool wants_raw() const noexcept { return raw_left_ != 0; }
  /// Its memory is not read, for whatever reason, and never will be: it is to send records. True once.
  bool gave_up_memory() noexcept { return std::exchange(tell_gave_up_, false); }

  /// Reads about `limit` bytes from each ring, of very many full ones from some: the next call goes on there. Returns how many bytes
  /// there were.
  std::size_t drain(std::size_t limit, TimePoint now);
  /// Takes the starts of spans that have been open for a while.
  void look_for_open(TimePoint now);
  /// The service will write no more: what is left, and what stays open.
  void finish(TimePoint now);
  /// The service has asked for its rings to be read.
  bool woken() noexcept { return std::exchange(woken_, false); }
  std::size_t rings() const noexcept { return rings_.size(); }
  /// Spans read since the last call.
  std::uint64_t read_spans() noexcept { return std::exchange(read_spans_, 0); }

 private:
  void give_up_memory() noexcept;
  void release_rings() noexcept;
  bool make_raw_room(std::size_t more);
  void release_raw() noexcept;
  Result<void> take_shared_names(std::vector<net::Fd>& passed);
  void span(std::span<std::byte> record) override;
  bool map_attributes(std::span<std::byte> attributes, unsigned count);
  bool fill(PackedSpan& out, const SpanRecord& fields);
  /// The store's id; unknown_name if there is none.
  std::uint32_t name(std::uint32_t id) { return id < names_.size() ? names_[id] : late_name(id); }
  std::uint32_t late_name(std::uint32_t id);
  void read_names();
  bool take_names(std::span<const std::byte> entries);
  Result<void> take_clock(const ControlLine& line);
  Result<void> take_memory(const ControlLine& line, std::vector<net::Fd>& passed);
  Result<void> take_rings(const ControlLine& line);

  static constexpr std::uint32_t unknown_name = UINT32_MAX;

  SpanStore& store_;
  CollectorStats& stats_;
  NativeBounds& bounds_;
  net::BufferBudget& budget_;
  RingReader::Buffer& buffer_;
  std::uint32_t service_ = 0;
  TimePoint now_{};
  TickScale clock_;
  std::vector<std::uint32_t> names_{0};  // the service's ids ─▶ the store's
  Mapping names_memory_;
  std::uint64_t names_read_ = 0;  // bytes of entries
  std::optional<SharedMemory> memory_;
  std::size_t capacity_ = 0;  // of a ring
  std::vector<RingReader> rings_;
  std::size_t next_ring_ = 0;
  bool woken_ = false, gave_up_ = false, tell_gave_up_ = false;
  std::uint64_t read_spans_ = 0;
  enum class Raw { names, records, skipped } raw_kind_ = Raw::names;
  std::size_t raw_left_ = 0;
  std::vector<std::byte> raw_;
};

}  // namespace weir::inline v0::detail
