#pragma once
// A tracer into memory, and its spans by name.

#include <algorithm>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::testing {

struct TracedSpans {
  std::vector<Span> all() const { return sink.spans(); }
  /// The only one of this name.
  Span operator[](std::string_view name) const {
    const std::vector<Span> spans = all();
    const auto is_it = [&](const Span& span) { return span.name == name; };
    CAPTURE(name);
    REQUIRE(std::count_if(spans.begin(), spans.end(), is_it) == 1);
    return *std::find_if(spans.begin(), spans.end(), is_it);
  }

  InMemorySender sink;
  Tracer tracer{sink};
};

}  // namespace weir::testing
