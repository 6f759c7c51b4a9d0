#include "collect/trace_row.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "collect/forest.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::string_view opening = "[\n", between = ",\n", closing = "\n]";

template <class Each>
void for_each_span(const std::vector<Span>& roots, Each each) {
  std::vector<const Span*> left;
  for (const Span& root : roots) left.push_back(&root);
  while (!left.empty()) {
    const Span& span = *left.back();
    left.pop_back();
    for (const Span& child : span.children) left.push_back(&child);
    each(span);
  }
}

/// Appends the spans of trees, without their children.
void flatten(std::vector<Span> roots, std::vector<Span>& out) {
  while (!roots.empty()) {
    Span span = std::move(roots.back());
    roots.pop_back();
    std::vector<Span> children = std::exchange(span.children, {});
    std::move(children.begin(), children.end(), std::back_inserter(roots));
    out.push_back(std::move(span));
  }
}

}  // namespace

TraceRow row_of(const Trace& trace, Timestamp completed) {
  TraceRow row;
  row.trace_id = trace.trace_id;
  row.service = trace.service;
  row.completed = completed;
  row.late = trace.late;
  if (!trace.roots.empty()) {
    row.name = trace.roots.front().name;
    row.start = Timestamp::max();
    Timestamp end = Timestamp::min();
    for_each_span(trace.roots, [&](const Span& span) {
      row.start = std::min(row.start, span.start_time);
      end = std::max(end, span.end_time);
      ++row.spans;
      if (span.unfinished()) ++row.unfinished;
      row.failed = row.failed || span.failed();
    });
    // Times are whatever services say: 584 years between two of them do not fit.
    const std::int64_t from = row.start.time_since_epoch().count();
    std::int64_t nanos = 0;
    if (__builtin_sub_overflow(end.time_since_epoch().count(), from, &nanos)) nanos = INT64_MAX;
    row.duration = std::chrono::nanoseconds{std::max<std::int64_t>(nanos, 0)};
  }
  row.roots = opening;
  for (const Span& root : trace.roots) {
    if (&root != &trace.roots.front()) row.roots += between;
    row.roots += to_json(root);
  }
  row.roots += closing;
  return row;
}

Result<Trace> trace_of(const TraceRow& row) {
  const auto wrong = [](std::string message) { return Error{std::make_error_code(std::errc::bad_message), std::move(message)}; };
  Trace trace;
  trace.trace_id = row.trace_id;
  trace.service = row.service;
  trace.late = row.late;
  std::string_view left = row.roots;
  if (!left.starts_with(opening) || !left.ends_with(closing)) return wrong("no array of spans, one on each line");
  left.remove_prefix(opening.size());
  left.remove_suffix(std::min(left.size(), closing.size()));
  while (!left.empty()) {
    const std::size_t end = left.find(between);
    Result<Span> root = parse_span(left.substr(0, end));
    if (!root) return root.error();
    trace.roots.push_back(std::move(*root));
    left.remove_prefix(end == left.npos ? left.size() : end + between.size());
  }
  for_each_span(trace.roots, [&](const Span& span) {
    ++trace.spans;
    if (span.unfinished()) ++trace.unfinished;
  });
  if (trace.spans == 0) return wrong("no spans");
  return trace;
}

TraceRow merged(const TraceRow& known, const TraceRow& more) {
  Result<Trace> before = trace_of(known), after = trace_of(more);
  if (!before || !after) return more;
  std::vector<Span> spans, older;
  flatten(std::move(after->roots), spans);
  flatten(std::move(before->roots), older);
  std::unordered_set<std::string_view> ids;
  for (const Span& span : spans) ids.insert(span.id);
  const auto known_only = std::remove_if(older.begin(), older.end(), [&](const Span& span) { return ids.contains(span.id); });
  std::move(older.begin(), known_only, std::back_inserter(spans));
  Trace whole;
  whole.trace_id = known.trace_id;
  whole.service = known.service;
  whole.late = std::max(known.late, more.late);
  whole.roots = build_forest(std::move(spans)).roots;
  return row_of(whole, known.completed);
}

}  // namespace weir::inline v0::detail
