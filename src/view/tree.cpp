#include "weir/view/tree.hpp"

#include <fmt/format.h>
#include <cstdint>
#include <vector>

#include "weir/core/text.hpp"

namespace weir::inline v0 {

namespace {

constexpr std::size_t max_indent = 64;  // levels; else a chain of n spans takes n² bytes

std::string_view colour_of(SpanKind kind) {
  switch (kind) {
    case SpanKind::http: return "\x1b[36m";
    case SpanKind::sql: return "\x1b[33m";
    case SpanKind::function: return "\x1b[35m";
  }
  return "";
}

constexpr std::string_view red = "\x1b[31m";
constexpr std::string_view plain = "\x1b[0m";

void append_coloured(std::string& out, std::string_view text, std::string_view colour) {
  if (colour.empty()) {
    out += text;
  } else {
    out.append(colour).append(text).append(plain);
  }
}

void append_span(std::string& out, const Span& span, TreeStyle style) {
  const std::string_view colour = style.colour ? colour_of(span.kind) : "";
  append_coloured(out, span.name.empty() ? "(unnamed)" : printable(span.name), colour);
  append_coloured(out, " [" + to_string(span.kind) + "]", colour);
  out += ' ';
  if (span.unfinished())
    append_coloured(out, "unfinished", style.colour ? red : "");
  else
    out += format_duration(span.duration());
  if (span.failed()) {
    const auto message = span.attrs.find("error.message");
    const std::string text = message == span.attrs.end() || message->second.empty() ? "error" : "error: " + printable(message->second);
    out += ' ';
    append_coloured(out, text, style.colour ? red : "");
  }
  out += '\n';
}

}  // namespace

std::string format_tree(const Span& root, TreeStyle style) {
  struct Level {
    const std::vector<Span>* spans;
    std::size_t next;
  };
  std::string out;
  append_span(out, root, style);
  std::string prefix;                     // of the level on top of the stack
  std::vector<std::size_t> prefix_sizes;  // of the levels below it
  std::vector<Level> stack{{&root.children, 0}};
  while (!stack.empty()) {
    Level& level = stack.back();
    if (level.next == level.spans->size()) {
      stack.pop_back();
      if (!prefix_sizes.empty()) {
        prefix.resize(prefix_sizes.back());
        prefix_sizes.pop_back();
      }
      continue;
    }
    const Span& span = (*level.spans)[level.next++];
    const bool last = level.next == level.spans->size();
    const std::size_t depth = stack.size();
    out += prefix;
    out += last ? "└── " : "├── ";
    if (depth > max_indent) out += fmt::format("(depth {}) ", depth);
    append_span(out, span, style);
    if (!span.children.empty()) {
      prefix_sizes.push_back(prefix.size());
      if (depth < max_indent) prefix += last ? "    " : "│   ";
      stack.push_back({&span.children, 0});
    }
  }
  return out;
}

std::string format_duration(std::chrono::nanoseconds duration) {
  const std::int64_t signed_count = duration.count();
  const std::string_view sign = signed_count < 0 ? "-" : "";
  const auto ns = signed_count < 0 ? -static_cast<std::uint64_t>(signed_count) : static_cast<std::uint64_t>(signed_count);
  if (ns < 1000) return fmt::format("{}{}ns", sign, ns);

  struct Unit {
    std::uint64_t size;
    std::string_view name;
  };
  constexpr std::uint64_t minute = 60'000'000'000;
  for (const Unit unit : {Unit{1000, "µs"}, Unit{1'000'000, "ms"}, Unit{1'000'000'000, "s"}}) {
    // Rounding may lift the number to more digits, or into the next unit: 9.996 is 10.0, 999.6µs is 1.00ms.
    for (std::uint64_t decimals = 2, scale = 100; decimals <= 2; --decimals, scale /= 10) {
      const std::uint64_t step = unit.size / scale;
      const std::uint64_t rounded = ns / step + (ns % step * 2 >= step ? 1 : 0);
      const bool seconds = unit.size == 1'000'000'000;
      if (rounded >= 1000 || (seconds && rounded * step >= minute)) continue;
      const std::uint64_t fraction = rounded % scale;
      if (decimals == 0) return fmt::format("{}{}{}", sign, rounded, unit.name);
      return fmt::format("{}{}.{:0{}}{}", sign, rounded / scale, fraction, decimals, unit.name);
    }
  }
  const std::uint64_t seconds = ns / 1'000'000'000 + (ns % 1'000'000'000 >= 500'000'000 ? 1 : 0);
  if (seconds < 3600) return fmt::format("{}{}m{:02}s", sign, seconds / 60, seconds % 60);
  const std::uint64_t minutes = seconds / 60 + (seconds % 60 >= 30 ? 1 : 0);
  return fmt::format("{}{}h{:02}m", sign, minutes / 60, minutes % 60);
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  detail::append_printable(out, text);
  return out;
}

}  // namespace weir::inline v0
