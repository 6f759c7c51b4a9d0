#include "telemetry/buffer.hpp"

#include <algorithm>

#include "weir/core/detail/exceptions.hpp"

namespace weir::inline v0::detail {

TableBuffer::TableBuffer() noexcept : Buffer(cell_registry().next_buffer_id(), process_key_seed()) { cell_registry().forks().add(*this); }

TableBuffer::~TableBuffer() {
  cell_registry().forks().remove(*this);
  for (auto& [key, entry] : entries_) entry->unref();
  while (leaving_ != nullptr) std::exchange(leaving_, leaving_->next_leaving)->unref();
}

std::optional<Error> TableBuffer::check(InstanceId id, const TelemetryOptions& options) {
  const auto invalid = [](const char* message) { return Error{std::make_error_code(std::errc::invalid_argument), message}; };
  if (!id.valid()) return invalid("the instance id is nil: use InstanceId::random() or InstanceId::from_file(path)");
  if (options.max_items == 0) return invalid("TelemetryOptions::max_items is 0: a buffer needs room for at least one item");
  if (options.max_bytes == 0) return invalid("TelemetryOptions::max_bytes is 0: a buffer needs room for at least one item");
  if (options.logger == nullptr) return invalid("TelemetryOptions::logger is null: leave it as it is for stderr");
  return std::nullopt;
}

bool TableBuffer::begin(InstanceId id, TelemetryOptions options) {
  Keys disabled(options.disabled_keys.begin(), options.disabled_keys.end());
  const auto scratch = std::make_unique<Scratch>();
  std::lock_guard taking(taking_);
  std::vector<TableEntry*> entries;
  {
    BufferLock lock(mutex_);
    if (instance_.valid()) return false;
    entries.reserve(entries_.size());
    instance_ = id;
    options_ = std::move(options);
    local_disabled_ = std::move(disabled);
    for (auto& [key, entry] : entries_) {
      entry->disabled = is_disabled(entry->key);
      entries.push_back(entry);
    }
    next_epoch();
  }
  for (TableEntry* entry : entries) skip(*entry, *scratch);
  return true;
}

bool TableBuffer::governed(const Keys& keys, std::string_view key) const {
  if (keys.empty()) return false;
  const std::size_t colon = key.find(':');
  return keys.contains(key) || (colon != key.npos && keys.contains(key.substr(0, colon)));
}

bool TableBuffer::matches_disabled(std::string_view key) const noexcept {
  if (matching_disabled_.empty()) [[likely]]
    return false;
  const std::size_t colon = key.find(':');
  for (const Glob& pattern : matching_disabled_)
    if (pattern.matches(key) || (colon != key.npos && pattern.matches(key.substr(0, colon)))) return true;
  return false;
}

/// is_disabled, without asking the patterns again about a key that is known.
bool TableBuffer::refuses(std::string_view key) const {
  if (matching_disabled_.empty()) [[likely]]
    return is_disabled(key);
  if (const auto entry = entries_.find(key); entry != entries_.end()) return entry->second->disabled;
  return values_.find(key) == values_.end() && is_disabled(key);
}

bool TableBuffer::room_for(std::size_t bytes) {
  if (items_ < options_.max_items && bytes + item_bytes <= options_.max_bytes && bytes_ <= options_.max_bytes - bytes - item_bytes)
    return true;
  ++stats_.dropped_items;
  return false;
}

/// Makes room for what grows from `before` to `after` bytes.
bool TableBuffer::change(std::size_t before, std::size_t after) {
  if (after > before && after - before > options_.max_bytes - std::min(bytes_, options_.max_bytes)) {
    ++stats_.dropped_items;
    return false;
  }
  bytes_ = bytes_ - before + after;
  return true;
}

bool TableBuffer::note_conflict(std::string_view key) {
  const bool is_new = logged_.size() < max_logged_keys && logged_.insert(key_hash(key, seed_)).second;
  ++stats_.type_conflicts;
  return is_new;
}

Logger& TableBuffer::logger() noexcept {
  BufferLock lock(mutex_);
  return *options_.logger;
}

void TableBuffer::log_conflict(std::string_view key) noexcept {
  const Attribute attributes[] = {{"key", key}};
  logger().log(Logger::Level::warning, "telemetry: a key is used as two kinds; the call was ignored", attributes);
}

void TableBuffer::drop_inherited_values() noexcept {
  if (!forked_) return;
  values_.clear();
  leaving_ = nullptr;  // their memory stays with the parent's
  forked_ = false;
}

/// Takes over what an entry that goes has counted of itself.
void TableBuffer::keep_count(TableEntry& entry) noexcept {
  stats_.invalid_values += entry.invalid.exchange(0, std::memory_order_relaxed);
  stats_.dropped_items += entry.lost.exchange(0, std::memory_order_relaxed);
}

void TableBuffer::leave(TableEntry& entry) noexcept {
  if (entry.kind == NumberKind::counter && entry.slot != no_cell) --cell_keys_;
  entries_.erase(entry.key);
  keep_count(entry);
  entry.next_leaving = std::exchange(leaving_, &entry);
}

/// The counter, gauge or histogram of a key; nullptr if the key is of another kind (`conflict`: to be logged), or new and without
/// room.
TableEntry* TableBuffer::find_or_make(NumberKind kind, std::string_view key, std::string_view unit, bool with_slot, bool& conflict) {
  drop_inherited_values();
  if (values_.find(key) != values_.end()) {
    conflict = note_conflict(key);
    return nullptr;
  }
  if (const auto found = entries_.find(key); found != entries_.end()) {
    TableEntry* const entry = found->second;
    if (entry->kind == kind) return entry;
    if (counted(*entry)) {
      conflict = note_conflict(key);
      return nullptr;
    }
    leave(*entry);
  }
  if (!room_for(key.size())) return nullptr;
  auto entry = std::make_unique<TableEntry>(kind, key, unit, key_hash(key, seed_), id_);
  if (kind == NumberKind::histogram)
    entry->slot = cell_registry().take_shard_slot();
  else if (kind == NumberKind::counter && with_slot)
    entry->slot = cell_registry().take_slot();
  if (kind == NumberKind::histogram && entry->slot == no_cell) {
    ++stats_.dropped_items;
    return nullptr;
  }
  entry->disabled = is_disabled(key);
  entries_.emplace(entry->key, entry.get());
  if (kind == NumberKind::counter && entry->slot != no_cell) ++cell_keys_;
  return entry.release();
}

/// Makes the key an item of this cycle; from now on it is added to without a lock.
bool TableBuffer::claim(TableEntry& entry) {
  if (!counted(entry)) {
    if (!room_for(entry.key.size())) return false;
    occupy(entry.key.size());
  }
  entry.cycle = cycle_;
  entry.claimed.store(last_epoch_, std::memory_order_relaxed);
  return true;
}

/// Puts an entry into the thread's cache. Returns the one that goes, to be let go of when no lock is held. Long keys are not for
/// caches: these have no bound but that of their places.
KeyEntry* TableBuffer::remember(TableEntry& entry) noexcept {
  if (thread_telemetry.adding || entry.key.size() > max_remembered_bytes) return nullptr;
  KeyCache* const keys = cell_registry().keys();
  if (keys == nullptr) return nullptr;
  KeyCache::Line& line = keys->lines[entry.hash % KeyCache::sets];
  for (const KeyEntry* known : line.entry)
    if (known == &entry) return nullptr;
  const std::size_t way = line.next++ % KeyCache::ways;
  entry.refs.fetch_add(1, std::memory_order_relaxed);
  line.hash[way] = entry.hash;
  return std::exchange(line.entry[way], static_cast<KeyEntry*>(&entry));
}

void TableBuffer::add_slowly(std::string_view key, std::int64_t amount) noexcept {
  if (thread_telemetry.busy) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  KeyEntry* replaced = nullptr;
  bool conflict = false;
  WEIR_TRY {
    BufferLock lock(mutex_);
    if (!instance_.valid() || refuses(key)) return;
    TableEntry* const entry = find_or_make(NumberKind::counter, key, {}, cell_keys_ < max_cell_keys, conflict);
    if (entry != nullptr && claim(*entry)) {
      entry->add(amount);
      replaced = remember(*entry);
    }
  }
  WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
  if (replaced != nullptr) replaced->unref();
  if (conflict) log_conflict(key);
}

KeyEntry* TableBuffer::handle(NumberKind kind, std::string_view key, std::string_view unit) noexcept {
  if (thread_telemetry.busy) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  TableEntry* entry = nullptr;
  bool conflict = false;
  WEIR_TRY {
    BufferLock lock(mutex_);
    entry = find_or_make(kind, key, unit, true, conflict);
    if (entry != nullptr && !counted(*entry)) {
      if (room_for(key.size()))
        occupy(key.size());
      else
        entry = nullptr;
    }
    if (entry != nullptr) {
      entry->pinned = true;
      entry->refs.fetch_add(1, std::memory_order_relaxed);
      entry->handles.fetch_add(1, std::memory_order_relaxed);
    }
  }
  WEIR_CATCH_ALL {
    refused_.fetch_add(1, std::memory_order_relaxed);
    entry = nullptr;
  }
  if (conflict) log_conflict(key);
  return entry;
}

void TableBuffer::put(Put kind, std::string_view key, std::string_view subkey, TelemetryValueView value) noexcept {
  if (thread_telemetry.busy) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  bool conflict = false;
  WEIR_TRY {
    BufferLock lock(mutex_);
    if (!instance_.valid() || refuses(key)) return;
    put_value(kind, key, subkey, value, conflict);
  }
  WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
  if (conflict) log_conflict(key);
}

void TableBuffer::put_value(Put kind, std::string_view key, std::string_view subkey, const TelemetryValueView& value, bool& conflict) {
  drop_inherited_values();
  if (const auto entry = entries_.find(key); entry != entries_.end() && counted(*entry->second)) {
    conflict = note_conflict(key);
    return;
  }
  auto found = values_.find(key);
  const bool is_new = found == values_.end();
  const std::size_t key_bytes = is_new ? key.size() : 0;
  switch (kind) {
    case Put::value:
      if (is_new) {
        if (!room_for(key.size() + value.bytes())) return;
        values_.emplace(key, TelemetryValue(value));
        occupy(key.size() + value.bytes());
      } else if (auto* const old = std::get_if<TelemetryValue>(&found->second)) {
        if (TelemetryValue changed(value); change(old->bytes(), value.bytes())) *old = std::move(changed);
      } else {
        conflict = note_conflict(key);
      }
      return;
    case Put::nested: {
      if (!is_new) {
        auto* const nested = std::get_if<TelemetryNested>(&found->second);
        if (nested == nullptr) break;
        if (const auto old = nested->find(subkey); old != nested->end()) {
          if (TelemetryValue changed(value); change(old->second.bytes(), value.bytes())) old->second = std::move(changed);
          return;
        }
      }
      const std::size_t bytes = key_bytes + subkey.size() + value.bytes();
      if (!room_for(bytes)) return;
      if (is_new) {
        TelemetryNested made;
        made.emplace(subkey, value);
        values_.emplace(key, std::move(made));
      } else {
        std::get<TelemetryNested>(found->second).emplace(subkey, value);
      }
      return occupy(bytes);
    }
    case Put::list_item: {
      if (!is_new && std::get_if<TelemetryList>(&found->second) == nullptr) break;
      const std::size_t bytes = key_bytes + value.bytes();
      if (!room_for(bytes)) return;
      if (is_new)
        values_.emplace(key, TelemetryList(1, value));
      else
        std::get<TelemetryList>(found->second).emplace_back(value);
      return occupy(bytes);
    }
    case Put::set_item: {
      if (!is_new) {
        auto* const set = std::get_if<TelemetrySet>(&found->second);
        if (set == nullptr) break;
        if (const auto old = set->find(value); old != set->end()) {
          ++old->second;
          return;
        }
      }
      const std::size_t bytes = key_bytes + value.bytes();
      if (!room_for(bytes)) return;
      if (is_new)
        values_.emplace(key, TelemetrySet{{value, 1}});
      else
        std::get<TelemetrySet>(found->second).emplace(value, 1);
      return occupy(bytes);
    }
  }
  conflict = note_conflict(key);
}

bool TableBuffer::disabled(std::string_view key) noexcept {
  BufferLock lock(mutex_);
  return is_disabled(key);
}

InstanceId TableBuffer::instance_id() noexcept {
  BufferLock lock(mutex_);
  return instance_;
}

TelemetryStats TableBuffer::stats() noexcept {
  BufferLock lock(mutex_);
  TelemetryStats stats = stats_;
  stats.items = items_;
  stats.bytes = bytes_;
  stats.dropped_items += refused_.load(std::memory_order_relaxed);
  for (const auto& [key, entry] : entries_) {
    stats.invalid_values += entry->invalid.load(std::memory_order_relaxed);
    stats.dropped_items += entry->lost.load(std::memory_order_relaxed);
  }
  return stats;
}

}  // namespace weir::inline v0::detail
