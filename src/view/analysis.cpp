#include "weir/view/analysis.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <limits>
#include <list>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "view/durations.hpp"
#include "weir/core/text.hpp"
#include "weir/view/sql_normalize.hpp"

namespace weir::inline v0 {

namespace {

using detail::Durations;

constexpr std::size_t max_query = 64u << 10;  // bytes of a query that are looked at

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

/// The value of the first of these attributes that is there and not empty.
template <std::size_t N>
std::string_view attribute(const Span& span, const std::array<std::string_view, N>& keys) {
  for (const std::string_view key : keys) {
    const auto found = span.attrs.find(key);
    if (found != span.attrs.end() && !found->second.empty()) return found->second;
  }
  return {};
}

std::string cut(std::string_view text, std::size_t max) {
  if (text.size() <= max) return std::string(text);
  std::size_t end = max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "…";
}

struct Endpoint {
  std::string_view method, path;
};

/// "GET /orders" is a method and a path, "load cart" is a path.
Endpoint split_name(std::string_view name) {
  const std::size_t space = name.find(' ');
  const std::string_view first = name.substr(0, space);
  const bool method = !first.empty() && std::all_of(first.begin(), first.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  if (!method || space == name.npos) return {{}, name};
  const std::size_t path = name.find_first_not_of(' ', space);
  return path == name.npos ? Endpoint{{}, name} : Endpoint{first, name.substr(path)};
}

Endpoint http_endpoint(const Span& span) {
  constexpr std::array<std::string_view, 3> methods{"http.request.method", "http.method", "method"};
  constexpr std::array<std::string_view, 1> routes{"http.route"};
  constexpr std::array<std::string_view, 3> paths{"url.path", "http.target", "path"};
  const Endpoint named = split_name(span.name);
  Endpoint endpoint{attribute(span, methods), attribute(span, routes)};
  if (endpoint.method.empty()) endpoint.method = named.method;
  if (endpoint.path.empty() && !named.method.empty()) endpoint.path = named.path;
  if (endpoint.path.empty()) endpoint.path = attribute(span, paths);
  if (endpoint.path.empty()) endpoint.path = span.name;
  if (endpoint.path.starts_with('/')) endpoint.path = endpoint.path.substr(0, endpoint.path.find_first_of("?#"));
  return endpoint;
}

/// The span that stands for the whole trace.
const Span& endpoint_span(const Span& root) {
  if (root.kind == SpanKind::http) return root;
  const auto child = std::find_if(root.children.begin(), root.children.end(), [](const Span& span) { return span.kind == SpanKind::http; });
  return child == root.children.end() ? root : *child;
}

/// Groups by their names, as far as there is room.
class Groups {
 public:
  struct Group {
    std::string method, name;
    Durations durations;
  };
  static constexpr std::uint32_t other = std::numeric_limits<std::uint32_t>::max();

  explicit Groups(const AnalysisOptions& options) : options_(options) {}

  /// `other` when there is no room.
  std::uint32_t find(std::string_view method, std::string_view name) {
    std::string key = cut(name, options_.max_text);
    const std::size_t name_size = key.size();
    if (!method.empty()) key.append(1, '\0').append(cut(method, options_.max_text));
    const auto found = by_key_.find(key);
    if (found != by_key_.end()) return found->second;
    if (groups_.size() >= options_.max_groups) return other;
    const auto index = static_cast<std::uint32_t>(groups_.size());
    groups_.push_back({method.empty() ? "" : key.substr(name_size + 1), key.substr(0, name_size), {}});
    by_key_.emplace(std::move(key), index);
    return index;
  }
  void add(std::uint32_t group, const Span& span) {
    if (!span.unfinished()) (group == other ? rest_ : groups_[group].durations).add(span.duration());
  }
  const std::deque<Group>& all() const { return groups_; }
  const Durations& rest() const { return rest_; }

 private:
  const AnalysisOptions& options_;
  std::deque<Group> groups_;
  std::unordered_map<std::string, std::uint32_t, TextHash, std::equal_to<>> by_key_;
  Durations rest_;
};

AnalysisTiming timing_of(const Durations& durations) {
  AnalysisTiming timing{durations.count(), durations.total(), {}, durations.percentile(95), durations.max()};
  if (timing.count != 0)
    timing.average = std::chrono::nanoseconds{static_cast<std::int64_t>(static_cast<std::uint64_t>(timing.total.count()) / timing.count)};
  return timing;
}

std::uint64_t value_of(const AnalysisTiming& timing, AnalysisSort sort) {
  switch (sort) {
    case AnalysisSort::total: return static_cast<std::uint64_t>(timing.total.count());
    case AnalysisSort::average: return static_cast<std::uint64_t>(timing.average.count());
    case AnalysisSort::p95: return static_cast<std::uint64_t>(timing.p95.count());
    case AnalysisSort::count: break;
  }
  return timing.count;
}

/// Whether `a` repeats its query more than `b`.
bool repeats_more(const RepeatedQueryRow& a, const RepeatedQueryRow& b, AnalysisSort sort) {
  switch (sort) {
    case AnalysisSort::total: return a.queries > b.queries;
    case AnalysisSort::average: return a.average() > b.average();
    case AnalysisSort::p95: return a.maximum > b.maximum;
    case AnalysisSort::count: break;
  }
  return a.traces > b.traces;
}

/// Sorts and cuts; how many rows it cut.
template <class Row, class Before>
std::size_t arrange(std::vector<Row>& rows, std::size_t limit, Before before) {
  std::stable_sort(rows.begin(), rows.end(), before);
  if (limit == 0 || rows.size() <= limit) return 0;
  const std::size_t cut_off = rows.size() - limit;
  rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(limit), rows.end());
  return cut_off;
}

}  // namespace

struct Analysis::Impl {
  static constexpr std::uint32_t no_endpoint = Groups::other - 1;

  /// A trace that late parts may come of.
  struct Recent {
    std::size_t id = 0;  // hash of the trace id
    std::uint32_t endpoint = no_endpoint;
    std::vector<std::pair<std::size_t, std::uint64_t>> queries;  // hash and how often, sorted
  };
  struct Repeated {
    std::string query;
    std::uint64_t traces = 0, queries = 0, maximum = 0;
  };
  struct RepeatedKey {
    std::uint32_t endpoint;
    std::size_t query;  // hash
    bool operator==(const RepeatedKey&) const = default;
  };
  struct RepeatedHash {
    std::size_t operator()(const RepeatedKey& key) const { return key.query ^ (key.endpoint * std::size_t{0x9e3779b97f4a7c15}); }
  };
  using Counts = std::unordered_map<std::string, std::uint64_t, TextHash, std::equal_to<>>;

  explicit Impl(AnalysisOptions given) : options(std::move(given)) {}

  AnalysisOptions options;
  std::uint64_t traces = 0, spans = 0, late_parts = 0, unfinished = 0;
  Groups endpoints{options}, sql{options}, functions{options};
  std::unordered_map<RepeatedKey, Repeated, RepeatedHash> repeated;
  std::uint64_t repeated_other = 0;
  std::list<Recent> recent;  // the one that came first is in front
  std::unordered_map<std::size_t, std::list<Recent>::iterator> recent_by_id;
  std::size_t recent_queries = 0;

  void add(const Span& tree) {
    const std::size_t id = TextHash()(tree.trace_id);
    const auto known = recent_by_id.find(id);
    const bool part = !tree.parent_id.empty() && tree.kind != SpanKind::http && known != recent_by_id.end();
    const Counts counts = take_spans(tree);
    if (part) {
      ++late_parts;
      count_queries(*known->second, counts);
    } else {
      ++traces;
      if (known != recent_by_id.end()) forget(known->second);
      recent.push_back({id, take_endpoint(tree), {}});
      recent_by_id[id] = std::prev(recent.end());
      count_queries(recent.back(), counts);
    }
    while (recent.size() > options.max_recent_traces || recent_queries > options.max_recent_queries) forget(recent.begin());
  }

  void forget(std::list<Recent>::iterator trace) {
    recent_queries -= trace->queries.size();
    recent_by_id.erase(trace->id);
    recent.erase(trace);
  }

  std::uint32_t take_endpoint(const Span& root) {
    if (!root.parent_id.empty() && root.kind == SpanKind::sql) return no_endpoint;
    const Span& span = endpoint_span(root);
    const Endpoint endpoint = span.kind == SpanKind::http ? http_endpoint(span) : Endpoint{{}, span.name};
    const std::uint32_t group = endpoints.find(endpoint.method, options.path_groups.find(endpoint.path).value_or(endpoint.path));
    endpoints.add(group, span);
    return group;
  }

  /// Into the tables of queries and functions. How often each query occurs.
  Counts take_spans(const Span& tree) {
    constexpr std::array<std::string_view, 3> texts{"db.query.text", "db.statement", "query"};
    Counts counts;
    std::vector<const Span*> pending{&tree};
    while (!pending.empty()) {
      const Span& span = *pending.back();
      pending.pop_back();
      for (const Span& child : span.children) pending.push_back(&child);
      ++spans;
      if (span.unfinished()) ++unfinished;
      if (span.kind == SpanKind::http) continue;
      if (span.kind != SpanKind::sql) {
        functions.add(functions.find({}, span.name), span);
        continue;
      }
      std::string_view text = attribute(span, texts);
      if (text.empty()) text = span.name;
      const std::string query = cut(normalize_sql(text.substr(0, max_query)), options.max_text);
      sql.add(sql.find({}, query), span);
      ++counts[query];
    }
    return counts;
  }

  void count_queries(Recent& trace, const Counts& counts) {
    std::vector<std::pair<std::size_t, std::uint64_t>> added;
    for (const auto& [query, times] : counts) {
      const std::size_t hash = TextHash()(query);
      const auto before = std::lower_bound(trace.queries.begin(), trace.queries.end(), std::pair{hash, std::uint64_t{0}});
      const bool known = before != trace.queries.end() && before->first == hash;
      const std::uint64_t had = known ? before->second : 0;
      if (known)
        before->second += times;
      else
        added.emplace_back(hash, times);
      count_repeated({trace.endpoint, hash}, query, had, had + times);
    }
    recent_queries += added.size();
    trace.queries.insert(trace.queries.end(), added.begin(), added.end());
    std::sort(trace.queries.begin(), trace.queries.end());
  }

  /// A trace had the query `before` times and now has it `after` times.
  void count_repeated(RepeatedKey key, const std::string& query, std::uint64_t before, std::uint64_t after) {
    if (after < repeated_query_threshold) return;
    const bool first = before < repeated_query_threshold;
    auto found = repeated.find(key);
    if (found == repeated.end()) {
      if (repeated.size() >= options.max_groups) return void(repeated_other += first ? 1 : 0);
      found = repeated.try_emplace(key, Repeated{query}).first;
    }
    Repeated& row = found->second;
    row.traces += first ? 1 : 0;
    row.queries += first ? after : after - before;
    row.maximum = std::max(row.maximum, after);
  }

  AnalysisTable<CallRow> calls(const Groups& groups, AnalysisOrder order) const {
    AnalysisTable<CallRow> table;
    for (const Groups::Group& group : groups.all()) {
      if (group.durations.count() != 0) table.rows.push_back({group.name, timing_of(group.durations)});
    }
    table.other = timing_of(groups.rest());
    table.left_out = arrange(table.rows, order.limit, [&](const CallRow& a, const CallRow& b) {
      const std::uint64_t left = value_of(a.timing, order.sort), right = value_of(b.timing, order.sort);
      return left != right ? left > right : a.name < b.name;
    });
    return table;
  }

  AnalysisTable<EndpointRow> endpoint_table(AnalysisOrder order) const {
    AnalysisTable<EndpointRow> table;
    for (const Groups::Group& group : endpoints.all()) {
      if (group.durations.count() != 0) table.rows.push_back({group.method, group.name, timing_of(group.durations)});
    }
    table.other = timing_of(endpoints.rest());
    table.left_out = arrange(table.rows, order.limit, [&](const EndpointRow& a, const EndpointRow& b) {
      const std::uint64_t left = value_of(a.timing, order.sort), right = value_of(b.timing, order.sort);
      return left != right ? left > right : std::tie(a.path, a.method) < std::tie(b.path, b.method);
    });
    return table;
  }

  void put_repeated(AnalysisReport& report, AnalysisOrder order) const {
    for (const auto& [key, row] : repeated) {
      const bool known = key.endpoint < endpoints.all().size();
      const Groups::Group* const endpoint = known ? &endpoints.all()[key.endpoint] : nullptr;
      const std::string path = known ? endpoint->name : key.endpoint == no_endpoint ? "(unknown)" : "(other)";
      report.repeated.push_back({known ? endpoint->method : "", path, row.query, row.traces, row.queries, row.maximum});
    }
    report.repeated_left_out = arrange(report.repeated, order.limit, [&](const RepeatedQueryRow& a, const RepeatedQueryRow& b) {
      if (repeats_more(a, b, order.sort)) return true;
      if (repeats_more(b, a, order.sort)) return false;
      return std::tie(a.path, a.method, a.query) < std::tie(b.path, b.method, b.query);
    });
    report.repeated_other = repeated_other;
  }
};

Analysis::Analysis(AnalysisOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Analysis::~Analysis() = default;
Analysis::Analysis(Analysis&&) noexcept = default;
Analysis& Analysis::operator=(Analysis&&) noexcept = default;

void Analysis::add(const Span& tree) { impl_->add(tree); }

AnalysisReport Analysis::report(AnalysisOrder order) const {
  AnalysisReport report;
  report.sort = order.sort;
  report.traces = impl_->traces;
  report.spans = impl_->spans;
  report.late_parts = impl_->late_parts;
  report.unfinished = impl_->unfinished;
  report.endpoints = impl_->endpoint_table(order);
  report.sql = impl_->calls(impl_->sql, order);
  report.functions = impl_->calls(impl_->functions, order);
  impl_->put_repeated(report, order);
  return report;
}

}  // namespace weir::inline v0
