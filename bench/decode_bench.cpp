// The collector's decoder: what an event line costs on each of its paths. The lines are those of bench.pipeline.

#include <cstdint>
#include <string>
#include <vector>

#include "support/bench.hpp"
#include "trace/event_decoder.hpp"
#include "weir/core/ids.hpp"

namespace {

using weir::detail::EventDecoder;
using weir::detail::EventView;

enum class Order { original, reversed_order };
enum class Path { plain, simdjson, whole };

weir::Event event_of(std::uint64_t i, bool ends) {
  std::uint64_t random = i;
  const auto id = [&] { return weir::SpanId{weir::detail::split_mix(random)}.hex(); };
  const std::string trace = id() + id(), span = id(), user = "user-" + id().substr(8);
  const weir::Timestamp time{std::chrono::nanoseconds{1'800'000'000'123'456'789 + static_cast<std::int64_t>(i) * 12'345}};
  if (!ends) return weir::Event::span_start(span, trace, id(), "SELECT orders", weir::SpanKind::sql, time);
  return weir::Event::span_end(span, trace, time, {{"user", user}, {"order", "order-" + user.substr(7)}, {"row", "7"}});
}

/// Each field once, the last first.
std::string reversed(const weir::Event& event) {
  const auto text = [](const std::string& value) { return '"' + value + '"'; };
  std::string line = "{";
  if (!event.attrs.empty()) {
    line += "\"attrs\":{";
    for (const auto& [key, value] : event.attrs) line += (line.back() == '{' ? "" : ",") + text(key) + ':' + text(value);
    line += "},";
  }
  line += "\"time\":" + text(weir::format_time(event.time)) + ",\"kind\":" + std::to_string(static_cast<int>(event.kind));
  line += ",\"name\":" + text(event.name);
  if (!event.parent_id.empty()) line += ",\"parent_id\":" + text(event.parent_id);
  line += ",\"trace_id\":" + text(event.trace_id) + ",\"span_id\":" + text(event.span_id);
  return line + ",\"type\":" + std::to_string(static_cast<int>(event.type)) + '}';
}

template <Path path, Order order, bool ends>
void decode(benchmark::State& state) {
  std::vector<std::string> lines;
  for (std::uint64_t i = 0; i < 512; ++i) {
    const weir::Event event = event_of(i, ends);
    lines.push_back(order == Order::original ? to_json(event) : reversed(event));
  }
  EventDecoder decoder;
  std::uint64_t refused = 0;
  const auto take = [&](std::uint64_t i) {
    const std::string& line = lines[i % lines.size()];
    const EventView* event = nullptr;
    if constexpr (path == Path::plain) event = decoder.decode_plain(line);
    if constexpr (path == Path::simdjson) event = decoder.decode_simdjson(line);
    if constexpr (path == Path::whole) event = decoder.decode_whole(line).value_or(nullptr);
    refused += event == nullptr;
    bench::escape(event);
  };
  for (std::uint64_t i = 0; i < lines.size(); ++i) take(i);  // for the memory that it keeps
  bench::measure(state, take);
  if (refused != 0) state.SkipWithError("a line went another way");
}

/// nullptr: not built with it.
template <Order order, bool ends>
auto by_simdjson() {
  return weir::detail::SimdReader::available ? decode<Path::simdjson, order, ends> : nullptr;
}

}  // namespace

std::vector<bench::Row> bench::rows() {
  using enum Order;
  using enum Path;
  return {
      {.name = "plain, start", .run = decode<plain, original, false>, .peers = {"nlohmann, start"}, .goal_ns = 50},
      {.name = "plain, end with 3 attributes",
       .run = decode<plain, original, true>,
       .peers = {"nlohmann, end with 3 attributes"},
       .goal_ns = 60},
      {.name = "simdjson, start", .run = by_simdjson<original, false>(), .peers = {"nlohmann, start"}},
      {.name = "simdjson, end with 3 attributes", .run = by_simdjson<original, true>(), .peers = {"nlohmann, end with 3 attributes"}},
      {.name = "simdjson, start reversed", .run = by_simdjson<reversed_order, false>(), .peers = {"nlohmann, start reversed"}},
      {.name = "simdjson, end reversed", .run = by_simdjson<reversed_order, true>(), .peers = {"nlohmann, end reversed"}},
      {.name = "nlohmann, start", .run = decode<whole, original, false>, .may_allocate = true},
      {.name = "nlohmann, end with 3 attributes", .run = decode<whole, original, true>, .may_allocate = true},
      {.name = "nlohmann, start reversed", .run = decode<whole, reversed_order, false>, .may_allocate = true},
      {.name = "nlohmann, end reversed", .run = decode<whole, reversed_order, true>, .may_allocate = true},
  };
}
