#pragma once
// Times as Go writes them: RFC 3339 in UTC. Wire, log lines and audit trail come here.
//
// Most times are of the same second as the one before: SecondCache keeps the text of a second for threads that share it, TimeWriter
// for one.

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <string>

#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// "2006-01-02T15:04:05" of the second that was asked for last. Never waits; a thread that meets another's change renders
/// the text itself.
/// Thread-safety: shared: safe. Made for threads that ask for the same second.
class SecondCache {
 public:
  static constexpr std::size_t text_size = 19;

  constexpr SecondCache() noexcept = default;

  /// Writes text_size bytes for a second since 1970. Requires: its year has four digits.
  void write(char* out, std::int64_t second) noexcept;

 private:
  std::atomic<std::uint64_t> changes_{0};  // odd while one is made
  std::atomic<std::int64_t> second_{std::numeric_limits<std::int64_t>::min()};
  std::array<std::atomic<std::uint64_t>, 3> text_{};
};

/// Room for the longest of the times below.
inline constexpr std::size_t max_time_size = 30;

/// Writes `time` with up to nine fractional digits, trailing zeros cut, as time.RFC3339Nano. Returns the end.
char* write_time(char* out, Timestamp time, SecondCache& cache) noexcept;

/// Writes `time` with three fractional digits: "2006-01-02T15:04:05.000Z". What is finer is cut. Returns the end.
char* write_time_millis(char* out, Timestamp time, SecondCache& cache) noexcept;

/// write_time() for one thread.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class TimeWriter {
 public:
  /// Writes what write_time() writes, max_time_size bytes at most. Returns the end.
  char* write(char* out, Timestamp time) noexcept;

 private:
  std::int64_t begin_ = 0;  // of the second, ns since 1970
  char second_[SecondCache::text_size + 1] = "1970-01-01T00:00:00";
};

/// Appends what write_time writes; the cache is the thread's own. Thread-safe.
void append_time(std::string& out, Timestamp time);

}  // namespace weir::inline v0::detail
