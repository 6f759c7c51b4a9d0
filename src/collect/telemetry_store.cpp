#include "weir/collect/telemetry_store.hpp"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "collect/telemetry_backend.hpp"
#include "text/json.hpp"
#include "text/json_depth.hpp"
#include "text/utf8.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

namespace {

using nlohmann::json;

constexpr std::size_t max_key = 256;       // bytes, of a series
constexpr std::size_t max_update_id = 64;  // bytes
constexpr std::chrono::seconds full_pause{60};

Error bad_update(std::string message) { return Error{std::make_error_code(std::errc::invalid_argument), std::move(message)}; }

std::string error_json(std::string_view message) {
  std::string text = "{\"error\":";
  detail::append_json_string(text, message);
  return text + "}";
}

/// The numbers of an update's data, by their keys.
class Numbers {
 public:
  Numbers(std::vector<detail::TelemetryUpdate::Number>& numbers, std::size_t limit) : numbers_(numbers), limit_(limit) {}

  void add(const std::string& key, const json& value) {
    if (value.is_object()) {
      for (const auto& [name, nested] : value.items()) number(key, name, nested);
    } else {
      number(key, {}, value);
    }
  }

  std::uint64_t dropped() const { return dropped_; }

 private:
  void number(const std::string& key, std::string_view name, const json& value) {
    if (!value.is_number()) return;
    if (key.size() + (name.empty() ? 0 : 1 + name.size()) > max_key || numbers_.size() >= limit_) {
      ++dropped_;
      return;
    }
    std::string full = key;
    if (!name.empty()) full.append(".").append(name);
    const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<std::uint64_t>() <= INT64_MAX);
    numbers_.push_back({std::move(full), fits ? TelemetryNumber(value.get<std::int64_t>()) : TelemetryNumber(value.get<double>())});
  }

  std::vector<detail::TelemetryUpdate::Number>& numbers_;
  std::size_t limit_;
  std::uint64_t dropped_ = 0;
};

/// The body as JSON, its invalid UTF-8 repaired.
Result<json> parse(std::string_view body) {
  if (detail::json_depth(body) > detail::max_json_depth)
    return bad_update("the body is nested deeper than " + std::to_string(detail::max_json_depth) + " levels");
  const auto parsed = [](std::string_view text) -> Result<json> {
    try {
      return json::parse(text);
    } catch (const json::exception&) {
      return bad_update("the body is no JSON");
    }
  };
  Result<json> document = parsed(body);
  if (!document && !detail::valid_utf8(body)) document = parsed(detail::repair_utf8(body));
  if (document && !document->is_object()) return bad_update("the body is no JSON object");
  return document;
}

/// Checks the members and says what is wrong with one.
Result<detail::TelemetryUpdate> update_of(const InstanceId& id, const json& document, Timestamp now) {
  const auto wrong_member = [](std::string_view name, std::string_view should) {
    return bad_update("member \"" + std::string(name) + "\" should be " + std::string(should));
  };
  const auto text_of = [&](const char* name) -> const std::string* {
    const auto member = document.find(name);
    return member != document.end() ? member->get_ptr<const std::string*>() : nullptr;
  };
  detail::TelemetryUpdate update;
  const std::string* const given = text_of("instance_id");
  if (given == nullptr) return wrong_member("instance_id", "there, and a string");
  update.instance = InstanceId::parse(*given);
  if (!update.instance.valid()) return wrong_member("instance_id", "a UUID");
  if (update.instance != id) return wrong_member("instance_id", "the id in the path");
  update.received = update.time = now;
  if (document.contains("timestamp")) {
    const std::string* const text = text_of("timestamp");
    const auto time = text != nullptr ? parse_time(*text) : Result<Timestamp>(bad_update(""));
    if (!time) return wrong_member("timestamp", "a time, as 2026-01-02T15:04:05Z");
    update.time = std::min(*time, now);
  }
  if (document.contains("update_id")) {
    const std::string* const text = text_of("update_id");
    if (text == nullptr || text->empty() || text->size() > max_update_id) return wrong_member("update_id", "a string of 1 to 64 bytes");
    update.update_id = *text;
  }
  if (const auto data = document.find("data"); data != document.end() && !data->is_object()) return wrong_member("data", "an object");
  return update;
}

}  // namespace

struct TelemetryStore::State {
  TelemetryStoreOptions options;
  Logger& logger;
  mutable std::mutex mutex;
  // Guarded by mutex.
  std::unique_ptr<detail::TelemetryBackend> backend;
  TelemetryStoreStats counters;
  bool failing = false;  // and it has been said

  TelemetryAnswer reject(int status, std::string_view message) {
    std::lock_guard lock(mutex);
    ++counters.rejected;
    return {status, error_json(message)};
  }

  TelemetryAnswer unavailable(const std::string& why) {
    if (!std::exchange(failing, true)) logger.log(Logger::Level::warning, why + "; updates are answered 503 until it works again");
    ++counters.failed;
    return {503, error_json("the update cannot be stored now. Try again later"), full_pause};
  }

  TelemetryAnswer store(const detail::TelemetryUpdate& update, std::uint64_t dropped_numbers, std::string answer) {
    std::lock_guard lock(mutex);
    const Result<detail::TelemetryAdded> added = backend->add(update);
    if (!added) return unavailable(added.error().message);
    if (std::exchange(failing, false)) logger.log(Logger::Level::warning, "telemetry updates are stored again");
    if (added->duplicate) {
      ++counters.duplicates;
    } else {
      ++counters.updates;
      counters.dropped_numbers += dropped_numbers;
    }
    counters.evicted_instances += added->evicted_instances;
    counters.evicted_updates += added->evicted_updates;
    return {200, std::move(answer)};
  }
};

TelemetryStore::TelemetryStore(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
TelemetryStore::TelemetryStore(TelemetryStore&&) noexcept = default;
TelemetryStore& TelemetryStore::operator=(TelemetryStore&&) noexcept = default;
TelemetryStore::~TelemetryStore() = default;

Result<TelemetryStore> TelemetryStore::open(TelemetryStoreOptions options) {
  if (options.max_instances == 0 || options.max_updates == 0 || options.max_instance_bytes == 0 || options.max_bytes == 0 ||
      options.max_age <= std::chrono::seconds{0}) {
    return bad_update("cannot open a telemetry store: each of its bounds must be at least 1");
  }
  options.max_age = std::min(options.max_age, std::chrono::seconds{std::chrono::hours{24 * 36500}});
  Logger& logger = options.logger != nullptr ? *options.logger : stderr_logger();
  std::unique_ptr<State> state(new State{.options = std::move(options), .logger = logger, .mutex = {}, .backend = nullptr, .counters = {}});
  if (state->options.path.empty()) {
    state->backend = detail::make_memory_backend(state->options);
  } else {
    auto backend = detail::open_sqlite_backend(state->options);
    if (!backend) return backend.error();
    state->backend = std::move(*backend);
  }
  return TelemetryStore(std::move(state));
}

TelemetryAnswer TelemetryStore::receive(const InstanceId& id, std::string_view body, const Response& response, Timestamp now) {
  State& state = *state_;
  try {
    Result<json> document = parse(body);
    if (!document) return state.reject(400, document.error().message);
    Result<detail::TelemetryUpdate> update = update_of(id, *document, now);
    if (!update) return state.reject(400, update.error().message);
    update->expect_next = now + response.next_update;
    (*document)["expect_next"] = format_time(update->expect_next);
    Numbers numbers(update->numbers, state.options.max_numbers);
    if (const auto data = document->find("data"); data != document->end())
      for (const auto& [key, value] : data->items()) numbers.add(key, value);
    // "a.b" and b of a are one series; the first of them counts.
    std::stable_sort(update->numbers.begin(), update->numbers.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto repeated =
        std::unique(update->numbers.begin(), update->numbers.end(), [](const auto& a, const auto& b) { return a.key == b.key; });
    const auto dropped = numbers.dropped() + static_cast<std::uint64_t>(update->numbers.end() - repeated);
    update->numbers.erase(repeated, update->numbers.end());
    update->json = document->dump(-1, ' ', false, json::error_handler_t::replace);
    *document = {};
    if (update->bytes() > std::min(state.options.max_bytes, state.options.max_instance_bytes))
      return state.reject(413, "the update is larger than what is kept of an instance");
    return state.store(*update, dropped, response.to_json());
  } catch (const std::bad_alloc&) {
    std::lock_guard lock(state.mutex);
    return state.unavailable("out of memory for a telemetry update");
  }
}

Result<std::vector<TelemetryInstance>> TelemetryStore::instances(std::size_t limit, std::size_t offset) const {
  std::lock_guard lock(state_->mutex);
  return state_->backend->instances(limit, offset);
}

Result<std::optional<TelemetryInstance>> TelemetryStore::instance(const InstanceId& id) const {
  std::lock_guard lock(state_->mutex);
  return state_->backend->instance(id);
}

Result<std::vector<std::string>> TelemetryStore::keys(const InstanceId& id, std::size_t limit, std::string_view after) const {
  std::lock_guard lock(state_->mutex);
  return state_->backend->keys(id, limit, after);
}

Result<std::string> TelemetryStore::last_update(const InstanceId& id) const {
  std::lock_guard lock(state_->mutex);
  return state_->backend->last_update(id);
}

Result<TelemetrySeries> TelemetryStore::series(const InstanceId& id, std::string_view key, std::optional<Timestamp> since,
                                               std::size_t limit) const {
  std::lock_guard lock(state_->mutex);
  return state_->backend->series(id, key, since, limit);
}

TelemetryStoreStats TelemetryStore::stats() const {
  std::lock_guard lock(state_->mutex);
  TelemetryStoreStats stats = state_->counters;
  if (const auto totals = state_->backend->totals()) {
    stats.instances = totals->instances;
    stats.updates_kept = totals->updates;
    stats.bytes = totals->bytes;
  }
  return stats;
}

std::string TelemetryStoreStats::to_json() const {
  std::string text = "{";
  const auto add = [&](std::string_view name, std::uint64_t count) {
    if (text.size() > 1) text += ',';
    detail::append_json_string(text, name);
    text += ':';
    detail::append_integer(text, count);
  };
  add("updates", updates);
  add("duplicates", duplicates);
  add("rejected", rejected);
  add("failed", failed);
  add("evicted_instances", evicted_instances);
  add("evicted_updates", evicted_updates);
  add("dropped_numbers", dropped_numbers);
  add("instances", instances);
  add("updates_kept", updates_kept);
  add("bytes", bytes);
  return text + "}";
}

}  // namespace weir::inline v0
