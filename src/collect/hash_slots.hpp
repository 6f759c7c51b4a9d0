#pragma once
// HashSlots: pointers by hash, open addressing, for the span store. Who asks knows how to tell equal hashes apart. Shrinks as it
// empties; the first 16 places cost no allocation.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "weir/core/version.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: Distinct objects: safe. Shared: safe to read.
template <class T>
class HashSlots {
 public:
  /// The value with this hash for which `equal(value)` holds; nullptr: none.
  template <class Equal>
  T* find(std::uint64_t hash, Equal equal) const {
    for (std::size_t i = hash & mask_; slots()[i].value != nullptr; i = (i + 1) & mask_) {
      if (slots()[i].hash == hash && equal(*slots()[i].value)) return slots()[i].value;
    }
    return nullptr;
  }
  /// Makes room for one more, so that insert() does not throw.
  void reserve_one() {
    if ((size_ + 1) * 4 > (mask_ + 1) * 3) rehash((mask_ + 1) * 2);
  }
  /// Requires: reserve_one() before; the value is not there.
  void insert(std::uint64_t hash, T* value) noexcept {
    place(slots(), mask_, {hash, value});
    ++size_;
  }
  /// Requires: the value is there.
  void erase(std::uint64_t hash, const T* value) noexcept {
    Slot* const all = slots();
    std::size_t hole = hash & mask_;
    while (all[hole].value != value) hole = (hole + 1) & mask_;
    for (std::size_t i = (hole + 1) & mask_; all[i].value != nullptr; i = (i + 1) & mask_) {
      if (((i - all[i].hash) & mask_) < ((i - hole) & mask_)) continue;  // it must not come before its own place
      all[hole] = all[i];
      hole = i;
    }
    all[hole] = {};
    if (--size_ * 4 < mask_ + 1 && mask_ + 1 > few) shrink();
  }
  void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(slots() + (hash & mask_), 1); }

  /// Not less than what is on the heap, and in proportion to what is in the table, which itself grows by leaps.
  std::size_t bytes() const noexcept { return size_ * most_per_value; }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    T* value = nullptr;
  };
  static constexpr std::size_t few = 16;
  static constexpr std::size_t most_per_value = 4 * sizeof(Slot);  // a table is a quarter full, or more

  Slot* slots() noexcept { return many_ != nullptr ? many_.get() : few_; }
  const Slot* slots() const noexcept { return many_ != nullptr ? many_.get() : few_; }
  static void place(Slot* slots, std::size_t mask, Slot slot) noexcept {
    std::size_t i = slot.hash & mask;
    while (slots[i].value != nullptr) i = (i + 1) & mask;
    slots[i] = slot;
  }
  void shrink() noexcept {
    try {
      rehash((mask_ + 1) / 2);
    } catch (const std::bad_alloc&) {  // then it stays as large as it is
    }
  }
  void rehash(std::size_t capacity) {
    std::unique_ptr<Slot[]> many = capacity > few ? std::make_unique<Slot[]>(capacity) : nullptr;
    Slot small[few] = {};
    Slot* const to = many != nullptr ? many.get() : small;
    for (std::size_t i = 0; i <= mask_; ++i) {
      if (slots()[i].value != nullptr) place(to, capacity - 1, slots()[i]);
    }
    if (many == nullptr) std::copy(small, small + few, few_);
    many_ = std::move(many);
    mask_ = capacity - 1;
  }

  std::unique_ptr<Slot[]> many_;
  std::size_t mask_ = few - 1, size_ = 0;
  Slot few_[few] = {};
};

}  // namespace weir::inline v0::detail
