#pragma once
// Spans for a store, as the readers of rings make them: what the rows of "store" and of "memory" put in.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "collect/span_store.hpp"
#include "weir/core/ids.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace bench {

inline constexpr unsigned spans_per_trace = 10;
inline constexpr auto per_span = std::chrono::microseconds{1};  // a million spans a second

/// Spans as a ring has them: traces one after another, children before their root, each with two short strings and a number.
class Spans {
 public:
  explicit Spans(weir::detail::SpanStore& store) : name_(store.intern("SELECT orders")) {
    add_text(store.intern("user"), "user-00000000");
    add_text(store.intern("order"), "order-000000");
    add_word(weir::detail::attribute_word(store.intern("rows"), 2, 8));
    add_word(0);
  }
  const weir::detail::PackedSpan& next() {
    if (at_ % spans_per_trace == 0) {
      span_.trace_id = {weir::detail::split_mix(random_), weir::detail::split_mix(random_)};
      root_ = {weir::detail::split_mix(random_)};
    }
    const bool is_root = ++at_ % spans_per_trace == 0;
    span_.span_id = is_root ? root_ : weir::SpanId{weir::detail::split_mix(random_)};
    span_.parent_id = is_root ? weir::SpanId{} : root_;
    span_.name = name_;
    span_.kind = weir::SpanKind::sql;
    span_.start_time = start_ + at_ * per_span;
    span_.end_time = span_.start_time + std::chrono::nanoseconds{12'345};
    std::memcpy(bytes_.data() + 8 + 5, &at_, 8);
    std::memcpy(bytes_.data() + 32 + 6, &at_, 6);
    std::memcpy(bytes_.data() + 56, &at_, 4);
    span_.attribute_count = 3;
    span_.attributes = bytes_;
    return span_;
  }

 private:
  void add_word(std::uint64_t word) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&word);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof word);
  }
  void add_text(std::uint32_t key, std::string_view text) {
    add_word(weir::detail::attribute_word(key, 1, text.size()));
    const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), bytes, bytes + text.size());
    bytes_.resize((bytes_.size() + 7) / 8 * 8);
  }

  const std::uint32_t name_;
  const weir::Timestamp start_{std::chrono::seconds{1'700'000'000} + std::chrono::nanoseconds{127}};  // a clock of nanoseconds
  std::uint64_t random_ = 1, at_ = 0;
  weir::SpanId root_;
  weir::detail::PackedSpan span_;
  std::vector<std::byte> bytes_;
};

}  // namespace bench
