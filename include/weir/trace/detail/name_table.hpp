#pragma once
// NameTable: span names and attribute keys as dense 32-bit ids, one table per process, never destroyed. Records carry ids;
// whoever renders them asks for the text. Known texts are found without a lock; new ones are added under one.
//
// The table can be written out as it grows, to memory that the collector reads (share()).
//
// Bounded: 65,535 names and 16 MiB of text, names cut at 1 KiB. What comes later is id 0, "…overflow", and is counted.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string_view>

#include "weir/core/detail/context_data.hpp"
#include "weir/core/detail/immortal.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace weir::inline v0::detail {

/// `text` cut to at most `limit` bytes, between characters if it is UTF-8.
inline std::string_view cut_text(std::string_view text, std::size_t limit) noexcept {
  if (text.size() <= limit) return text;
  std::size_t end = limit;
  while (end > 0 && limit - end < 4 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80 ? limit : end);
}

/// Thread-safety: shared: safe.
class NameTable {
 public:
  static constexpr std::uint32_t overflow = 0, max_names = 1u << 16;
  static constexpr std::size_t max_name_bytes = 1024, max_text_bytes = 16u << 20;
  static constexpr std::size_t shared_bytes = sizeof(NamesPage) + max_text_bytes + max_names * 16;  // a word and padding each

  /// The id of `text`, the same for the life of the process.
  std::uint32_t intern(std::string_view text) noexcept {
    text = cut_text(text, max_name_bytes);
    const std::uint64_t hash = hash_of(text);
    if (slots_ == nullptr || ids_ == nullptr) return overflow;
    if (const Entry* entry = find(text, hash)) return entry->id;
    const SpanSection section(thread_state);  // a signal handler that waited for our lock would wait for ever
    std::lock_guard lock(mutex_);
    if (const Entry* entry = find(text, hash)) return entry->id;
    return add(text, hash);
  }
  /// Empty for an id that was never given out.
  std::string_view text(std::uint32_t id) const noexcept {
    if (id == overflow) return "\xe2\x80\xa6overflow";
    const Entry* entry = id < max_names && ids_ != nullptr ? ids_[id].load(std::memory_order_acquire) : nullptr;
    return entry == nullptr ? std::string_view{} : std::string_view{entry->text(), entry->size};
  }
  /// Ids 1 to count() - 1 have been given out.
  std::uint32_t count() noexcept {
    std::lock_guard lock(mutex_);
    return count_;
  }
  /// From now on all names, those that are there too, are written to `page` and behind it: shared_bytes in all.
  void share(NamesPage* page) noexcept {
    std::lock_guard lock(mutex_);
    shared_ = page;
    for (std::uint32_t id = 1; id < count_; ++id) write_out(*ids_[id].load(std::memory_order_relaxed));
  }
  /// In the child of a fork, which does not have that memory. Requires: mutex() held.
  void forget_shared() noexcept { shared_ = nullptr; }
  /// How many times a text found no place.
  std::uint64_t overflowed() const noexcept { return overflowed_.load(std::memory_order_relaxed); }
  /// Held around fork(), so that the child finds the table whole.
  std::mutex& mutex() noexcept { return mutex_; }

  NameTable() noexcept
      : slots_(static_cast<std::atomic<Entry*>*>(std::calloc(slot_count, sizeof(std::atomic<Entry*>)))),
        ids_(static_cast<std::atomic<Entry*>*>(std::calloc(max_names, sizeof(std::atomic<Entry*>)))) {}

 private:
  struct Entry {
    std::uint64_t hash;
    std::uint32_t id, size;
    char* text() noexcept { return reinterpret_cast<char*>(this + 1); }
    const char* text() const noexcept { return reinterpret_cast<const char*>(this + 1); }
  };
  static constexpr std::size_t slot_count = std::size_t{max_names} * 2;  // at most half full

  static std::uint64_t hash_of(std::string_view text) noexcept {
    std::uint64_t hash = text.size() * 0x9E3779B97F4A7C15u;
    const char* at = text.data();
    std::size_t left = text.size();
    for (; left >= 8; at += 8, left -= 8) mix(hash, at, 8);
    if (left > 0) mix(hash, at, left);
    return hash;
  }
  static void mix(std::uint64_t& hash, const char* at, std::size_t bytes) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, at, bytes);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  }

  const Entry* find(std::string_view text, std::uint64_t hash) const noexcept {
    for (std::size_t i = hash % slot_count;; i = (i + 1) % slot_count) {
      const Entry* entry = slots_[i].load(std::memory_order_acquire);  // pairs with add()
      if (entry == nullptr) return nullptr;
      if (entry->hash == hash && std::string_view{entry->text(), entry->size} == text) return entry;
    }
  }

  // Requires: mutex_ held.
  std::uint32_t add(std::string_view text, std::uint64_t hash) noexcept {
    void* memory = count_ < max_names && bytes_ + text.size() <= max_text_bytes ? std::malloc(sizeof(Entry) + text.size()) : nullptr;
    if (memory == nullptr) {
      overflowed_.fetch_add(1, std::memory_order_relaxed);
      return overflow;
    }
    auto* entry = ::new (memory) Entry{hash, count_++, static_cast<std::uint32_t>(text.size())};
    if (!text.empty()) std::memcpy(entry->text(), text.data(), text.size());
    bytes_ += text.size();
    write_out(*entry);
    std::size_t i = hash % slot_count;
    while (slots_[i].load(std::memory_order_relaxed) != nullptr) i = (i + 1) % slot_count;
    ids_[entry->id].store(entry, std::memory_order_release);
    slots_[i].store(entry, std::memory_order_release);  // the entry is complete
    return entry->id;
  }

  // Requires: mutex_ held.
  void write_out(const Entry& entry) noexcept {
    if (shared_ == nullptr) return;
    const std::uint64_t head = shared_->head.load(std::memory_order_relaxed);
    std::byte* out = reinterpret_cast<std::byte*>(shared_ + 1) + head;
    const std::uint64_t word = name_word(entry.id, entry.size);
    std::memcpy(out, &word, sizeof word);
    if (entry.size != 0) std::memcpy(out + sizeof word, entry.text(), entry.size);
    shared_->head.store(head + sizeof word + padded(entry.size), std::memory_order_release);  // before any record has the id
  }

  std::atomic<Entry*>* const slots_;  // by hash
  std::atomic<Entry*>* const ids_;
  std::atomic<std::uint64_t> overflowed_{0};
  std::mutex mutex_;
  NamesPage* shared_ = nullptr;  // guarded by mutex_
  std::uint32_t count_ = 1;      // guarded by mutex_; id 0 is the overflow
  std::size_t bytes_ = 0;        // guarded by mutex_
};

WEIR_SHARED_STATE inline NameTable& name_table() noexcept {
  static Immortal<NameTable> table;
  return table.value;
}

/// For a thread without a ring.
[[gnu::noinline, gnu::cold]] inline std::uint32_t intern(std::string_view text) noexcept { return name_table().intern(text); }

}  // namespace weir::inline v0::detail
