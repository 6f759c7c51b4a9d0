#pragma once
// HashSlots: pointers by hash, open addressing, for the span store. Who asks knows how to tell equal hashes apart. A byte per place
// says whether anything can be there: to learn that an id is new, which is the usual answer, takes no look at the places
// themselves. Shrinks as it empties; the first 16 places cost no allocation.

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
    const std::uint8_t* const marks = this->marks();
    for (std::size_t i = hash & mask_; marks[i] != 0; i = (i + 1) & mask_) {
      if (marks[i] == mark_of(hash) && slots()[i].hash == hash && equal(*slots()[i].value)) return slots()[i].value;
    }
    return nullptr;
  }
  /// Makes room for one more, so that insert() does not throw.
  void reserve_one() {
    if ((size_ + 1) * 4 > (mask_ + 1) * 3) rehash((mask_ + 1) * 2);
  }
  /// Requires: reserve_one() before; the value is not there.
  void insert(std::uint64_t hash, T* value) noexcept {
    place(slots(), marks(), mask_, {hash, value});
    ++size_;
  }
  /// Requires: the value is there.
  void erase(std::uint64_t hash, const T* value) noexcept {
    Slot* const slots = this->slots();
    std::uint8_t* const marks = this->marks();
    std::size_t hole = hash & mask_;
    while (slots[hole].value != value) hole = (hole + 1) & mask_;
    for (std::size_t i = (hole + 1) & mask_; marks[i] != 0; i = (i + 1) & mask_) {
      if (((i - slots[i].hash) & mask_) < ((i - hole) & mask_)) continue;  // it must not come before its own place
      slots[hole] = slots[i];
      marks[hole] = marks[i];
      hole = i;
    }
    slots[hole] = {};
    marks[hole] = 0;
    if (--size_ * 4 < mask_ + 1 && mask_ + 1 > few) shrink();
  }
  /// Soon the value with this hash is erased.
  [[gnu::always_inline]] void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(slots() + (hash & mask_), 1); }

  /// Bytes of a table that is a quarter full, which it is or more, for each value.
  static constexpr std::size_t cost = 4 * (2 * sizeof(std::uint64_t) + 1);
  /// Not less than what is on the heap, and in proportion to what is in the table, which itself grows by leaps.
  std::size_t bytes() const noexcept { return size_ * cost; }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    T* value = nullptr;
  };
  static_assert(sizeof(Slot) == 2 * sizeof(std::uint64_t));
  static constexpr std::size_t few = 16;

  Slot* slots() noexcept { return many_ != nullptr ? many_.get() : few_; }
  const Slot* slots() const noexcept { return many_ != nullptr ? many_.get() : few_; }
  std::uint8_t* marks() noexcept { return many_marks_ != nullptr ? many_marks_.get() : few_marks_; }
  const std::uint8_t* marks() const noexcept { return many_marks_ != nullptr ? many_marks_.get() : few_marks_; }

  static std::uint8_t mark_of(std::uint64_t hash) noexcept { return static_cast<std::uint8_t>(hash >> 56 | 1); }
  static void place(Slot* slots, std::uint8_t* marks, std::size_t mask, Slot slot) noexcept {
    std::size_t i = slot.hash & mask;
    while (marks[i] != 0) i = (i + 1) & mask;
    slots[i] = slot;
    marks[i] = mark_of(slot.hash);
  }
  void shrink() noexcept {
    try {
      rehash((mask_ + 1) / 2);
    } catch (const std::bad_alloc&) {  // then it stays as large as it is
    }
  }
  void rehash(std::size_t capacity) {
    std::unique_ptr<Slot[]> many;
    std::unique_ptr<std::uint8_t[]> many_marks;
    if (capacity > few) {
      many = std::make_unique<Slot[]>(capacity);
      many_marks = std::make_unique<std::uint8_t[]>(capacity);
    }
    Slot small[few] = {};
    std::uint8_t small_marks[few] = {};
    Slot* const to = many != nullptr ? many.get() : small;
    std::uint8_t* const to_marks = many != nullptr ? many_marks.get() : small_marks;
    for (std::size_t i = 0; i <= mask_; ++i) {
      if (marks()[i] != 0) place(to, to_marks, capacity - 1, slots()[i]);
    }
    if (many == nullptr) {
      std::copy(small, small + few, few_);
      std::copy(small_marks, small_marks + few, few_marks_);
    }
    many_ = std::move(many);
    many_marks_ = std::move(many_marks);
    mask_ = capacity - 1;
  }

  std::unique_ptr<Slot[]> many_;
  std::unique_ptr<std::uint8_t[]> many_marks_;
  std::size_t mask_ = few - 1, size_ = 0;
  Slot few_[few] = {};
  std::uint8_t few_marks_[few] = {};
};

}  // namespace weir::inline v0::detail
