#include "trace/native_link.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "net/unix_socket.hpp"

namespace weir::inline v0::detail {

std::string clock_line(const TickScale& scale) {
  char ratio[32];
  const auto end = std::to_chars(ratio, ratio + sizeof ratio, scale.nanos_per_tick).ptr;
  return "[\"clock\"," + std::to_string(scale.ticks) + "," + std::to_string(scale.wall) + "," + std::string(ratio, end) + "]\n";
}

void NativeLink::begin(const TickCalibration& calibration, int names) {
  lines_.clear();
  announced_ = told_ = 0;
  told_memory_ = false;
  told_clock_ = std::chrono::steady_clock::now();
  add(clock_line(calibration.scale()));
  lines_.push_back({"[\"names\"]\n", names, 0});
}

void NativeLink::look(RingSet& rings, const TickCalibration& calibration, bool urgent) {
  constexpr std::chrono::seconds clock_interval{1};
  const std::vector<ReaderRing*>& all = rings.refresh();
  if (const RingMemory* memory = rings.memory(); memory != nullptr && !told_memory_) {
    lines_.push_back({"[\"memory\"," + std::to_string(memory->slot_bytes() - sizeof(RingPage)) + "]\n", memory->fd(), 0});
    told_memory_ = true;  // after what may throw
  }
  if (announced_ < all.size()) {
    lines_.push_back({"[\"rings\"," + std::to_string(all.size()) + "]\n", -1, all.size()});
    announced_ = all.size();
  }
  bool moved = false, unread = false;
  for (ReaderRing* ring : all) {
    const std::uint64_t tail = ring->tail();
    moved |= tail != ring->seen_tail;
    unread |= tail != ring->head();
    ring->seen_tail = tail;
  }
  if (const auto now = std::chrono::steady_clock::now(); (moved || unread) && now - told_clock_ >= clock_interval) {
    add(clock_line(calibration.scale()));
    told_clock_ = now;
  }
  if (unread && (urgent || !moved) && lines_.empty()) add("[\"wake\"]\n");
}

int NativeLink::send(int socket) noexcept {
  while (!lines_.empty()) {
    Line& line = lines_.front();
    const ssize_t sent = line.passed >= 0 ? net::send_with_descriptor(socket, line.text.data(), line.text.size(), line.passed)
                                          : net::send_some(socket, line.text.data(), line.text.size());
    if (sent < 0) return static_cast<int>(sent);
    line.passed = -1;
    if (static_cast<std::size_t>(sent) < line.text.size()) {
      line.text.erase(0, static_cast<std::size_t>(sent));
    } else {
      told_ = std::max(told_, line.rings);
      lines_.erase(lines_.begin());
    }
  }
  return 0;
}

}  // namespace weir::inline v0::detail
