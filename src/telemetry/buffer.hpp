#pragma once
// TableBuffer: the buffer of a Telemetry. Numbers live in entries, which outlast cycles; everything else lives in a table of the
// cycle's values, which a payload takes whole.
//
//   lock order: taking ─▶ mutex ─▶ the registry of cells. What at_emit was given runs outside of all three.

#include <array>
#include <bitset>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "telemetry/cell_registry.hpp"
#include "telemetry/histogram_totals.hpp"
#include "weir/core/detail/glob.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"

namespace weir::inline v0::detail {

struct TableEntry final : KeyEntry {
  // Guarded by the buffer's mutex.
  bool pinned = false;  // has or had a handle: counts as an item of every cycle
  bool disabled = false;
  std::uint64_t cycle = 0;  // in which it counts as an item
  TableEntry* next_leaving = nullptr;
  // Guarded by the buffer's take mutex: what payloads have had.
  std::int64_t taken = 0;
  HistogramTaken taken_histogram;

  using KeyEntry::KeyEntry;
  ~TableEntry() override {
    if (slot == no_cell) return;
    kind == NumberKind::histogram ? cell_registry().give_shard_slot(slot) : cell_registry().give_slot(slot);
  }
  void add_slowly(std::int64_t amount) noexcept override {
    Cell* const cell = slot != no_cell ? cell_registry().cell(slot) : nullptr;
    if (cell != nullptr)
      add_alone(*cell, amount);
    else
      shared.fetch_add(amount, std::memory_order_relaxed);
  }
  HistogramShard* make_shard() noexcept override { return cell_registry().shard(slot); }
};

inline std::uint64_t process_key_seed() noexcept {
  static const std::uint64_t seed = random_seed();
  return seed;
}

struct KeyHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view key) const noexcept { return key_hash(key, process_key_seed()); }
};

/// Holds a buffer's mutex.
class BufferLock {
 public:
  explicit BufferLock(std::mutex& mutex) : lock_(mutex) {}

 private:
  TelemetryBusy busy_;
  std::lock_guard<std::mutex> lock_;
};

/// Thread-safety: shared: safe.
class TableBuffer final : public Buffer, private ForkMember {
 public:
  TableBuffer() noexcept;
  ~TableBuffer() override;

  void put(Put kind, std::string_view key, std::string_view subkey, TelemetryValueView value) noexcept override;
  KeyEntry* handle(NumberKind kind, std::string_view key, std::string_view unit) noexcept override;

  std::uint64_t at_emit(std::function<void(const Telemetry&)> collect) noexcept override;
  void remove_at_emit(std::uint64_t number) noexcept override;
  void collect(const Telemetry& telemetry) override;
  /// What was there is dropped when `keep` is false.
  Payload take(bool keep) override;
  void merge_back(Payload payload) noexcept override;
  void apply(const Response& response) noexcept override;
  bool disable_matching(std::span<const std::string> patterns) noexcept override;
  bool disabled(std::string_view key) noexcept override;
  bool begin(InstanceId id, TelemetryOptions options) override;
  InstanceId instance_id() noexcept override;
  TelemetryStats stats() noexcept override;

  static std::optional<Error> check(InstanceId id, const TelemetryOptions& options);

 private:
  using Values = std::unordered_map<std::string, TelemetryData, KeyHash, std::equal_to<>>;
  using Entries = std::unordered_map<std::string_view, TableEntry*, KeyHash, std::equal_to<>>;  // the keys' text is the entries'
  using Keys = std::set<std::string, std::less<>>;
  struct Collector {
    std::uint64_t number;
    std::function<void(const Telemetry&)> collect;
    unsigned failures = 0;  // in a row
  };
  /// One entry's part in a payload.
  struct Reading {
    TableEntry* entry;
    bool claimed;       // in the cycle that ends
    bool dropped;       // to be in no payload
    bool waits;         // its key is of another kind in the cycle that ends,
    bool barred;        // and has a handle of that kind
    bool idle;          // nobody can be adding to it
    bool left;          // it is not in the table any more
    bool more = false;  // that is still to be read
  };
  /// What a payload is read with.
  struct Scratch {
    static constexpr std::size_t batch = 1'024;  // so that the registry, which starting and ending threads need, is not held for long
    std::array<std::uint32_t, batch> slots;
    std::array<std::int64_t, batch> sums;
    HistogramTotals totals;
    std::bitset<4'096> late;  // of the hashes of keys of which the payload has what came late
  };
  static constexpr std::size_t item_bytes = 64, max_remote_keys = 10'000, max_logged_keys = 1'000, max_cell_keys = 4'096,
                               max_remembered_bytes = 256;
  static constexpr unsigned max_failures = 100;

  // The mutex is held; for the first three the take mutex will do.
  bool governed(const Keys& keys, std::string_view key) const;
  bool is_disabled(std::string_view key) const {
    return governed(local_disabled_, key) || governed(remote_disabled_, key) || matches_disabled(key);
  }
  bool matches_disabled(std::string_view key) const noexcept;
  bool refuses(std::string_view key) const;
  bool counted(const TableEntry& entry) const { return entry.pinned || entry.cycle == cycle_; }
  bool room_for(std::size_t bytes);
  void occupy(std::size_t bytes) { ++items_, bytes_ += bytes + item_bytes; }
  void release(std::size_t bytes) { --items_, bytes_ -= bytes + item_bytes; }
  TableEntry* find_or_make(NumberKind kind, std::string_view key, std::string_view unit, bool with_slot, bool& conflict);
  bool claim(TableEntry& entry);
  void put_value(Put kind, std::string_view key, std::string_view subkey, const TelemetryValueView& value, bool& conflict);
  bool note_conflict(std::string_view key);  // true: to be logged
  bool change(std::size_t before, std::size_t after);
  void merge_number(TableEntry& entry, const TelemetryData& data) noexcept;
  void merge_value(const std::string& key, const TelemetryData& data, bool& conflict) noexcept;
  bool disable(const std::string& key) noexcept;
  template <class Change>
  void change_disabled(Change change);
  void try_put_value(Put kind, std::string_view key, std::string_view subkey, const TelemetryValueView& value, bool& conflict) noexcept;
  void drop_value(const std::string& key, const TelemetryData& data);
  void drop_inherited_values() noexcept;
  void leave(TableEntry& entry) noexcept;
  void keep_count(TableEntry& entry) noexcept;
  KeyEntry* remember(TableEntry& entry) noexcept;

  void add_slowly(std::string_view key, std::int64_t amount) noexcept override;
  void log_conflict(std::string_view key) noexcept;
  Logger& logger() noexcept;
  // The take mutex is held.
  void read(std::span<Reading> readings, Scratch& scratch, std::vector<Payload::Item>& items) noexcept;
  void read_one(const Reading& reading, std::int64_t sum, HistogramTotals& totals, std::vector<Payload::Item>& items);
  bool has_more(TableEntry& entry, std::int64_t sum, HistogramTotals& totals) noexcept;
  void skip(TableEntry& entry, Scratch& scratch) noexcept;
  void retire(std::span<const Reading> readings) noexcept;
  void lock_first() noexcept override { taking_.lock(); }
  void lock_second() noexcept override { mutex_.lock(); }
  void unlock() noexcept override {
    mutex_.unlock();
    taking_.unlock();
  }
  void in_child() noexcept override;
  void next_epoch() { epoch_.store(instance_.valid() ? ++last_epoch_ : never, std::memory_order_relaxed); }

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
  Keys local_disabled_, remote_disabled_;  // these and the next change only while the take mutex is held, too
  std::vector<Glob> matching_disabled_;
  std::set<std::uint64_t> logged_;  // hashes of keys
  TelemetryStats stats_;
  std::uint64_t last_collector_ = 0;
  std::vector<std::shared_ptr<Collector>> collectors_;
  TableEntry* leaving_ = nullptr;  // replaced by another kind, while somebody may be adding to them
  std::recursive_mutex collecting_;
  bool collecting_now_ = false;  // guarded by collecting_
};

}  // namespace weir::inline v0::detail
