// How a buffer is emptied, filled again, and told what a server wishes.
#include <algorithm>
#include <cmath>

#include "telemetry/buffer.hpp"
#include "weir/core/detail/exceptions.hpp"

namespace weir::inline v0::detail {

struct HistogramAccess {
  /// Of what was added to a histogram: counts by position, less their zeros at either end.
  static void fill(HistogramData& data, const std::vector<std::int64_t>& added, int first, std::int64_t zeros, double sum) {
    std::size_t begin = 0, end = added.size();
    while (begin < end && added[begin] == 0) ++begin;
    while (end > begin && added[end - 1] == 0) --end;
    data.zero_count_ = data.count_ = static_cast<std::uint64_t>(zeros);
    data.sum_ = sum;
    data.first_ = HistogramScheme::first_bucket + first + static_cast<int>(begin);
    data.counts_.reserve(end - begin);
    for (std::size_t i = begin; i < end; ++i) {
      data.counts_.push_back(static_cast<std::uint64_t>(added[i]));
      data.count_ += static_cast<std::uint64_t>(added[i]);
    }
    if (data.counts_.empty()) data.first_ = 0;
  }
  /// As far as the buckets allow: what was recorded in the moment of the payload may be in the one and not in the other.
  static void bound(HistogramData& data, double min, double max) {
    if (data.count_ == 0) return;
    const double least = std::exp2(HistogramScheme::min_exponent), most = std::exp2(HistogramScheme::max_exponent);
    const int first = data.first_, last = data.first_ + static_cast<int>(data.counts_.size()) - 1;
    data.min_ = data.zero_count_ != 0 ? std::clamp(min, 0.0, least) : std::clamp(min, data.lower(first), std::max(min, data.upper(first)));
    if (data.zero_count_ == 0 && data.upper(first) < most) data.min_ = std::min(data.min_, data.upper(first));
    data.max_ = data.counts_.empty() ? std::clamp(max, 0.0, least) : std::max(max, data.lower(last));
    if (!data.counts_.empty() && data.upper(last) < most) data.max_ = std::min(data.max_, data.upper(last));
  }
  static void add_to(HistogramShard& shard, const HistogramData& data, std::uint64_t cycle) noexcept {
    for (std::size_t i = 0; i < data.counts_.size(); ++i)
      if (Cell* const cell = shard.cell(data.first_ - HistogramScheme::first_bucket + static_cast<int>(i) + 1))
        cell->fetch_add(static_cast<std::int64_t>(data.counts_[i]), std::memory_order_relaxed);
    shard.zeros.fetch_add(static_cast<std::int64_t>(data.zero_count_), std::memory_order_relaxed);
    shard.sum.store(shard.sum.load(std::memory_order_relaxed) + data.sum_, std::memory_order_relaxed);
    shard.note(data.min_, cycle);
    shard.note(data.max_, cycle);
  }
};

std::uint64_t TableBuffer::at_emit(std::function<void(const Telemetry&)> collect) {
  auto collector = std::make_shared<Collector>(Collector{0, std::move(collect)});
  BufferLock lock(mutex_);
  collectors_.push_back(std::move(collector));
  return collectors_.back()->number = ++last_collector_;
}

void TableBuffer::remove_at_emit(std::uint64_t number) noexcept {
  std::lock_guard running(collecting_);
  std::shared_ptr<Collector> removed;  // destroyed when nothing is locked
  BufferLock lock(mutex_);
  for (auto collector = collectors_.begin(); collector != collectors_.end(); ++collector) {
    if ((*collector)->number != number) continue;
    (*collector)->number = 0;
    removed = std::move(*collector);
    collectors_.erase(collector);
    return;
  }
}

void TableBuffer::collect(const Telemetry& telemetry) noexcept {
  std::lock_guard running(collecting_);
  std::vector<std::shared_ptr<Collector>> collectors;
  WEIR_TRY {
    BufferLock lock(mutex_);
    if (!instance_.valid()) return;
    collectors = collectors_;
  }
  WEIR_CATCH_ALL { return; }
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
      options_.logger->log(Logger::Level::warning,
                           "telemetry: what at_emit was given has thrown 100 times in a row, and is not called any more");
  }
}

Payload TableBuffer::take(bool keep) {
  Payload payload;
  std::vector<Reading> readings;
  std::vector<TableEntry*> leaving;
  Values values;
  std::lock_guard taking(taking_);
  {
    BufferLock lock(mutex_);
    if (!instance_.valid()) return payload;
    drop_inherited_values();
    readings.reserve(entries_.size() + leaving_.size());
    items_ = bytes_ = 0;
    for (const auto& [key, entry] : entries_) {
      if (entry->pinned && entry->handles.load(std::memory_order_acquire) == 0) entry->pinned = false;
      if (entry->pinned) occupy(entry->key.size());
      readings.push_back({entry, entry->cycle == cycle_, entry->disabled, entry->pinned, entry->refs.load(std::memory_order_acquire) == 1});
    }
    for (TableEntry* entry : leaving_) readings.push_back({entry, false, entry->disabled, false, false});
    leaving.swap(leaving_);
    values.swap(values_);
    ++cycle_;
    next_epoch();
    if (keep) ++stats_.payloads;
    payload.instance_id = instance_;
  }
  payload.timestamp = options_.clock != nullptr ? options_.clock->now()
                                                : std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
  payload.update_id = TraceId{random_seed(), random_seed()}.hex();
  payload.items.reserve(readings.size() + values.size());
  read_numbers(readings, values, keep, payload.items);
  retire(readings);
  for (TableEntry* entry : leaving) entry->unref();
  if (!keep) return {};
  while (!values.empty()) {
    auto node = values.extract(values.begin());
    payload.items.push_back({std::move(node.key()), std::move(node.mapped())});
  }
  return payload;
}

/// Appends what was added to each since the last time.
void TableBuffer::read_numbers(const std::vector<Reading>& readings, const Values& values, bool keep, std::vector<Payload::Item>& items) {
  constexpr std::size_t batch = 4096;  // so that the registry, which starting and ending threads need, is not held for long
  std::vector<std::uint32_t> slots;
  std::vector<std::int64_t> sums;
  for (std::size_t from = 0; from < readings.size(); from += batch) {
    const std::size_t count = std::min(batch, readings.size() - from);
    slots.resize(count);
    sums.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const TableEntry& entry = *readings[from + i].entry;
      slots[i] = entry.kind == NumberKind::counter ? entry.slot : no_cell;
    }
    cell_registry().sum(slots.data(), sums.data(), count);
    for (std::size_t i = 0; i < count; ++i) {
      const Reading& reading = readings[from + i];
      TableEntry& entry = *reading.entry;
      const bool dropped = reading.disabled || !keep;
      // An addition that was under way when the last cycle ended waits while its key is of another kind.
      const bool waits = !reading.claimed && !reading.pinned && !values.empty() && values.find(entry.key) != values.end();
      if (waits && !dropped) continue;
      switch (entry.kind) {
        case NumberKind::counter: {
          const std::int64_t total = sums[i] + entry.shared.load(std::memory_order_relaxed);
          const std::int64_t added = total - std::exchange(entry.taken, total);
          if (!dropped && (added != 0 || reading.claimed))
            items.push_back({entry.key, TelemetryData(std::in_place_type<TelemetryCounter>, added)});
          break;
        }
        case NumberKind::gauge:
          if (entry.set.exchange(false, std::memory_order_acquire) && !dropped)
            items.push_back({entry.key, TelemetryData(std::in_place_type<TelemetryGauge>, entry.value.load(std::memory_order_relaxed))});
          break;
        case NumberKind::histogram: {
          TelemetryHistogram histogram{{}, entry.unit};
          if (read_histogram(entry, histogram.data) && !dropped) items.push_back({entry.key, std::move(histogram)});
          break;
        }
      }
    }
  }
}

/// False if nothing was recorded.
bool TableBuffer::read_histogram(TableEntry& entry, HistogramData& out) {
  const std::uint64_t cycle = entry.histogram_cycle.fetch_add(1, std::memory_order_acq_rel);
  std::int64_t zeros = 0;
  double sum = 0, min = 0, max = 0;
  bool noted = false;
  std::vector<std::int64_t> total;
  int first = entry.taken_first;
  total.reserve(entry.taken_buckets.size());
  total.resize(entry.taken_buckets.size());
  constexpr int width = HistogramScheme::per_octave;
  cell_registry().for_each_shard(entry.slot, [&](HistogramShard& shard) {
    shard.for_each_row([&](std::size_t octave, HistogramShard::Row& row) {
      const int begin = static_cast<int>(octave) * width;
      if (total.empty()) first = begin;
      if (begin < first) {
        total.insert(total.begin(), static_cast<std::size_t>(first - begin), 0);
        first = begin;
      }
      const auto at = static_cast<std::size_t>(begin - first);
      if (total.size() < at + width) total.resize(at + width);
      for (std::size_t i = 0; i < row.size(); ++i) total[at + i] += row[i].load(std::memory_order_relaxed);
    });
    zeros += shard.zeros.load(std::memory_order_relaxed);
    sum += shard.sum.load(std::memory_order_relaxed);
    if (shard.cycle.load(std::memory_order_acquire) != cycle) return;
    const double least = shard.min.load(std::memory_order_relaxed), most = shard.max.load(std::memory_order_relaxed);
    min = noted ? std::min(min, least) : least;
    max = noted ? std::max(max, most) : most;
    noted = true;
  });
  std::vector<std::int64_t> added = total;
  const auto shift = static_cast<std::size_t>(entry.taken_buckets.empty() ? 0 : entry.taken_first - first);
  for (std::size_t i = 0; i < entry.taken_buckets.size(); ++i) added[shift + i] -= entry.taken_buckets[i];
  HistogramAccess::fill(out, added, first, zeros - entry.taken_zeros, sum - entry.taken_sum);
  HistogramAccess::bound(out, min, max);
  if (out.count() == 0) return false;  // a sum without its count waits for it
  entry.taken_buckets = std::move(total);
  entry.taken_first = first;
  entry.taken_zeros = zeros;
  entry.taken_sum = sum;
  return true;
}

/// What has been added so far is in no payload.
void TableBuffer::skip(TableEntry& entry) {
  std::vector<Payload::Item> nowhere;
  read_numbers({{&entry, false, true, false, false}}, {}, false, nowhere);
}

/// Lets go of entries that nobody used in the cycle that has ended.
void TableBuffer::retire(const std::vector<Reading>& readings) {
  constexpr std::size_t batch = 256;
  std::vector<TableEntry*> retired;
  retired.reserve(batch);
  std::size_t next = 0;
  while (next < readings.size()) {
    {
      BufferLock lock(mutex_);
      for (; next < readings.size() && retired.size() < batch; ++next) {
        TableEntry* const entry = readings[next].entry;
        if (!readings[next].idle || readings[next].claimed || counted(*entry) || entry->refs.load(std::memory_order_acquire) != 1) continue;
        if (entry->kind == NumberKind::counter && entry->slot != no_cell) --cell_keys_;
        stats_.invalid_values += entry->invalid.load(std::memory_order_relaxed);
        stats_.dropped_items += entry->lost.load(std::memory_order_relaxed);
        entries_.erase(entry->key);
        retired.push_back(entry);
      }
    }
    for (TableEntry* entry : retired) entry->unref();
    retired.clear();
  }
}

void TableBuffer::merge_back(Payload payload) noexcept {
  for (Payload::Item& item : payload.items) {
    bool conflict = false;
    WEIR_TRY {
      BufferLock lock(mutex_);
      if (!instance_.valid() || is_disabled(item.key)) continue;
      const std::size_t index = item.data.index();
      if (index <= 2) {
        constexpr NumberKind kinds[] = {NumberKind::counter, NumberKind::gauge, NumberKind::histogram};
        TableEntry* const entry = find_or_make(kinds[index], item.key, cell_keys_ < max_cell_keys, conflict);
        if (entry != nullptr && claim(*entry)) merge_number(*entry, item.data);
      } else {
        merge_value(item.key, item.data, conflict);
      }
    }
    WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
    if (conflict) log_conflict(item.key);
  }
}

void TableBuffer::merge_number(TableEntry& entry, TelemetryData& data) {
  if (const auto* const counter = std::get_if<TelemetryCounter>(&data)) {
    entry.shared.fetch_add(*counter, std::memory_order_relaxed);
  } else if (const auto* const gauge = std::get_if<TelemetryGauge>(&data)) {
    if (!entry.set.load(std::memory_order_acquire)) entry.set_gauge(*gauge);
  } else {
    auto& histogram = std::get<TelemetryHistogram>(data);
    if (entry.unit.empty()) entry.unit = std::move(histogram.unit);
    if (!cell_registry().add_to_ended(entry.slot, [&](HistogramShard& shard) {
          HistogramAccess::add_to(shard, histogram.data, entry.histogram_cycle.load(std::memory_order_relaxed));
        }))
      refused_.fetch_add(1, std::memory_order_relaxed);
  }
}

void TableBuffer::merge_value(const std::string& key, TelemetryData& data, bool& conflict) {
  if (auto* const value = std::get_if<TelemetryValue>(&data)) {
    if (const auto now = values_.find(key); now != values_.end() && std::holds_alternative<TelemetryValue>(now->second)) return;  // newer
    return put_value(Put::value, key, {}, *value, conflict);
  }
  if (auto* const nested = std::get_if<TelemetryNested>(&data)) {
    for (auto& [subkey, value] : *nested) {
      const auto now = values_.find(key);
      const auto* const newer = now != values_.end() ? std::get_if<TelemetryNested>(&now->second) : nullptr;
      if (newer == nullptr || newer->find(subkey) == newer->end()) put_value(Put::nested, key, subkey, value, conflict);
    }
  } else if (auto* const list = std::get_if<TelemetryList>(&data)) {
    const auto size = [&] {
      const auto now = values_.find(key);
      const auto* const items = now != values_.end() ? std::get_if<TelemetryList>(&now->second) : nullptr;
      return items != nullptr ? items->size() : 0;
    };
    const std::size_t newer = size();
    for (const TelemetryValue& value : *list) put_value(Put::list_item, key, {}, value, conflict);
    if (size() <= newer || newer == 0) return;
    auto& items = std::get<TelemetryList>(values_.find(key)->second);
    std::rotate(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(newer), items.end());
  } else if (auto* const set = std::get_if<TelemetrySet>(&data)) {
    for (const auto& [value, count] : *set) {
      put_value(Put::set_item, key, {}, value, conflict);
      const auto now = values_.find(key);
      auto* const items = now != values_.end() ? std::get_if<TelemetrySet>(&now->second) : nullptr;
      if (items == nullptr) continue;
      if (const auto item = items->find(static_cast<TelemetryValueView>(value)); item != items->end()) item->second += count - 1;
    }
  }
}

void TableBuffer::apply(const Response& response) noexcept {
  if (response.disable_keys.empty() && response.enable_keys.empty()) return;
  bool full = false;
  WEIR_TRY {
    std::vector<TableEntry*> changed;
    std::lock_guard taking(taking_);
    {
      BufferLock lock(mutex_);
      for (const std::string& key : response.enable_keys) remote_disabled_.erase(key);
      for (const std::string& key : response.disable_keys) {
        if (remote_disabled_.size() < max_remote_keys)
          remote_disabled_.insert(key);
        else
          full = full || !remote_disabled_.contains(key);
      }
      drop_inherited_values();
      for (auto value = values_.begin(); value != values_.end();) {
        if (!is_disabled(value->first)) {
          ++value;
          continue;
        }
        drop_value(value->first, value->second);
        value = values_.erase(value);
      }
      changed.reserve(entries_.size());
      for (auto& [key, entry] : entries_) {
        const bool now = is_disabled(key);
        if (now == std::exchange(entry->disabled, now)) continue;
        if (now && !entry->pinned && entry->cycle == cycle_) {
          entry->cycle = 0;
          release(entry->key.size());
        }
        changed.push_back(entry);
      }
      next_epoch();
    }
    for (TableEntry* entry : changed) skip(*entry);
  }
  WEIR_CATCH_ALL { refused_.fetch_add(1, std::memory_order_relaxed); }
  if (full) options_.logger->log(Logger::Level::warning, "telemetry: the server disables more than 10000 keys; the rest stay enabled");
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
    entry->set.store(false, std::memory_order_relaxed);
    entry->taken = entry->taken_zeros = 0;
    entry->taken_sum = 0;
    for (std::int64_t& count : entry->taken_buckets) count = 0;
    if (entry->pinned) occupy(entry->key.size());
  }
  forked_ = true;
  ++cycle_;
  next_epoch();
  new (&collecting_) std::recursive_mutex;  // another thread may have held it
}

}  // namespace weir::inline v0::detail
