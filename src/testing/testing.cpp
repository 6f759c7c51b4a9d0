#include "weir/testing.hpp"

#include <algorithm>
#include <cstddef>
#include <unordered_map>

#include "weir/core/text.hpp"

namespace weir::inline v0::testing {

namespace {

/// Calls visit(span) for every one, a parent before its children.
template <class Visit>
void for_each(const std::vector<Span>& spans, Visit&& visit) {
  std::vector<const Span*> waiting;
  const auto add = [&](const std::vector<Span>& siblings) {
    for (auto span = siblings.rbegin(); span != siblings.rend(); ++span) waiting.push_back(&*span);
  };
  add(spans);
  while (!waiting.empty()) {
    const Span& span = *waiting.back();
    waiting.pop_back();
    visit(span);
    add(span.children);
  }
}

template <class Condition>
std::vector<Span> all_that(const std::vector<Span>& spans, Condition&& condition) {
  std::vector<Span> found;
  for_each(spans, [&](const Span& span) {
    if (condition(span)) found.push_back(span);
  });
  return found;
}

void append_line(std::string& out, const Span& span, std::size_t level, const TreeParts& parts) {
  out.append(2 * level, ' ');
  detail::append_printable(out, span.name);
  if (parts.kinds) out += " [" + to_string(span.kind) + ']';
  if (parts.attributes && !span.attrs.empty()) {
    const char* before = " {";
    for (const auto& [key, value] : span.attrs) {
      out += before;
      detail::append_printable(out, key);
      out += '=';
      detail::append_printable(out, value);
      before = ", ";
    }
    out += '}';
  }
  out += '\n';
}

}  // namespace

std::string tree(const std::vector<Span>& spans, TreeParts parts) {
  std::vector<const Span*> ordered;
  for_each(spans, [&](const Span& span) { ordered.push_back(&span); });
  std::stable_sort(ordered.begin(), ordered.end(), [](const Span* a, const Span* b) { return a->start_time < b->start_time; });

  const auto name = [](const std::string& trace, const std::string& id) { return trace + '/' + id; };
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < ordered.size(); ++i) index.emplace(name(ordered[i]->trace_id, ordered[i]->id), i);
  std::vector<std::vector<std::size_t>> children(ordered.size());
  std::vector<std::size_t> roots, rest;
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    const auto parent = index.find(name(ordered[i]->trace_id, ordered[i]->parent_id));
    const bool has_parent = parent != index.end() && parent->second != i;
    (has_parent ? children[parent->second] : roots).push_back(i);
    if (has_parent) rest.push_back(i);
  }

  std::string out;
  std::vector<bool> written(ordered.size());
  const auto write = [&](std::size_t root) {
    std::vector<std::pair<std::size_t, std::size_t>> waiting{{root, 0}};  // and its level
    while (!waiting.empty()) {
      const auto [span, level] = waiting.back();
      waiting.pop_back();
      if (written[span]) continue;
      written[span] = true;
      append_line(out, *ordered[span], level, parts);
      for (auto child = children[span].rbegin(); child != children[span].rend(); ++child) waiting.emplace_back(*child, level + 1);
    }
  };
  for (const std::size_t root : roots) write(root);
  for (const std::size_t in_a_cycle : rest) write(in_a_cycle);
  return out;
}

std::optional<Span> find(const std::vector<Span>& spans, std::string_view name) {
  std::optional<Span> found;
  for_each(spans, [&](const Span& span) {
    if (!found && span.name == name) found = span;
  });
  return found;
}

std::vector<Span> find_all(const std::vector<Span>& spans, std::string_view name) {
  return all_that(spans, [&](const Span& span) { return span.name == name; });
}

std::vector<Span> find_all(const std::vector<Span>& spans, std::string_view key, std::string_view value) {
  return all_that(spans, [&](const Span& span) {
    const auto attribute = span.attrs.find(key);
    return attribute != span.attrs.end() && attribute->second == value;
  });
}

}  // namespace weir::inline v0::testing
