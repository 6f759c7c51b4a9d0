#pragma once
// Buffer: what the copies of a Telemetry share. Numbers live in entries (entry.hpp), which outlast cycles; everything else lives
// in a table of the cycle's values, which a payload takes whole.
//
//   lock order: taking ─▶ mutex ─▶ the registry of cells. What at_emit was given runs outside of all three.

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "weir/core/clock.hpp"
#include "weir/core/logger.hpp"
#include "weir/telemetry/detail/entry.hpp"
#include "weir/telemetry/instance_id.hpp"
#include "weir/telemetry/payload.hpp"

namespace weir::inline v0 {

class Telemetry;

struct TelemetryOptions {
  /// Keys that are neither stored nor sent, for good. A key is governed by itself and by what stands before its first ':':
  /// "tls_hello" disables "tls_hello:ab12", too.
  std::vector<std::string> disabled_keys;
  /// Keys, nested keys, list items and distinct values of sets in one payload. What is new beyond it is dropped and counted.
  std::size_t max_items = 100'000;
  /// Bytes of keys and values in one payload, and 64 for each item.
  std::size_t max_bytes = 64u << 20;
  Logger* logger = &stderr_logger();  ///< must outlive the last copy
  const Clock* clock = nullptr;       ///< of timestamps; nullptr: the system's. Must outlive the last copy, too
};

/// What a buffer holds and what became of calls. Thread-safety: a value.
struct TelemetryStats {
  std::uint64_t items = 0, bytes = 0;    ///< against the bounds, now
  std::uint64_t dropped_items = 0;       ///< new, beyond a bound or without memory
  std::uint64_t type_conflicts = 0;      ///< calls of another kind than the key's
  std::uint64_t invalid_values = 0;      ///< recorded in a histogram and no number from 0 on
  std::uint64_t payloads = 0;            ///< taken
  std::uint64_t collector_failures = 0;  ///< calls of what at_emit was given that threw
};

namespace detail {

inline std::uint64_t mixed(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

template <class Word>
std::uint64_t word_at(const char* at) noexcept {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

/// Of a key. Seeded, because keys may be made of what strangers say.
inline std::uint64_t key_hash(std::string_view key, std::uint64_t seed) noexcept {
  constexpr std::uint64_t odd1 = 0x9E3779B97F4A7C15u, odd2 = 0xC2B2AE3D27D4EB4Fu;
  const char* at = key.data();
  std::size_t size = key.size();
  std::uint64_t hash = seed;
  for (; size > 16; at += 16, size -= 16) hash = mixed(word_at<std::uint64_t>(at) ^ odd1, word_at<std::uint64_t>(at + 8) ^ odd2 ^ hash);
  std::uint64_t a = 0, b = 0;
  if (size >= 8)
    a = word_at<std::uint64_t>(at), b = word_at<std::uint64_t>(at + size - 8);
  else if (size >= 4)
    a = word_at<std::uint32_t>(at), b = word_at<std::uint32_t>(at + size - 4);
  else if (size > 0)
    a = static_cast<unsigned char>(at[0]) | static_cast<std::uint64_t>(static_cast<unsigned char>(at[size / 2])) << 8,
    b = static_cast<unsigned char>(at[size - 1]);
  return mixed(mixed(a ^ odd1 ^ hash, b ^ odd2), key.size() ^ odd1);
}

inline bool same_key(std::string_view a, std::string_view b) noexcept {
  const std::size_t size = a.size();
  if (size != b.size()) return false;
  if (size > 16) return std::memcmp(a.data(), b.data(), size) == 0;
  const char *p = a.data(), *q = b.data();
  if (size >= 8)
    return ((word_at<std::uint64_t>(p) ^ word_at<std::uint64_t>(q)) |
            (word_at<std::uint64_t>(p + size - 8) ^ word_at<std::uint64_t>(q + size - 8))) == 0;
  if (size >= 4)
    return ((word_at<std::uint32_t>(p) ^ word_at<std::uint32_t>(q)) |
            (word_at<std::uint32_t>(p + size - 4) ^ word_at<std::uint32_t>(q + size - 4))) == 0;
  for (std::size_t i = 0; i < size; ++i)
    if (p[i] != q[i]) return false;
  return true;
}

inline std::uint64_t process_key_seed() noexcept {
  static const std::uint64_t seed = random_seed();
  return seed;
}

struct KeyHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view key) const noexcept { return key_hash(key, process_key_seed()); }
};

/// Thread-safety: shared: safe.
class Buffer {
 public:
  enum class Put : std::uint8_t { value, nested, list_item, set_item };

  Buffer(InstanceId id, TelemetryOptions options);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[gnu::always_inline]] void add(std::string_view key, std::int64_t amount) noexcept {
    const std::uint64_t hash = key_hash(key, seed_);
    if (KeyCache* const keys = thread_telemetry.keys) [[likely]] {
      const KeyCache::Line& line = keys->lines[hash % KeyCache::sets];
      for (std::size_t way = 0; way < KeyCache::ways; ++way) {
        if (line.hash[way] != hash) continue;
        KeyEntry* const entry = line.entry[way];
        if (entry == nullptr || entry->claimed.load(std::memory_order_relaxed) != epoch_.load(std::memory_order_relaxed) ||
            entry->buffer != id_ || !same_key(entry->key, key))
          continue;
        return entry->add(amount);
      }
    }
    add_slowly(key, amount);
  }
  void put(Put kind, std::string_view key, std::string_view subkey, TelemetryValueView value) noexcept;
  KeyEntry* handle(NumberKind kind, std::string_view key, std::string_view unit) noexcept;

  std::uint64_t at_emit(std::function<void(const Telemetry&)> collect);
  void remove_at_emit(std::uint64_t number) noexcept;
  void collect(const Telemetry& telemetry) noexcept;
  /// What was there is dropped when `keep` is false.
  Payload take(bool keep);
  void merge_back(Payload payload) noexcept;
  void apply(const Response& response) noexcept;
  bool disabled(std::string_view key) noexcept;
  /// Gives a buffer without id one. False: it has one.
  bool begin(InstanceId id, TelemetryOptions options);
  InstanceId instance_id() noexcept;
  TelemetryStats stats() noexcept;

  static std::optional<Error> check(InstanceId id, const TelemetryOptions& options);

 private:
  friend struct BufferFork;
  using Values = std::unordered_map<std::string, TelemetryData, KeyHash, std::equal_to<>>;
  using Entries = std::unordered_map<std::string_view, KeyEntry*, KeyHash, std::equal_to<>>;  // the keys' text is the entries'
  using Keys = std::set<std::string, std::less<>>;
  struct Collector {
    std::uint64_t number;
    std::function<void(const Telemetry&)> collect;
    unsigned failures = 0;  // in a row
  };
  /// One entry's part in a payload.
  struct Reading {
    KeyEntry* entry;
    bool claimed;  // in the cycle that ends
    bool disabled, pinned;
    bool idle;  // nobody can be adding to it
  };
  static constexpr std::size_t item_bytes = 64, max_remote_keys = 10'000, max_logged_keys = 1'000, max_cell_keys = 4'096;
  static constexpr unsigned max_failures = 100;
  static constexpr std::uint64_t never = UINT64_MAX - 1;  // an epoch that no entry is claimed in

  // The mutex is held.
  bool governed(const Keys& keys, std::string_view key) const;
  bool is_disabled(std::string_view key) const { return governed(local_disabled_, key) || governed(remote_disabled_, key); }
  bool counted(const KeyEntry& entry) const { return entry.pinned || entry.cycle == cycle_; }
  bool room_for(std::size_t bytes);
  void occupy(std::size_t bytes) { ++items_, bytes_ += bytes + item_bytes; }
  void release(std::size_t bytes) { --items_, bytes_ -= bytes + item_bytes; }
  KeyEntry* find_or_make(NumberKind kind, std::string_view key, bool with_slot, bool& conflict);
  bool claim(KeyEntry& entry);
  void put_value(Put kind, std::string_view key, std::string_view subkey, const TelemetryValueView& value, bool& conflict);
  bool note_conflict(std::string_view key);  // true: to be logged
  bool change(std::size_t before, std::size_t after);
  void merge_number(KeyEntry& entry, TelemetryData& data);
  void merge_value(const std::string& key, TelemetryData& data, bool& conflict);
  void drop_value(const std::string& key, const TelemetryData& data);
  void drop_inherited_values();
  KeyEntry* remember(KeyEntry& entry) noexcept;

  void add_slowly(std::string_view key, std::int64_t amount) noexcept;
  void log_conflict(std::string_view key) noexcept;
  // The take mutex is held.
  void read_numbers(const std::vector<Reading>& readings, const Values& values, bool keep, std::vector<Payload::Item>& items);
  bool read_histogram(KeyEntry& entry, HistogramData& out);
  void skip(KeyEntry& entry);
  void retire(const std::vector<Reading>& readings);
  void forget() noexcept;
  void next_epoch() { epoch_.store(instance_.valid() ? ++last_epoch_ : never, std::memory_order_relaxed); }

  const std::uint64_t id_, seed_ = process_key_seed();
  alignas(64) std::atomic<std::uint64_t> epoch_{never};  // changes when what is claimed must be claimed again

  alignas(64) std::mutex taking_;
  std::mutex mutex_;
  // Guarded by mutex_.
  InstanceId instance_;
  TelemetryOptions options_;
  std::uint64_t last_epoch_ = 0, cycle_ = 1;
  std::size_t items_ = 0, bytes_ = 0, cell_keys_ = 0;
  Entries entries_;
  Values values_;
  bool forked_ = false;                    // the values are the parent's
  std::atomic<std::uint64_t> refused_{0};  // in signal handlers at a bad moment, or without memory
  Keys local_disabled_, remote_disabled_, logged_;
  TelemetryStats stats_;
  std::uint64_t last_collector_ = 0;
  std::vector<std::shared_ptr<Collector>> collectors_;
  std::vector<KeyEntry*> leaving_;   // replaced by another kind; still to be read
  std::recursive_mutex collecting_;  // held while they run
  Buffer *previous_ = nullptr, *next_ = nullptr;
};

}  // namespace detail
}  // namespace weir::inline v0
