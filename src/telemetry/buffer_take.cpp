// How a buffer is emptied, filled again, and told what a server wishes.
#include <algorithm>
#include <array>
#include <new>

#include "telemetry/buffer.hpp"
#include "weir/core/detail/exceptions.hpp"

namespace weir::inline v0::detail {

std::uint64_t TableBuffer::at_emit(std::function<void(const Telemetry&)> collect) noexcept {
  WEIR_TRY {
    auto collector = std::make_shared<Collector>(Collector{0, std::move(collect)});
    BufferLock lock(mutex_);
    collectors_.push_back(std::move(collector));
    return collectors_.back()->number = ++last_collector_;
  }
  WEIR_CATCH_ALL {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return 0;
  }
}

void TableBuffer::remove_at_emit(std::uint64_t number) noexcept {
  std::shared_ptr<Collector> removed;  // destroyed when nothing is locked
  std::lock_guard running(collecting_);
  BufferLock lock(mutex_);
  for (auto collector = collectors_.begin(); collector != collectors_.end(); ++collector) {
    if ((*collector)->number != number) continue;
    (*collector)->number = 0;
    removed = std::move(*collector);
    collectors_.erase(collector);
    return;
  }
}

void TableBuffer::collect(const Telemetry& telemetry) {
  std::vector<std::shared_ptr<Collector>> collectors;  // destroyed when nothing is locked
  std::lock_guard running(collecting_);
  if (collecting_now_) return;  // one of them takes a payload
  {
    BufferLock lock(mutex_);
    if (!instance_.valid()) return;
    collectors = collectors_;
  }
  collecting_now_ = true;
  const struct End {
    bool& now;
    ~End() { now = false; }
  } end{collecting_now_};
  for (const std::shared_ptr<Collector>& collector : collectors) {
    if (collector->number == 0 || collector->failures == max_failures) continue;
    if (call_guarded(collector->collect, telemetry)) {
      collector->failures = 0;
      continue;
    }
    ++collector->failures;
    {
      BufferLock lock(mutex_);
      ++stats_.collector_failures;
    }
    if (collector->failures == max_failures)
      logger().log(Logger::Level::warning, "telemetry: what at_emit was given has thrown 100 times in a row, and is not called any more");
  }
}

Payload TableBuffer::take(bool keep) {
  Payload payload;
  payload.update_id = TraceId{random_seed(), random_seed()}.hex();
  const auto scratch = std::make_unique<Scratch>();
  std::vector<Reading> readings;
  Values values;
  std::lock_guard taking(taking_);
  {
    BufferLock lock(mutex_);
    if (!instance_.valid()) return {};
    drop_inherited_values();
    std::size_t entries = entries_.size();
    for (TableEntry* entry = leaving_; entry != nullptr; entry = entry->next_leaving) ++entries;
    readings.reserve(entries);
    if (keep) payload.items.reserve(entries + values_.size());
    // From here on nothing throws.
    const auto is_idle = [](const TableEntry& entry) { return entry.refs.load(std::memory_order_acquire) == 1; };
    items_ = bytes_ = 0;
    for (const auto& [key, entry] : entries_) {
      const bool claimed = entry->cycle == cycle_;
      if (entry->pinned && entry->handles.load(std::memory_order_acquire) == 0) entry->pinned = false;
      if (entry->pinned) occupy(entry->key.size());
      // An addition that was under way when a cycle ended waits while its key is of another kind.
      const bool waits = !claimed && !entry->pinned && !values_.empty() && values_.find(key) != values_.end();
      readings.push_back({entry, claimed, entry->disabled || !keep, waits, false, is_idle(*entry), false});
    }
    for (TableEntry* entry = leaving_; entry != nullptr; entry = entry->next_leaving) {
      const auto other = entries_.find(entry->key);
      const bool numbers = other != entries_.end(), barred = numbers && other->second->pinned;
      const bool waits = barred || (numbers && other->second->cycle == cycle_) || values_.find(entry->key) != values_.end();
      readings.push_back({entry, false, entry->disabled || !keep, waits, barred, is_idle(*entry), true});
    }
    leaving_ = nullptr;  // retire() puts back who has to stay
    values.swap(values_);
    ++cycle_;
    next_epoch();
    if (keep) ++stats_.payloads;
    payload.instance_id = instance_;
  }
  payload.timestamp = options_.clock != nullptr ? options_.clock->now()
                                                : std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
  read(readings, *scratch, payload.items);
  retire(readings);
  if (!keep) return {};
  while (!values.empty()) {
    auto node = values.extract(values.begin());
    payload.items.push_back({std::move(node.key()), std::move(node.mapped())});
  }
  return payload;
}

/// Appends what was added to each since the last time. What there is no memory for stays where it is.
void TableBuffer::read(std::span<Reading> readings, Scratch& scratch, std::vector<Payload::Item>& items) noexcept {
  for (std::size_t from = 0; from < readings.size(); from += Scratch::batch) {
    const std::size_t count = std::min(Scratch::batch, readings.size() - from);
    for (std::size_t i = 0; i < count; ++i) {
      const TableEntry& entry = *readings[from + i].entry;
      scratch.slots[i] = entry.kind == NumberKind::counter ? entry.slot : no_cell;
    }
    cell_registry().sum(scratch.slots.data(), scratch.sums.data(), count);
    for (std::size_t i = 0; i < count; ++i) {
      Reading& reading = readings[from + i];
      // A key is in a payload once: of several entries that have something late, one at a time.
      const std::size_t late = std::hash<std::string>()(reading.entry->key) % scratch.late.size();
      if (reading.left && scratch.late[late]) reading.waits = true;
      const std::size_t before = items.size();
      WEIR_TRY {
        if (!reading.waits || reading.dropped)
          read_one(reading, scratch.sums[i], scratch.totals, items);
        else
          reading.more = has_more(*reading.entry, scratch.sums[i], scratch.totals);
      }
      WEIR_CATCH_ALL { reading.more = true; }
      if (items.size() != before && !reading.claimed) scratch.late.set(late);
    }
  }
}

void TableBuffer::read_one(const Reading& reading, std::int64_t sum, HistogramTotals& totals, std::vector<Payload::Item>& items) {
  TableEntry& entry = *reading.entry;
  switch (entry.kind) {
    case NumberKind::counter: {
      const std::int64_t total = wrapping_add(sum, entry.shared.load(std::memory_order_relaxed));
      const TelemetryCounter added = wrapping_subtract(total, entry.taken);
      if (!reading.dropped && (added != 0 || reading.claimed))
        items.push_back({entry.key, TelemetryData(std::in_place_type<TelemetryCounter>, added)});
      entry.taken = total;
      break;
    }
    case NumberKind::gauge: {
      if (!has_more(entry, sum, totals)) break;
      Payload::Item item{reading.dropped ? std::string() : entry.key, TelemetryData(std::in_place_type<TelemetryGauge>, 0)};
      entry.gauge.exchange(GaugeState::taken, std::memory_order_acq_rel);
      std::get<TelemetryGauge>(item.data) = entry.value.load(std::memory_order_relaxed);
      if (!reading.dropped) items.push_back(std::move(item));
      break;
    }
    case NumberKind::histogram: {
      if (!has_more(entry, sum, totals)) break;
      HistogramTaken taken = totals.taken();
      if (!reading.dropped) items.push_back({entry.key, TelemetryHistogram{totals.less(entry.taken_histogram), entry.unit}});
      entry.taken_histogram = std::move(taken);
      break;
    }
  }
}

/// Whether there is more than what payloads have had. Of a histogram it ends a cycle, and leaves it in `totals`.
bool TableBuffer::has_more(TableEntry& entry, std::int64_t sum, HistogramTotals& totals) noexcept {
  switch (entry.kind) {
    case NumberKind::counter: return wrapping_add(sum, entry.shared.load(std::memory_order_relaxed)) != entry.taken;
    case NumberKind::gauge: return entry.gauge.load(std::memory_order_relaxed) == GaugeState::set;
    case NumberKind::histogram:
      totals.begin(entry.taken_histogram, entry.histogram_cycle.fetch_add(1, std::memory_order_acq_rel));
      cell_registry().for_each_shard(entry.slot, [&](HistogramShard& shard) { totals.add(shard); });
      return totals.more_than(entry.taken_histogram);
  }
  return false;
}

/// What has been added so far is in no payload.
void TableBuffer::skip(TableEntry& entry, Scratch& scratch) noexcept {
  Reading reading{&entry, false, true, false, false, false, false};
  std::vector<Payload::Item> nowhere;
  read({&reading, 1}, scratch, nowhere);
}

/// Lets go of entries that nobody used in the cycle that has ended.
void TableBuffer::retire(std::span<const Reading> readings) noexcept {
  std::array<const Reading*, 256> batch;
  std::array<TableEntry*, 256> retired;
  while (!readings.empty()) {
    std::size_t candidates = 0, count = 0;
    for (; !readings.empty() && candidates < batch.size(); readings = readings.subspan(1))
      if (const Reading& reading = readings.front(); reading.left || (reading.idle && !reading.claimed && !reading.more))
        batch[candidates++] = &reading;
    {
      BufferLock lock(mutex_);
      for (std::size_t i = 0; i < candidates; ++i) {
        const Reading& reading = *batch[i];
        TableEntry& entry = *reading.entry;
        if (reading.left) {
          if (!reading.idle || (reading.more && !reading.barred)) {
            entry.next_leaving = std::exchange(leaving_, &entry);
            continue;
          }
          if (reading.more) ++stats_.type_conflicts;  // it came when its key was of another kind
        } else {
          const auto found = entries_.find(entry.key);
          const bool here = found != entries_.end() && found->second == &entry;
          if (!here || counted(entry) || entry.refs.load(std::memory_order_acquire) != 1) continue;
          if (entry.kind == NumberKind::counter && entry.slot != no_cell) --cell_keys_;
          entries_.erase(found);
        }
        keep_count(entry);
        retired[count++] = &entry;
      }
    }
    for (std::size_t i = 0; i < count; ++i) retired[i]->unref();
  }
}

void TableBuffer::merge_back(Payload payload) noexcept {
  for (const Payload::Item& item : payload.items) {
    bool conflict = false;
    WEIR_TRY {
      std::lock_guard taking(taking_);
      BufferLock lock(mutex_);
      if (!instance_.valid() || refuses(item.key)) continue;
      drop_inherited_values();
      const std::size_t index = item.data.index();
      if (index <= 2) {
        constexpr NumberKind kinds[] = {NumberKind::counter, NumberKind::gauge, NumberKind::histogram};
        const auto* const histogram = std::get_if<TelemetryHistogram>(&item.data);
        const std::string_view unit = histogram != nullptr ? std::string_view(histogram->unit) : std::string_view();
        TableEntry* const entry = find_or_make(kinds[index], item.key, unit, cell_keys_ < max_cell_keys, conflict);
        if (entry != nullptr && claim(*entry)) merge_number(*entry, item.data);
      } else {
        merge_value(item.key, item.data, conflict);
      }
    }
    WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
    if (conflict) log_conflict(item.key);
  }
}

void TableBuffer::merge_number(TableEntry& entry, const TelemetryData& data) noexcept {
  if (const auto* const counter = std::get_if<TelemetryCounter>(&data)) {
    entry.shared.fetch_add(*counter, std::memory_order_relaxed);
  } else if (const auto* const gauge = std::get_if<TelemetryGauge>(&data)) {
    // What the gauge has is newer, and in the next payload again. If it has nothing, somebody may be setting it now.
    double before = entry.value.load(std::memory_order_relaxed);
    if (entry.gauge.load(std::memory_order_acquire) == GaugeState::never)
      entry.value.compare_exchange_strong(before, *gauge, std::memory_order_relaxed);
    entry.gauge.exchange(GaugeState::set, std::memory_order_acq_rel);
  } else {
    const HistogramData& histogram = std::get<TelemetryHistogram>(data).data;
    std::uint64_t lost = histogram.count();
    cell_registry().add_to_ended(entry.slot, [&](HistogramShard& shard) {
      lost = add_to_shard(shard, histogram, entry.histogram_cycle.load(std::memory_order_relaxed));
    });
    entry.lost.fetch_add(lost, std::memory_order_relaxed);
  }
}

void TableBuffer::try_put_value(Put kind, std::string_view key, std::string_view subkey, const TelemetryValueView& value,
                                bool& conflict) noexcept {
  WEIR_TRY { put_value(kind, key, subkey, value, conflict); }
  WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
}

void TableBuffer::merge_value(const std::string& key, const TelemetryData& data, bool& conflict) noexcept {
  const auto here = [&]<class T>(const T&) -> T* {  // what the key holds now, if it is of that kind
    const auto now = values_.find(key);
    return now != values_.end() ? std::get_if<T>(&now->second) : nullptr;
  };
  if (const auto* const value = std::get_if<TelemetryValue>(&data)) {
    if (here(*value) == nullptr) try_put_value(Put::value, key, {}, *value, conflict);
  } else if (const auto* const nested = std::get_if<TelemetryNested>(&data)) {
    for (const auto& [subkey, item] : *nested)
      if (const auto* const newer = here(*nested); newer == nullptr || newer->find(subkey) == newer->end())
        try_put_value(Put::nested, key, subkey, item, conflict);
  } else if (const auto* const list = std::get_if<TelemetryList>(&data)) {
    const auto* const before = here(*list);
    const std::size_t newer = before != nullptr ? before->size() : 0;
    for (const TelemetryValue& item : *list) try_put_value(Put::list_item, key, {}, item, conflict);
    if (auto* const items = here(*list); items != nullptr && items->size() > newer)
      std::rotate(items->begin(), items->begin() + static_cast<std::ptrdiff_t>(newer), items->end());
  } else if (const auto* const set = std::get_if<TelemetrySet>(&data)) {
    for (const auto& each : *set) {
      const TelemetryValue& item = each.first;
      const std::uint64_t count = each.second;
      if (count == 0) continue;
      const auto known = [&]() -> std::uint64_t* {
        TelemetrySet* const items = here(*set);
        if (items == nullptr) return nullptr;
        const auto found = items->find(static_cast<TelemetryValueView>(item));
        return found != items->end() ? &found->second : nullptr;
      };
      if (std::uint64_t* const before = known()) {
        *before += count;
        continue;
      }
      try_put_value(Put::set_item, key, {}, item, conflict);
      if (std::uint64_t* const made = known()) *made = count;
    }
  }
}

/// `change` changes what is disabled, with both locks held; what follows of it is done here. Throws std::bad_alloc, before that.
template <class Change>
void TableBuffer::change_disabled(Change change) {
  struct Known {
    std::string_view key;
    TableEntry* entry;  // nullptr: a value's key
    bool disabled;
  };
  const auto scratch = std::make_unique<Scratch>();
  std::vector<Known> known;
  std::vector<TableEntry*> changed;
  std::lock_guard taking(taking_);
  {
    BufferLock lock(mutex_);
    drop_inherited_values();
    std::size_t entries = entries_.size();
    for (const TableEntry* entry = leaving_; entry != nullptr; entry = entry->next_leaving) ++entries;
    changed.reserve(entries);
    known.reserve(entries + values_.size());
    change();
    for (const auto& [key, entry] : entries_) known.push_back({key, entry, false});
    for (TableEntry* entry = leaving_; entry != nullptr; entry = entry->next_leaving) known.push_back({entry->key, entry, false});
    for (const auto& [key, data] : values_) known.push_back({key, nullptr, false});
  }
  // Long, and nobody waits for it: none of these goes away, nor does what is disabled change, while the take mutex is held; and keys
  // that come meanwhile are asked about as they come.
  for (Known& each : known) each.disabled = is_disabled(each.key);
  {
    BufferLock lock(mutex_);
    for (const Known& each : known) {
      if (each.entry == nullptr) {
        if (const auto value = each.disabled ? values_.find(each.key) : values_.end(); value != values_.end()) {
          drop_value(value->first, value->second);
          values_.erase(value);
        }
        continue;
      }
      TableEntry& entry = *each.entry;
      if (each.disabled == std::exchange(entry.disabled, each.disabled)) continue;
      if (each.disabled && !entry.pinned && entry.cycle == cycle_) {
        entry.cycle = 0;
        release(entry.key.size());
      }
      changed.push_back(&entry);
    }
    next_epoch();
  }
  for (TableEntry* entry : changed) skip(*entry, *scratch);
}

void TableBuffer::apply(const Response& response) noexcept {
  if (response.disable_keys.empty() && response.enable_keys.empty()) return;
  bool full = false;
  WEIR_TRY {
    change_disabled([&] {
      for (const std::string& key : response.enable_keys) remote_disabled_.erase(key);
      for (const std::string& key : response.disable_keys) full = !disable(key) || full;
    });
  }
  WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
  if (full) logger().log(Logger::Level::warning, "telemetry: the server disables more than 10000 keys; the rest stay enabled");
}

bool TableBuffer::disable_matching(std::span<const std::string> patterns) noexcept {
  WEIR_TRY {
    std::vector<Glob> globs(patterns.begin(), patterns.end());
    change_disabled([&] { matching_disabled_.swap(globs); });
    return true;
  }
  WEIR_CATCH_ALL { return false; }
}

/// False: there are too many.
bool TableBuffer::disable(const std::string& key) noexcept {
  if (remote_disabled_.size() >= max_remote_keys) return remote_disabled_.contains(key);
  WEIR_TRY { remote_disabled_.insert(key); }
  WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
  return true;
}

/// Takes what a key holds out of the account.
void TableBuffer::drop_value(const std::string& key, const TelemetryData& data) {
  bytes_ -= key.size();
  if (const auto* const value = std::get_if<TelemetryValue>(&data)) release(value->bytes());
  if (const auto* const nested = std::get_if<TelemetryNested>(&data))
    for (const auto& [subkey, value] : *nested) release(subkey.size() + value.bytes());
  if (const auto* const list = std::get_if<TelemetryList>(&data))
    for (const TelemetryValue& value : *list) release(value.bytes());
  if (const auto* const set = std::get_if<TelemetrySet>(&data))
    for (const auto& [value, count] : *set) release(value.bytes());
}

/// In the child of a fork, with the locks held: what was added is the parent's to send.
void TableBuffer::in_child() noexcept {
  items_ = bytes_ = 0;
  for (auto& [key, entry] : entries_) {
    entry->shared.store(0, std::memory_order_relaxed);
    if (entry->gauge.load(std::memory_order_relaxed) == GaugeState::set) entry->gauge.store(GaugeState::taken, std::memory_order_relaxed);
    entry->lost.store(0, std::memory_order_relaxed);
    entry->invalid.store(0, std::memory_order_relaxed);
    entry->taken = 0;
    entry->taken_histogram.clear();
    if (entry->pinned) occupy(entry->key.size());
  }
  stats_ = {};
  refused_.store(0, std::memory_order_relaxed);
  forked_ = true;
  ++cycle_;
  next_epoch();
  new (&collecting_) std::recursive_mutex;  // another thread may have held it
  collecting_now_ = false;
}

}  // namespace weir::inline v0::detail
