// The span store when memory ends: a span that finds none is not kept, and what is kept is as it came.
#include <map>
#include <string>
#include <vector>

#include "collect/span_store.hpp"
#include "support/catch.hpp"
#include "support/memory.hpp"

using namespace weir;
using weir::detail::SpanStore;

namespace {

struct Pair {
  Event start, end;
};

/// Spans of one trace, whose parents, names and keys change all the time; keys come often enough to be kept once.
std::vector<Pair> pairs() {
  std::vector<Pair> all;
  for (std::uint64_t i = 1; i <= 60; ++i) {
    const std::string id = SpanId{i}.hex(), parent = i % 7 == 0 ? "" : SpanId{1 + i / 3 % 9}.hex();
    const std::string name = "name " + std::to_string(i % 11) + std::string(i % 40, 'n');
    const StringAttributes attributes{{"key " + std::to_string(i / 5), "v"}, {std::string(20 + i % 8, 'k'), std::string(i, 'x')}};
    all.push_back({Event::span_start(id, TraceId{1, 2}.hex(), parent, name, SpanKind::sql, Timestamp{}),
                   Event::span_end(id, TraceId{1, 2}.hex(), Timestamp{}, attributes)});
  }
  return all;
}

void collect(const Span& span, std::map<std::string, Span>& out) {
  for (const Span& child : span.children) collect(child, out);
  out[span.id] = span;
  out[span.id].children.clear();
}

}  // namespace

TEST_CASE("whichever allocation fails, the spans that are kept have their own parents, names and attributes") {
  const std::vector<Pair> all = pairs();
  std::vector<detail::AttributeView> before, after;
  before.reserve(8);
  after.reserve(8);
  bool failed = true;
  for (long successes = 0; failed; ++successes) {
    SpanStore store(TraceStoreOptions{});
    const std::uint32_t service = store.intern_service("shop");
    std::size_t refused = 0;
    testing::failed_allocations = 0;
    testing::one_fails = true;
    testing::allocations_left = successes;
    for (const auto& [start, end] : all) {
      const detail::EventView first = detail::view_of(start, before), second = detail::view_of(end, after);
      try {
        store.apply(first, second, service, {});
      } catch (const std::bad_alloc&) {
        ++refused;
      }
    }
    testing::allocations_left = -1;
    testing::one_fails = false;
    failed = testing::failed_allocations != 0;
    std::map<std::string, Span> kept;
    for (const auto& [trace, roots] : store.traces()) {
      for (const Span& root : roots) collect(root, kept);
    }
    CHECK(kept.size() + refused >= all.size());
    for (const auto& [start, end] : all) {
      const auto found = kept.find(start.span_id);
      if (found == kept.end()) continue;
      INFO("after " << successes << " allocations, span " << start.span_id);
      CHECK((found->second.parent_id == start.parent_id || start.parent_id == start.span_id));
      CHECK(found->second.name == start.name);
      CHECK(found->second.attrs == end.attrs);
    }
  }
}
