#include "weir/view/tree_assembler.hpp"

#include <algorithm>
#include <iterator>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace weir::inline v0 {

namespace {

bool earlier(const Span& a, const Span& b) { return a.start_time != b.start_time ? a.start_time < b.start_time : a.id < b.id; }

/// Takes a tree apart level by level; its destructor alone would recurse as deep as the tree is.
void dismantle(Span root) {
  std::vector<Span> spans = std::move(root.children);
  while (!spans.empty()) {
    std::vector<Span> children = std::move(spans.back().children);
    spans.pop_back();
    std::move(children.begin(), children.end(), std::back_inserter(spans));
  }
}

}  // namespace

struct TreeAssembler::Impl {
  struct Trace {
    std::string id;
    TimePoint touched;
    std::unordered_map<std::string, Span> waiting;                       // by id
    std::unordered_map<std::string, std::vector<std::string>> children;  // parent id -> ids in waiting
    std::unordered_set<std::string> out;                                 // ids that have come out
    std::size_t size() const { return waiting.size() + out.size(); }
  };
  using Traces = std::list<Trace>;

  std::function<void(const Span&)> on_tree;
  TreeAssemblerOptions options;
  TreeAssemblerStats counters;
  Traces traces;  // the one quiet for longest first
  std::unordered_map<std::string_view, Traces::iterator> by_id;
  std::size_t held = 0;  // sum of size()

  void emit(Span tree) {
    ++counters.trees;
    on_tree(tree);
    dismantle(std::move(tree));
  }

  /// Everything of `trace` that waits below `id`, as one tree. Requires: `id` waits.
  Span take(Trace& trace, const std::string& id) {
    struct Node {
      Span span;
      std::size_t parent;
    };
    std::vector<Node> nodes;
    const auto move_out = [&](const std::string& span_id, std::size_t parent) {
      auto found = trace.waiting.extract(span_id);
      if (found.empty()) return;  // met before: a cycle
      trace.out.insert(span_id);
      nodes.push_back({std::move(found.mapped()), parent});
    };
    move_out(id, 0);
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      auto children = trace.children.extract(nodes[i].span.id);
      if (children.empty()) continue;
      for (const std::string& child : children.mapped()) move_out(child, i);
    }
    counters.waiting -= nodes.size();
    // A child stands behind its parent: from the back, each node is whole before it moves into its parent.
    for (std::size_t i = nodes.size(); i-- > 0;) {
      std::vector<Span>& children = nodes[i].span.children;
      std::sort(children.begin(), children.end(), earlier);
      if (i > 0) nodes[nodes[i].parent].span.children.push_back(std::move(nodes[i].span));
    }
    return std::move(nodes.front().span);
  }

  /// Lets a trace go; what waits comes out in the order it started.
  void give_up(Traces::iterator trace) {
    std::vector<std::pair<Timestamp, std::string>> tops;
    for (const auto& [id, span] : trace->waiting) {
      if (!trace->waiting.contains(span.parent_id)) tops.emplace_back(span.start_time, id);
    }
    std::sort(tops.begin(), tops.end());
    for (const auto& [start, id] : tops) {
      ++counters.given_up;
      emit(take(*trace, id));
    }
    if (!trace->waiting.empty()) {  // cycles
      std::vector<std::pair<Timestamp, std::string>> rest;
      for (const auto& [id, span] : trace->waiting) rest.emplace_back(span.start_time, id);
      std::sort(rest.begin(), rest.end());
      for (const auto& [start, id] : rest) {
        if (!trace->waiting.contains(id)) continue;
        ++counters.given_up;
        emit(take(*trace, id));
      }
    }
    held -= trace->size();
    by_id.erase(trace->id);
    traces.erase(trace);
  }

  void add(Span span, TimePoint now) {
    advance(now);
    ++counters.spans;
    auto found = by_id.find(span.trace_id);
    if (found == by_id.end()) {
      traces.push_back({span.trace_id, now, {}, {}, {}});
      found = by_id.emplace(traces.back().id, std::prev(traces.end())).first;
    } else {
      traces.splice(traces.end(), traces, found->second);
    }
    Trace& trace = *found->second;
    trace.touched = now;
    if (trace.waiting.contains(span.id) || trace.out.contains(span.id)) {
      ++counters.duplicates;
      dismantle(std::move(span));
      return;
    }
    const std::string id = span.id;
    const bool root = span.parent_id.empty() || span.parent_id == span.id;
    const bool late = !root && trace.out.contains(span.parent_id);
    if (!root && !late) trace.children[span.parent_id].push_back(id);
    trace.waiting.emplace(id, std::move(span));
    ++counters.waiting;
    ++held;
    if (root || late) {
      if (late) ++counters.late;
      emit(take(trace, id));  // what leaves `waiting` is in `out`: `held` stays
    }
    while (held > options.max_spans || traces.size() > options.max_traces) give_up(traces.begin());
  }

  void advance(TimePoint now) {
    while (!traces.empty() && now - traces.front().touched >= options.max_age) give_up(traces.begin());
  }
};

TreeAssembler::TreeAssembler(std::function<void(const Span& tree)> on_tree, TreeAssemblerOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->on_tree = std::move(on_tree);
  impl_->options = options;
}
TreeAssembler::~TreeAssembler() = default;
TreeAssembler::TreeAssembler(TreeAssembler&&) noexcept = default;
TreeAssembler& TreeAssembler::operator=(TreeAssembler&&) noexcept = default;

void TreeAssembler::add(Span span, TimePoint now) { impl_->add(std::move(span), now); }
void TreeAssembler::advance(TimePoint now) { impl_->advance(now); }

void TreeAssembler::finish() {
  while (!impl_->traces.empty()) impl_->give_up(impl_->traces.begin());
}

TreeAssemblerStats TreeAssembler::stats() const { return impl_->counters; }

}  // namespace weir::inline v0
