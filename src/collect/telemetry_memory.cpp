// The backend of a TelemetryStore that keeps updates in memory.
#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "collect/telemetry_backend.hpp"

namespace weir::inline v0::detail {

namespace {

class MemoryBackend final : public TelemetryBackend {
 public:
  explicit MemoryBackend(const TelemetryStoreOptions& options) : options_(options) {}

  Result<TelemetryAdded> add(const TelemetryUpdate& update) override {
    if (!update.update_id.empty()) {
      const auto known = instances_.find(update.instance);
      if (known != instances_.end() && known->second.update_ids.contains(update.update_id)) return TelemetryAdded{.duplicate = true};
    }
    Instance& instance = instances_[update.instance];
    if (instance.about.updates == 0) {
      instance.about.id = update.instance;
      instance.about.first_seen = instance.about.last_seen = update.received;
    }
    silent_longest_.erase({instance.about.last_seen, update.instance});
    instance.about.last_seen = std::max(instance.about.last_seen, update.received);
    silent_longest_.emplace(instance.about.last_seen, update.instance);
    instance.about.expect_next = update.expect_next;
    ++instance.about.updates;
    ++instance.about.kept;
    const std::uint64_t number = ++last_number_;
    if (!update.update_id.empty()) instance.update_ids.insert(update.update_id);
    for (const auto& [key, value] : update.numbers) instance.series[key].emplace(std::pair(update.time, number), value);
    instance.updates.emplace(number, Kept{update.received, update.time, update.bytes(), update.update_id, update.json, keys_of(update)});
    instance.about.bytes += update.bytes();
    order_.emplace(number, update.instance);
    bytes_ += update.bytes();
    return evict(update.instance, update.received);
  }

  Result<TelemetryTotals> totals() override { return TelemetryTotals{instances_.size(), order_.size(), bytes_}; }

  Result<std::vector<TelemetryInstance>> instances(std::size_t limit, std::size_t offset) override {
    std::vector<TelemetryInstance> all;
    all.reserve(instances_.size());
    for (const auto& [id, instance] : instances_) all.push_back(instance.about);
    std::sort(all.begin(), all.end(), [](const TelemetryInstance& a, const TelemetryInstance& b) {
      return a.last_seen != b.last_seen ? a.last_seen > b.last_seen : a.id < b.id;
    });
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(offset, all.size())));
    all.resize(std::min(limit, all.size()));
    return all;
  }

  Result<std::optional<TelemetryInstance>> instance(const InstanceId& id) override {
    const auto found = instances_.find(id);
    return found == instances_.end() ? std::nullopt : std::optional(found->second.about);
  }

  Result<std::vector<std::string>> keys(const InstanceId& id, std::size_t limit, std::string_view after) override {
    std::vector<std::string> keys;
    const auto found = instances_.find(id);
    if (found == instances_.end()) return keys;
    for (auto series = found->second.series.upper_bound(after); series != found->second.series.end() && keys.size() < limit; ++series)
      keys.push_back(series->first);
    return keys;
  }

  Result<std::string> last_update(const InstanceId& id) override {
    const auto found = instances_.find(id);
    if (found == instances_.end() || found->second.updates.empty()) return std::string();
    return found->second.updates.rbegin()->second.json;
  }

  Result<TelemetrySeries> series(const InstanceId& id, std::string_view key, std::optional<Timestamp> since, std::size_t limit) override {
    TelemetrySeries result;
    const auto found = instances_.find(id);
    if (found == instances_.end()) return result;
    const auto series = found->second.series.find(key);
    if (series == found->second.series.end()) return result;
    const auto& points = series->second;
    auto point = since ? points.lower_bound({*since, 0}) : points.begin();
    if (!since && points.size() > limit) {
      result.more = true;
      point = std::prev(points.end(), static_cast<std::ptrdiff_t>(limit));
    }
    for (; point != points.end() && result.points.size() < limit; ++point) result.points.push_back({point->first.first, point->second});
    if (point != points.end()) result.more = true;
    return result;
  }

 private:
  struct Kept {
    Timestamp received, time;
    std::uint64_t bytes = 0;
    std::string update_id, json;
    std::vector<std::string> keys;
  };
  struct Instance {
    TelemetryInstance about;
    std::map<std::uint64_t, Kept> updates;  // by their number
    std::set<std::string, std::less<>> update_ids;
    std::map<std::string, std::map<std::pair<Timestamp, std::uint64_t>, TelemetryNumber>, std::less<>> series;
  };

  static std::vector<std::string> keys_of(const TelemetryUpdate& update) {
    std::vector<std::string> keys;
    for (const auto& number : update.numbers) keys.push_back(number.key);
    return keys;
  }

  void remove(Instance& instance, std::uint64_t number) {
    const auto kept = instance.updates.find(number);
    for (const std::string& key : kept->second.keys) {
      const auto series = instance.series.find(key);
      series->second.erase({kept->second.time, number});
      if (series->second.empty()) instance.series.erase(series);
    }
    instance.update_ids.erase(kept->second.update_id);
    instance.about.bytes -= kept->second.bytes;
    --instance.about.kept;
    bytes_ -= kept->second.bytes;
    instance.updates.erase(kept);
    order_.erase(number);
  }

  void remove(std::map<InstanceId, Instance>::iterator instance, TelemetryAdded& added) {
    added.evicted_updates += instance->second.updates.size();
    while (!instance->second.updates.empty()) remove(instance->second, instance->second.updates.begin()->first);
    silent_longest_.erase({instance->second.about.last_seen, instance->first});
    instances_.erase(instance);
    ++added.evicted_instances;
  }

  TelemetryAdded evict(const InstanceId& id, Timestamp now) {
    TelemetryAdded added;
    Instance& own = instances_[id];
    while (own.updates.size() > options_.max_updates || own.about.bytes > options_.max_instance_bytes) {
      remove(own, own.updates.begin()->first);
      ++added.evicted_updates;
    }
    const Timestamp oldest = now - options_.max_age;
    for (auto first = order_.begin(); first != order_.end(); first = order_.begin()) {
      Instance& instance = instances_[first->second];
      if (bytes_ <= options_.max_bytes && instance.updates.begin()->second.received >= oldest) break;
      remove(instance, first->first);
      ++added.evicted_updates;
    }
    for (auto silent = silent_longest_.begin(); silent != silent_longest_.end();) {
      const auto [last_seen, other] = *silent++;
      if (other == id) continue;  // the one that is speaking stays
      if (last_seen >= oldest && instances_.size() <= options_.max_instances) break;
      remove(instances_.find(other), added);
    }
    return added;
  }

  const TelemetryStoreOptions options_;
  std::map<InstanceId, Instance> instances_;
  std::map<std::uint64_t, InstanceId> order_;                  // of all updates, the oldest first
  std::set<std::pair<Timestamp, InstanceId>> silent_longest_;  // by last_seen
  std::uint64_t last_number_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<TelemetryBackend> make_memory_backend(const TelemetryStoreOptions& options) {
  return std::make_unique<MemoryBackend>(options);
}

}  // namespace weir::inline v0::detail
