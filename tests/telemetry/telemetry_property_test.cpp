// Random single-threaded programs against a naive model: all calls, handles that come and go, payloads that are taken and merged
// back, servers that disable and enable. After each step what the buffer says of itself is what the model says.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/telemetry.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

enum class Kind { counter, gauge, histogram, value, nested, list, set };

/// A scalar or a document, as text that differs if they do.
std::string written(const detail::TelemetryValueView& view) {
  switch (view.value.type()) {
    case AttributeValue::Type::string: return (view.document ? "j" : "s") + std::string(view.value.text());
    case AttributeValue::Type::integer: return "i" + std::to_string(view.value.integer());
    case AttributeValue::Type::real: return "r" + std::to_string(view.value.real());
    case AttributeValue::Type::boolean: return view.value.boolean() ? "true" : "false";
  }
  return "?";
}
std::size_t bytes_of(const std::string& value) { return value[0] == 's' || value[0] == 'j' ? value.size() - 1 : 8; }

/// What a key holds.
struct Data {
  Kind kind = Kind::counter;
  std::int64_t amount = 0;
  std::optional<double> gauge{};
  std::uint64_t count = 0;
  double sum = 0, min = 0, max = 0;
  std::string value{};
  std::map<std::string, std::string> nested{};
  std::vector<std::string> list{};
  std::map<std::string, std::uint64_t> set{};

  void record(double number) { record(1, number, number, number); }
  void record(std::uint64_t times, double total, double least, double most) {
    min = count == 0 ? least : std::min(min, least);
    max = count == 0 ? most : std::max(max, most);
    count += times;
    sum += total;
  }
};

Data read(const TelemetryData& from) {
  Data data;
  data.kind = static_cast<Kind>(from.index());
  if (const auto* const counter = std::get_if<TelemetryCounter>(&from)) data.amount = *counter;
  if (const auto* const gauge = std::get_if<TelemetryGauge>(&from)) data.gauge = *gauge;
  if (const auto* const h = std::get_if<TelemetryHistogram>(&from)) {
    std::uint64_t buckets = h->data.zero_count();
    for (const std::uint64_t each : h->data.counts()) buckets += each;
    REQUIRE(buckets == h->data.count());
    data.record(h->data.count(), h->data.sum(), h->data.min(), h->data.max());
  }
  if (const auto* const value = std::get_if<TelemetryValue>(&from)) data.value = written(*value);
  if (const auto* const nested = std::get_if<TelemetryNested>(&from))
    for (const auto& [subkey, value] : *nested) data.nested[subkey] = written(value);
  if (const auto* const list = std::get_if<TelemetryList>(&from))
    for (const TelemetryValue& value : *list) data.list.push_back(written(value));
  if (const auto* const set = std::get_if<TelemetrySet>(&from))
    for (const auto& [value, times] : *set) data.set[written(value)] = times;
  return data;
}

bool same(const Data& a, const Data& b) {
  return a.kind == b.kind && a.amount == b.amount && a.gauge == b.gauge && a.count == b.count && a.min == b.min && a.max == b.max &&
         a.value == b.value && a.nested == b.nested && a.list == b.list && a.set == b.set &&
         std::abs(a.sum - b.sum) <= 1e-9 * std::abs(b.sum);
}

/// The buffer, written down as plainly as can be.
struct Model {
  struct Number {
    Data data;
    int handles = 0;
    bool pinned = false, claimed = false;
    std::optional<double> last{};  // a gauge's, of whatever cycle
  };
  std::size_t max_items, max_bytes;
  std::set<std::string> local{}, remote{};
  std::map<std::string, Number> numbers{};
  std::map<std::string, Data> values{};
  std::map<std::string, double> known{};  // gauges that nobody has, but the buffer does until the cycle ends
  std::uint64_t dropped = 0, conflicts = 0, invalid = 0;

  bool disabled(const std::string& key) const {
    const std::string prefix = key.substr(0, key.find(':'));
    return local.contains(key) || remote.contains(key) || local.contains(prefix) || remote.contains(prefix);
  }
  bool counted(const std::string& key) const {
    const auto found = numbers.find(key);
    return found != numbers.end() && (found->second.pinned || found->second.claimed);
  }
  std::pair<std::size_t, std::size_t> account() const {
    std::size_t items = 0, bytes = 0;
    const auto item = [&](std::size_t size) { ++items, bytes += size + 64; };
    for (const auto& [key, number] : numbers)
      if (number.pinned || number.claimed) item(key.size());
    for (const auto& [key, data] : values) {
      bytes += key.size();
      if (data.kind == Kind::value) item(bytes_of(data.value));
      for (const auto& [subkey, value] : data.nested) item(subkey.size() + bytes_of(value));
      for (const auto& value : data.list) item(bytes_of(value));
      for (const auto& [value, times] : data.set) item(bytes_of(value));
    }
    return {items, bytes};
  }
  bool room(std::size_t size) {
    const auto [items, bytes] = account();
    if (items < max_items && bytes + size + 64 <= max_bytes) return true;
    ++dropped;
    return false;
  }
  /// The number of a key, which takes its place; nullptr if it cannot be.
  Number* number(Kind kind, const std::string& key) {
    if (values.contains(key) || (counted(key) && numbers[key].data.kind != kind)) {
      ++conflicts;
      return nullptr;
    }
    if (!counted(key)) {
      if (kind != Kind::gauge) known.erase(key);
      if (!room(key.size())) return nullptr;
      numbers[key] = Number{};
      numbers[key].data.kind = kind;
      if (known.contains(key)) numbers[key].last = known[key];
    }
    return &numbers[key];
  }
  void add(const std::string& key, std::int64_t amount) {
    if (disabled(key)) return;
    if (Number* const counter = number(Kind::counter, key)) {
      counter->claimed = true;
      counter->data.amount += amount;
    }
  }
  bool handle(Kind kind, const std::string& key) {
    Number* const made = number(kind, key);
    if (made == nullptr) return false;
    made->pinned = true;
    ++made->handles;
    return true;
  }
  void put(Kind kind, const std::string& key, const std::string& subkey, const std::string& value) {
    if (disabled(key)) return;
    const auto found = values.find(key);
    if (counted(key) || (found != values.end() && found->second.kind != kind)) {
      ++conflicts;
      return;
    }
    const std::size_t key_bytes = found == values.end() ? key.size() : 0;
    const auto overwrite = [&](std::string& old) {
      if (account().second - bytes_of(old) + bytes_of(value) > max_bytes && bytes_of(value) > bytes_of(old))
        ++dropped;
      else
        old = value;
    };
    if (found != values.end() && kind == Kind::value) return overwrite(found->second.value);
    if (found != values.end() && kind == Kind::nested && found->second.nested.contains(subkey))
      return overwrite(found->second.nested[subkey]);
    if (found != values.end() && kind == Kind::set && found->second.set.contains(value)) {
      ++found->second.set[value];
      return;
    }
    if (!room(key_bytes + (kind == Kind::nested ? subkey.size() : 0) + bytes_of(value))) return;
    Data& data = values[key];
    data.kind = kind;
    if (kind == Kind::value) data.value = value;
    if (kind == Kind::nested) data.nested[subkey] = value;
    if (kind == Kind::list) data.list.push_back(value);
    if (kind == Kind::set) data.set[value] = 1;
  }
  std::map<std::string, Data> take() {
    std::map<std::string, Data> taken = std::exchange(values, {});
    known.clear();
    for (auto number = numbers.begin(); number != numbers.end();) {
      Data& data = number->second.data;
      const bool something = data.kind == Kind::counter ? number->second.claimed || data.amount != 0 : data.gauge || data.count != 0;
      if (something && !disabled(number->first)) taken[number->first] = data;
      Data empty;
      empty.kind = data.kind;
      data = empty;
      if (number->second.claimed && number->second.last) known[number->first] = *number->second.last;
      number->second.claimed = false;
      number->second.pinned = number->second.handles > 0;
      number = number->second.pinned ? std::next(number) : numbers.erase(number);
    }
    return taken;
  }
  void merge_back(const Payload& payload) {
    for (const Payload::Item& item : payload.items) {
      const std::string& key = item.key;
      if (disabled(key)) continue;
      const Data old = read(item.data);
      if (old.kind <= Kind::histogram) {
        Number* const now = number(old.kind, key);
        if (now == nullptr) continue;
        now->claimed = true;
        now->data.amount += old.amount;
        if (!now->last) now->last = old.gauge;
        now->data.gauge = now->last;
        if (old.count != 0) now->data.record(old.count, old.sum, old.min, old.max);
        continue;
      }
      const auto here = [&] { return values.contains(key) && values[key].kind == old.kind; };
      if (old.kind == Kind::value && !here()) put(old.kind, key, {}, old.value);
      for (const auto& [subkey, value] : old.nested)
        if (!here() || !values[key].nested.contains(subkey)) put(old.kind, key, subkey, value);
      if (old.kind == Kind::list) {
        const std::size_t newer = here() ? values[key].list.size() : 0;
        for (const std::string& value : old.list) put(old.kind, key, {}, value);
        if (here())
          std::rotate(values[key].list.begin(), values[key].list.begin() + static_cast<std::ptrdiff_t>(newer), values[key].list.end());
      }
      if (const auto* const set = std::get_if<TelemetrySet>(&item.data)) {
        for (const auto& [item_value, times] : *set) {  // in the order of the payload: the bound may fall in the middle
          const std::string value = written(item_value);
          put(old.kind, key, {}, value);
          if (here() && values[key].set.contains(value)) values[key].set[value] += times - 1;
        }
      }
    }
  }
  void apply(const Response& response) {
    std::map<std::string, bool> before;
    for (const auto& [key, number] : numbers) before[key] = disabled(key);
    for (const std::string& key : response.enable_keys) remote.erase(key);
    for (const std::string& key : response.disable_keys) remote.insert(key);
    std::erase_if(values, [&](const auto& value) { return disabled(value.first); });
    for (auto& [key, number] : numbers) {
      if (disabled(key) == before[key]) continue;
      Data empty;
      empty.kind = number.data.kind;
      number.data = empty;
      if (disabled(key) && !number.pinned) number.claimed = false;
    }
    std::erase_if(numbers, [&](const auto& number) {
      const bool goes = !number.second.pinned && !number.second.claimed;
      if (goes && number.second.last) known[number.first] = *number.second.last;
      return goes;
    });
  }
};

/// A handle and its model's key; a handle that could not be had has none.
struct Handle {
  Kind kind;
  std::optional<std::string> key;
  Counter counter{};
  Gauge gauge{};
  Histogram histogram{};
};

class Program {
 public:
  explicit Program(std::uint64_t seed) : random_(seed) {
    const std::size_t items = one_in(2) ? 1'000 : 1 + below(30);
    const std::size_t bytes = one_in(2) ? 1'000'000 : 200 + below(4'000);
    model_.max_items = items;
    model_.max_bytes = bytes;
    if (one_in(2)) model_.local = {"local", "a:b"};
    telemetry_ =
        buffer({.disabled_keys = {model_.local.begin(), model_.local.end()}, .max_items = items, .max_bytes = bytes, .logger = &silence()});
    steps_ = 50 + below(300);
  }
  void run() {
    for (std::uint64_t i = 0; i < steps_; ++i) {
      step();
      const TelemetryStats stats = telemetry_->stats();
      const auto [items, bytes] = model_.account();
      REQUIRE(stats.items == items);
      REQUIRE(stats.bytes == bytes);
      REQUIRE(stats.dropped_items == model_.dropped);
      REQUIRE(stats.type_conflicts == model_.conflicts);
      REQUIRE(stats.invalid_values == model_.invalid);
    }
    take();
    take();
  }

 private:
  std::uint64_t below(std::uint64_t end) { return random_() % end; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::string key() {
    static const std::vector<std::string> keys = {"a", "b", "a:b", "a:c", "b:x:y", "local", "local:x", "", "a rather long key of its own"};
    return keys[below(one_in(3) ? keys.size() : 4)];
  }
  /// Calls f with a value as it is given, and as it is written.
  template <class F>
  void with_value(F f) {
    static const std::string texts[] = {"", "x", "text", std::string(100, 'y')};
    static const std::string documents[] = {"{}", "[1]", "no document"};
    const std::string& text = texts[below(4)];
    const std::string& document = documents[below(3)];
    switch (below(5)) {
      case 0: return f(AttributeValue(text));
      case 1: return f(AttributeValue(static_cast<std::int64_t>(below(4))));
      case 2: return f(AttributeValue(static_cast<double>(below(4)) / 2));
      case 3: return f(AttributeValue(one_in(2)));
      default: return f(Json{document});
    }
  }
  void step() {
    const std::string k = key();
    const Telemetry& t = *telemetry_;
    switch (below(14)) {
      case 0: t.increment(k); return model_.add(k, 1);
      case 1:
      case 2: {
        const std::int64_t amount = static_cast<std::int64_t>(below(9)) - 4;
        t.add(k, amount);
        return model_.add(k, amount);
      }
      case 3: return with_value([&](auto value) { t.set(k, value), model_.put(Kind::value, k, {}, written(value)); });
      case 4: {
        const std::string subkey(below(3), 's');
        return with_value([&](auto value) { t.set_nested(k, subkey, value), model_.put(Kind::nested, k, subkey, written(value)); });
      }
      case 5: return with_value([&](auto value) { t.append(k, value), model_.put(Kind::list, k, {}, written(value)); });
      case 6: return with_value([&](auto value) { t.append_unique(k, value), model_.put(Kind::set, k, {}, written(value)); });
      case 7: return make_handle(k);
      case 8:
      case 9: return use_handle();
      case 10: return drop_handle();
      case 11: return one_in(2) ? take() : merge_back();
      case 12: {
        Response response;
        if (one_in(2)) response.disable_keys.push_back(one_in(2) ? k : k.substr(0, k.find(':')));
        if (one_in(2)) response.enable_keys.push_back(one_in(2) ? k : key());
        if (one_in(3)) response.enable_keys.assign(model_.remote.begin(), model_.remote.end());
        t.apply(response);
        model_.apply(response);
        REQUIRE(t.disabled(k) == model_.disabled(k));
        return;
      }
      default:
        if (!one_in(4)) return;
        t.reset();
        model_.take();
        return;
    }
  }
  void make_handle(const std::string& k) {
    Handle made{static_cast<Kind>(below(3)), {}};
    if (model_.handle(made.kind, k)) made.key = k;
    if (made.kind == Kind::counter) made.counter = telemetry_->counter(k);
    if (made.kind == Kind::gauge) made.gauge = telemetry_->gauge(k);
    if (made.kind == Kind::histogram) made.histogram = telemetry_->histogram(k);
    handles_.push_back(std::move(made));
  }
  void use_handle() {
    if (handles_.empty()) return;
    Handle& used = handles_[below(handles_.size())];
    Data nothing;
    const bool counts = used.key && !model_.disabled(*used.key);
    Data& data = counts ? model_.numbers[*used.key].data : nothing;
    const auto number = static_cast<double>(below(1'000)) / 8;
    switch (used.kind) {
      case Kind::counter: {
        const std::int64_t amount = static_cast<std::int64_t>(below(9)) - 4;
        used.counter.add(amount);
        data.amount += amount;
        return;
      }
      case Kind::gauge:
        if (!used.key) {
          used.gauge.set(number);
          used.gauge.add(number);
          return;
        }
        {
          std::optional<double>& last = model_.numbers[*used.key].last;
          if (one_in(2)) {
            used.gauge.add(number);
            last = last.value_or(0) + number;
          } else {
            used.gauge.set(number);
            last = number;
          }
          data.gauge = last;
        }
        return;
      default:
        if (one_in(10)) {
          used.histogram.record(-1.0);
          if (used.key) ++model_.invalid;
        } else {
          used.histogram.record(number);
          data.record(number);
        }
        return;
    }
  }
  void drop_handle() {
    if (handles_.empty()) return;
    Handle& dropped = handles_[below(handles_.size())];
    if (one_in(3)) {  // another like it
      Handle copy = dropped;
      if (copy.key) ++model_.numbers[*copy.key].handles;
      handles_.push_back(std::move(copy));
      return;
    }
    if (dropped.key) --model_.numbers[*dropped.key].handles;
    std::swap(dropped, handles_.back());
    handles_.pop_back();
  }
  void take() {
    Payload payload = telemetry_->take();
    const std::map<std::string, Data> expected = model_.take();
    std::set<std::string> seen;
    for (const Payload::Item& item : payload.items) {
      INFO("key " << item.key);
      REQUIRE(seen.insert(item.key).second);
      REQUIRE(expected.contains(item.key));
      REQUIRE(same(read(item.data), expected.at(item.key)));
    }
    REQUIRE(seen.size() == expected.size());
    if (kept_.size() < 3) kept_.push_back(std::move(payload));
  }
  void merge_back() {
    if (kept_.empty()) return;
    std::swap(kept_[below(kept_.size())], kept_.back());
    model_.merge_back(kept_.back());
    telemetry_->merge_back(std::move(kept_.back()));
    kept_.pop_back();
  }

  std::mt19937_64 random_;
  std::uint64_t steps_;
  std::optional<Telemetry> telemetry_{};
  Model model_{0, 0};
  std::vector<Handle> handles_{};
  std::vector<Payload> kept_{};
};

}  // namespace

TEST_CASE("a buffer does what a naive one does, whatever is called in whatever order") {
  for (std::uint64_t seed = 0; seed < 10'000; ++seed) {
    INFO("seed " << seed);
    Program(seed).run();
  }
}
