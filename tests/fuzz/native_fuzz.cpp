// A ring of any content: its reader copies what it can use and goes no further. The first bytes say where its head is; the rest lies in
// the ring, behind names that are good.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "collect/native_source.hpp"
#include "support/native_client.hpp"

using namespace weir;
using namespace weir::detail;
using weir::testing::Names;
using weir::testing::Rings;

namespace {

ControlValue number(std::uint64_t number) {
  ControlValue value;
  value.type = ControlValue::Type::unsigned_integer;
  value.number = number;
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t capacity = 4096;
  static Names names;
  static Rings rings(capacity);
  static const bool named = [] {
    for (int i = 0; i < 4; ++i) names.add("name");
    return true;
  }();
  if (!named || size < 4) return 0;
  std::uint32_t head = 0;
  std::memcpy(&head, data, sizeof head);
  data += 4, size -= 4;
  (::new (&rings.page()) RingPage)->capacity = capacity;
  std::memset(rings.data(), 0, capacity);
  std::memcpy(rings.data(), data, std::min(size, capacity));
  if (size > capacity)
    std::memcpy(static_cast<void*>(rings.page().open), data + capacity, std::min(size - capacity, sizeof rings.page().open));
  // Mostly where the bytes end; else anywhere.
  rings.page().head = head % 4 != 0 ? std::min(size, capacity) / record_alignment * record_alignment : head;

  SpanStore store;
  CollectorStats stats;
  NativeBounds bounds{10, 1 << 20};
  static RingReader::Buffer buffer;
  net::BufferBudget budget{1 << 20, 0};
  NativeSource source(store, stats, bounds, budget, buffer);
  source.set_service(store.intern_service("fuzz"));
  std::vector<net::Fd> passed;
  passed.emplace_back(::dup(names.memory().fd()));
  passed.emplace_back(::dup(rings.memory().fd()));
  const auto now = SpanStore::TimePoint{};
  if (!source.take_line({"names", {}, {}}, passed)) std::abort();
  if (!source.take_line({"memory", {number(capacity)}, {}}, passed)) std::abort();
  (void)source.take_line({"rings", {number(1)}, {}}, passed);
  const std::size_t bytes = source.drain(1 << 20, now);
  const std::uint64_t tail = acknowledged(rings.page()).tail;
  if (bytes != tail || tail > capacity) std::abort();
  source.look_for_open(now);
  source.finish(now);
  store.complete_all(now);
  (void)store.traces();
  const TraceStoreStats kept = store.stats();
  if (stats.native_spans + stats.rejected_records > capacity / sizeof(SpanRecord) || kept.spans > stats.native_spans + open_slots)
    std::abort();
  return 0;
}
