#include "collect/forest.hpp"

#include <algorithm>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace weir::inline v0::detail {

namespace {

using Index = std::uint32_t;
constexpr Index none = UINT32_MAX;

std::vector<Index> find_parents(const std::vector<Span>& spans) {
  std::unordered_map<std::string_view, Index> by_id;
  by_id.reserve(spans.size());
  for (Index i = 0; i < spans.size(); ++i) by_id.emplace(spans[i].id, i);
  std::vector<Index> parents(spans.size(), none);
  for (Index i = 0; i < spans.size(); ++i) {
    if (spans[i].parent_id.empty()) continue;
    if (const auto parent = by_id.find(spans[i].parent_id); parent != by_id.end()) parents[i] = parent->second;
  }
  return parents;
}

/// Makes the first span (in index order) of every cycle a root; returns those.
std::vector<Index> cut_cycles(std::vector<Index>& parents) {
  std::vector<Index> cut;
  std::vector<Index> visit(parents.size(), none);  // the walk that came by
  for (Index walk = 0; walk < parents.size(); ++walk) {
    Index at = walk;
    while (at != none && visit[at] == none) {
      visit[at] = walk;
      at = parents[at];
    }
    if (at == none || visit[at] != walk) continue;
    Index first = at;
    for (Index i = parents[at]; i != at; i = parents[i]) first = std::min(first, i);
    parents[first] = none;
    cut.push_back(first);
  }
  return cut;
}

/// The level of each span, 0 for roots, and its parent moved up where the level would be max_span_depth or more.
std::vector<Index> find_levels(std::vector<Index>& parents, std::uint32_t& flattened) {
  std::vector<Index> levels(parents.size(), none);
  std::vector<Index> path;
  for (Index i = 0; i < parents.size(); ++i) {
    for (Index at = i; at != none && levels[at] == none; at = parents[at]) path.push_back(at);
    for (; !path.empty(); path.pop_back()) {
      const Index at = path.back();
      if (parents[at] == none) {
        levels[at] = 0;
      } else if (levels[parents[at]] + 1 < max_span_depth) {
        levels[at] = levels[parents[at]] + 1;
      } else {
        levels[at] = levels[parents[at]];
        parents[at] = parents[parents[at]];
        ++flattened;
      }
    }
  }
  return levels;
}

}  // namespace

Forest build_forest(std::vector<Span> spans) {
  Forest forest;
  std::sort(spans.begin(), spans.end(),
            [](const Span& a, const Span& b) { return std::tie(a.start_time, a.id) < std::tie(b.start_time, b.id); });
  std::vector<Index> parents = find_parents(spans);
  for (const Index root : cut_cycles(parents)) {
    spans[root].parent_id.clear();
    ++forest.cycles;
  }
  const std::vector<Index> levels = find_levels(parents, forest.flattened);

  std::vector<std::vector<Index>> by_level;
  for (Index i = 0; i < spans.size(); ++i) {
    if (by_level.size() <= levels[i]) by_level.resize(levels[i] + 1);
    by_level[levels[i]].push_back(i);
  }
  for (std::size_t level = by_level.size(); level-- > 0;) {  // lowest first, so that what moves up is whole
    for (const Index i : by_level[level]) {
      auto& siblings = parents[i] == none ? forest.roots : spans[parents[i]].children;
      siblings.push_back(std::move(spans[i]));
    }
  }
  for (const Span& root : forest.roots) forest.orphans += root.parent_id.empty() ? 0 : 1;
  return forest;
}

Forest count_forest(std::vector<ForestNode> nodes) {
  std::sort(nodes.begin(), nodes.end(),
            [](const ForestNode& a, const ForestNode& b) { return std::tie(a.start_time, a.id) < std::tie(b.start_time, b.id); });
  std::vector<std::pair<std::uint64_t, Index>> by_id;
  by_id.reserve(nodes.size());
  for (Index i = 0; i < nodes.size(); ++i) by_id.emplace_back(nodes[i].id, i);
  std::sort(by_id.begin(), by_id.end());
  Forest forest;
  std::vector<Index> parents(nodes.size(), none);
  for (Index i = 0; i < nodes.size(); ++i) {
    if (!nodes[i].has_parent) continue;
    const auto found = std::lower_bound(by_id.begin(), by_id.end(), std::pair<std::uint64_t, Index>{nodes[i].parent_id, 0});
    if (found != by_id.end() && found->first == nodes[i].parent_id) {
      parents[i] = found->second;
    } else {
      ++forest.orphans;
    }
  }
  forest.cycles = static_cast<std::uint32_t>(cut_cycles(parents).size());
  find_levels(parents, forest.flattened);
  return forest;
}

}  // namespace weir::inline v0::detail
