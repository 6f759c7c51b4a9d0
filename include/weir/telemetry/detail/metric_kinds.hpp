#pragma once
// MetricKinds: work is measured by its kind, and each kind has metrics of its own. A kind is a text; the keys of its metrics are
//
//   FAMILY.duration:KIND    a histogram of seconds, whose count says how often
//   FAMILY.errors:KIND      a counter
//   FAMILY.changes:KIND     a counter, where work changes something
//
// Kinds are few, or the metrics of a service would be without end: there are 1,000, and "other" for all that come later.
// Looking one up takes no lock; a kind that was found stays.
//
//   [ · | node | node | · | … ]   places, open addressing; a node is written once, and put into its place by compare and swap

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <utility>

#include "weir/core/ids.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: shared: safe.
struct MetricKind {
  Histogram duration;
  Counter errors, changes;
};

/// Thread-safety: shared: safe.
class MetricKinds {
 public:
  static constexpr std::size_t max_kinds = 1'000;
  /// A kind of more bytes is "other", too.
  static constexpr std::size_t max_name_bytes = 256;

  /// Requires: `family` has static storage and at most 16 bytes.
  MetricKinds(Telemetry telemetry, std::string_view family, bool with_changes) noexcept
      : telemetry_(std::move(telemetry)), family_(family), with_changes_(with_changes) {}
  ~MetricKinds() {
    for (auto& place : places_) delete place.load(std::memory_order_relaxed);
    delete other_.load(std::memory_order_relaxed);
  }
  MetricKinds(const MetricKinds&) = delete;
  MetricKinds& operator=(const MetricKinds&) = delete;

  /// The kind named "FIRST SECOND", or "FIRST" if there is no second. It lives as long as this. nullptr if there is no room
  /// for its keys in the telemetry, which has counted that, or no memory: it is tried again at the next call.
  const MetricKind* find(std::string_view first, std::string_view second = {}) noexcept {
    if (size_of(first, second) > max_name_bytes) [[unlikely]]
      return other();
    const std::uint64_t hash = key_hash(second, key_hash(first, seed_));
    for (std::size_t i = hash;; ++i) {
      const Node* const node = places_[i % places].load(std::memory_order_acquire);
      if (node == nullptr) [[unlikely]]
        return add(first, second, hash, i);
      if (node->is(first, second, hash)) return &node->kind;
    }
  }

 private:
  static constexpr std::size_t places = 2'048;
  static_assert(places >= 2 * max_kinds, "an empty place must be near");

  static std::size_t size_of(std::string_view first, std::string_view second) noexcept {
    return first.size() + (second.empty() ? 0 : 1 + second.size());
  }

  struct Node {
    MetricKind kind;
    std::uint64_t hash = 0;
    std::size_t size = 0;
    std::array<char, max_name_bytes> text;

    Node() = default;
    Node(std::string_view first, std::string_view second, std::uint64_t h) noexcept : hash(h) {
      append(first);
      if (second.empty()) return;
      append(" ");
      append(second);
    }
    std::string_view name() const noexcept { return {text.data(), size}; }
    bool is(std::string_view first, std::string_view second, std::uint64_t h) const noexcept {
      if (hash != h || size != size_of(first, second)) return false;
      return same_key(name().substr(0, first.size()), first) && (second.empty() || same_key(name().substr(first.size() + 1), second));
    }

   private:
    void append(std::string_view part) noexcept {
      if (!part.empty()) std::memcpy(text.data() + size, part.data(), part.size());
      size += part.size();
    }
  };

  /// The key of a metric. A view into `buffer`.
  using KeyBuffer = std::array<char, 32 + max_name_bytes>;
  std::string_view key(std::string_view metric, std::string_view name, KeyBuffer& buffer) const noexcept {
    std::size_t size = 0;
    for (const std::string_view part : {family_, metric, name}) {
      std::memcpy(buffer.data() + size, part.data(), part.size());
      size += part.size();
    }
    return {buffer.data(), size};
  }
  /// False if one of them cannot be had.
  bool make(MetricKind& kind, std::string_view name) const noexcept {
    KeyBuffer buffer;
    kind.duration = telemetry_.histogram(key(".duration:", name, buffer), "s");
    if (!kind.duration) return false;
    kind.errors = telemetry_.counter(key(".errors:", name, buffer));
    if (!kind.errors) return false;
    if (with_changes_) kind.changes = telemetry_.counter(key(".changes:", name, buffer));
    return !with_changes_ || kind.changes;
  }

  /// `place`: the first empty one, as far as was seen.
  [[gnu::noinline]] const MetricKind* add(std::string_view first, std::string_view second, std::uint64_t hash, std::size_t place) noexcept {
    if (count_.load(std::memory_order_relaxed) >= max_kinds) return other();
    if (count_.fetch_add(1, std::memory_order_relaxed) >= max_kinds) {
      count_.fetch_sub(1, std::memory_order_relaxed);
      return other();
    }
    std::unique_ptr<Node> node(new (std::nothrow) Node(first, second, hash));
    if (node != nullptr && make(node->kind, node->name())) {
      for (;; ++place) {
        const Node* there = nullptr;
        if (places_[place % places].compare_exchange_strong(there, node.get(), std::memory_order_acq_rel)) return &node.release()->kind;
        if (!there->is(first, second, hash)) continue;
        count_.fetch_sub(1, std::memory_order_relaxed);
        return &there->kind;
      }
    }
    count_.fetch_sub(1, std::memory_order_relaxed);
    return nullptr;
  }
  [[gnu::noinline]] const MetricKind* other() noexcept {
    if (const Node* const known = other_.load(std::memory_order_acquire)) return &known->kind;
    std::unique_ptr<Node> node(new (std::nothrow) Node);
    if (node == nullptr || !make(node->kind, "other")) return nullptr;
    const Node* there = nullptr;
    if (!other_.compare_exchange_strong(there, node.get(), std::memory_order_acq_rel)) return &there->kind;
    return &node.release()->kind;
  }

  const Telemetry telemetry_;
  const std::string_view family_;
  const bool with_changes_;
  const std::uint64_t seed_ = random_seed();
  std::atomic<std::size_t> count_{0};
  std::atomic<const Node*> other_{nullptr};
  std::array<std::atomic<const Node*>, places> places_{};
};

}  // namespace weir::inline v0::detail
