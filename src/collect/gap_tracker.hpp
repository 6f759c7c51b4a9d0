#pragma once
// GapTracker: which spans were sent to this collector and never read by it. A service says in each hello how many spans it
// delivered on its earlier connections, that is, how many the kernel accepted whole. What was read of them is counted here:
//
//   first hello ─▶ a base: spans before it went to another collector, or to none; nothing is lost
//   next hellos ─▶ sequence − base − read since = lost, once all the earlier connections have ended (they may still be read)
//
// Where this cannot be exact it says too little: a line that was refused may have been a span, and counts as read.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace weir::inline v0::detail {

/// Thread-safety: shared: unsafe.
class GapTracker {
  struct Service;

 public:
  static constexpr std::size_t max_services = 4096;  // the one heard least recently is forgotten, then begins anew

  /// What a connection keeps between the calls.
  struct Place {
    Service* service = nullptr;
    std::uint64_t connection = 0;  // of the service's
  };
  /// Identifies a sender in a process: pid and start time, as its hello has them.
  using Key = std::pair<std::uint64_t, std::string>;

  /// These return how many spans were found to be lost. The first hello of a connection counts.
  std::uint64_t hello(Place& place, Key key, std::uint64_t sequence);
  std::uint64_t ended(Place& place) noexcept;
  /// The ends of `count` spans were read from the connection.
  static void read_spans(const Place& place, std::uint64_t count) noexcept;

 private:
  struct Service {
    std::uint64_t sequence = 0;     // of the latest hello
    std::uint64_t read_before = 0;  // of the spans before it
    std::uint64_t read_since = 0;   // on the latest connection
    std::uint64_t latest = 0;       // connection
    std::size_t earlier_open = 0;   // connections
    bool latest_open = false;
    std::uint64_t last_hello = 0;
  };

  static std::uint64_t settle(Service& service) noexcept;
  bool make_room();

  std::map<Key, Service> services_;
  std::uint64_t hellos_ = 0;
};

}  // namespace weir::inline v0::detail
