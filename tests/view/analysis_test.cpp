#include "weir/view/analysis.hpp"

#include <malloc.h>
#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/sanitizers.hpp"
#include "weir/view/sql_normalize.hpp"

using namespace std::chrono_literals;
using nlohmann::json;
using weir::Analysis;
using weir::AnalysisOptions;
using weir::AnalysisReport;
using weir::AnalysisSort;
using weir::Span;
using weir::SpanKind;

namespace {

Span make(std::string name, SpanKind kind, std::chrono::nanoseconds duration, std::vector<Span> children = {}) {
  Span span;
  span.name = std::move(name);
  span.kind = kind;
  span.end_time = span.start_time + duration;
  span.children = std::move(children);
  return span;
}
Span http(std::string name, std::chrono::nanoseconds duration = 1ms, std::vector<Span> children = {}) {
  return make(std::move(name), SpanKind::http, duration, std::move(children));
}
Span sql(std::string name, std::chrono::nanoseconds duration = 1ms) { return make(std::move(name), SpanKind::sql, duration); }
Span function(std::string name, std::chrono::nanoseconds duration = 1ms, std::vector<Span> children = {}) {
  return make(std::move(name), SpanKind::function, duration, std::move(children));
}
Span in_trace(std::string id, Span span, std::string parent = {}) {
  span.trace_id = std::move(id);
  span.parent_id = std::move(parent);
  return span;
}
std::vector<Span> times(std::size_t n, const Span& span) { return std::vector<Span>(n, span); }

/// The analysis of traces of their own.
AnalysisReport report_of(const std::vector<Span>& trees, weir::AnalysisOrder order = {}, AnalysisOptions options = {}) {
  Analysis analysis(std::move(options));
  for (std::size_t i = 0; i < trees.size(); ++i) analysis.add(in_trace("t" + std::to_string(i), trees[i]));
  return analysis.report(order);
}

/// "METHOD path" of the only endpoint.
std::string endpoint_of(const Span& tree, AnalysisOptions options = {}) {
  const AnalysisReport report = report_of({tree}, {}, std::move(options));
  REQUIRE(report.endpoints.rows.size() == 1);
  return report.endpoints.rows[0].method + " " + report.endpoints.rows[0].path;
}

std::vector<std::string> names(const std::vector<weir::CallRow>& rows) {
  std::vector<std::string> result;
  for (const auto& row : rows) result.push_back(row.name);
  return result;
}

/// The p95 that the analysis gives for calls of these durations.
std::chrono::nanoseconds p95_of(const std::vector<std::chrono::nanoseconds>& durations) {
  Analysis analysis;
  for (const auto duration : durations) analysis.add(function("f", duration));
  return analysis.report().functions.rows.at(0).timing.p95;
}

}  // namespace

TEST_CASE("the endpoint of a trace is its root or a direct child of kind http, else the root's name") {
  CHECK(endpoint_of(http("GET /orders")) == "GET /orders");
  CHECK(endpoint_of(function("main", 5ms, {function("a"), http("POST /x", 2ms), http("GET /y")})) == "POST /x");
  CHECK(endpoint_of(function("main", 5ms, {function("a", 1ms, {http("GET /deep")})})) == " main");
  CHECK(endpoint_of(http("GET /outer", 5ms, {http("GET /inner")})) == "GET /outer");
  CHECK(endpoint_of(sql("select 1")) == " select 1");
  CHECK(endpoint_of(function("GET /no", 1ms)) == " GET /no");
  const AnalysisReport report = report_of({function("main", 5ms, {http("POST /x", 2ms)})});
  CHECK(report.endpoints.rows[0].timing.total == 2ms);  // of the span that is the endpoint
}

TEST_CASE("method and path come from attributes and names as instrumentations write them") {
  CHECK(endpoint_of(http("GET /orders?id=5#top")) == "GET /orders");
  CHECK(endpoint_of(http("HandleRequest").with_attr("method", "GET")) == "GET HandleRequest");
  CHECK(endpoint_of(http("HandleRequest").with_attr("method", "GET").with_attr("path", "/orders")) == "GET /orders");
  CHECK(endpoint_of(http("GET").with_attr("http.request.method", "GET").with_attr("url.path", "/orders")) == "GET /orders");
  CHECK(endpoint_of(http("GET /orders/17").with_attr("http.route", "/orders/:id")) == "GET /orders/:id");
  CHECK(endpoint_of(http("GET /orders/:id").with_attr("url.path", "/orders/17")) == "GET /orders/:id");
  CHECK(endpoint_of(http("")) == " ");
}

TEST_CASE("path groups make one endpoint of many paths") {
  AnalysisOptions options;
  options.path_groups = *weir::PathGroups::create({{R"(/users/\d+)", "/users/:id"}});
  const AnalysisReport report =
      report_of({http("GET /users/1"), http("GET /users/2?x=3"), http("PUT /users/2"), http("GET /users/me")}, {}, options);
  std::map<std::string, std::uint64_t> counts;
  for (const auto& row : report.endpoints.rows) counts[row.method + " " + row.path] = row.timing.count;
  CHECK(counts == std::map<std::string, std::uint64_t>{{"GET /users/:id", 2}, {"PUT /users/:id", 1}, {"GET /users/me", 1}});
}

TEST_CASE("queries are grouped without their values, functions by name") {
  const AnalysisReport report =
      report_of({http("GET /", 9ms,
                      {sql("select 1", 2ms), sql("select 2", 4ms), function("f", 3ms, {sql("x").with_attr("db.query.text", "select 3")}),
                       sql("q").with_attr("query", "delete 5"), make("queue", SpanKind{7}, 1ms)})});
  CHECK(report.spans == 7);
  CHECK(names(report.sql.rows) == std::vector<std::string>{"select ?", "delete ?"});
  CHECK(report.sql.rows[0].timing == weir::AnalysisTiming{3, 7ms, 2333333ns, 4ms, 4ms});
  CHECK(names(report.functions.rows) == std::vector<std::string>{"f", "queue"});
  CHECK(report.endpoints.rows[0].timing == weir::AnalysisTiming{1, 9ms, 9ms, 9ms, 9ms});
}

TEST_CASE("percentiles are by nearest rank") {
  std::mt19937_64 random(1);
  std::vector<std::chrono::nanoseconds> durations;
  for (std::uint64_t n = 1; n <= 1000; ++n) {
    durations.emplace_back(static_cast<std::int64_t>(random() % 10'000'000'000));
    if (n > 140 && n % 37 != 0) continue;
    auto sorted = durations;
    std::sort(sorted.begin(), sorted.end());
    const auto expected = sorted[(95 * n + 99) / 100 - 1];
    CAPTURE(n, expected.count());
    const auto actual = p95_of(durations);
    if (n <= 128)
      REQUIRE(actual == expected);
    else
      REQUIRE(std::abs(static_cast<double>((actual - expected).count())) <= 0.01 * static_cast<double>(expected.count()));
  }
}

TEST_CASE("percentiles of very different durations are within a hundredth") {
  std::mt19937_64 random(2);
  for (unsigned bits = 1; bits < 63; ++bits) {
    std::vector<std::chrono::nanoseconds> durations;
    for (int i = 0; i < 300; ++i) durations.emplace_back(static_cast<std::int64_t>(random() >> (64 - bits)));
    auto sorted = durations;
    std::sort(sorted.begin(), sorted.end());
    const auto expected = static_cast<double>(sorted[284].count());
    CAPTURE(bits, expected);
    CHECK(std::abs(static_cast<double>(p95_of(durations).count()) - expected) <= 0.01 * expected);
  }
  CHECK(p95_of(std::vector<std::chrono::nanoseconds>(500, 0ns)) == 0ns);
  CHECK(p95_of(std::vector<std::chrono::nanoseconds>(500, 1234567ns)) == 1234567ns);
  CHECK(p95_of(std::vector<std::chrono::nanoseconds>(500, std::chrono::nanoseconds::max())) == std::chrono::nanoseconds::max());
  CHECK(p95_of(std::vector<std::chrono::nanoseconds>(500, -5ns)) == 0ns);
}

TEST_CASE("a query is repeated from five times in one trace on") {
  const auto repeated = [](std::size_t n) { return report_of({http("GET /", 1ms, times(n, sql("select 1")))}).repeated; };
  CHECK(repeated(4).empty());
  REQUIRE(repeated(5).size() == 1);
  CHECK(repeated(5)[0].query == "select ?");
  CHECK(repeated(5)[0].path == "/");
  CHECK(repeated(5)[0].maximum == 5);

  const AnalysisReport report = report_of({http("GET /a", 1ms, times(5, sql("select 1"))), http("GET /a", 1ms, times(8, sql("select 2"))),
                                           http("GET /a", 1ms, times(4, sql("select 3"))), http("GET /b", 1ms, times(6, sql("select 4")))});
  REQUIRE(report.repeated.size() == 2);
  CHECK(report.repeated[0].path == "/a");
  CHECK(report.repeated[0].traces == 2);
  CHECK(report.repeated[0].queries == 13);
  CHECK(report.repeated[0].average() == 6.5);
  CHECK(report.repeated[0].maximum == 8);
  CHECK(report.repeated[1].path == "/b");
}

TEST_CASE("parts of a trace that come late belong to it") {
  Analysis analysis;
  analysis.add(in_trace("a", http("GET /", 9ms, times(3, sql("select 1")))));
  analysis.add(in_trace("a", sql("select 2"), "p"));
  CHECK(analysis.report().repeated.empty());
  analysis.add(in_trace("a", sql("select 3"), "p"));
  REQUIRE(analysis.report().repeated.size() == 1);
  analysis.add(in_trace("a", function("late", 1ms, {sql("select 4")}), "p"));
  const AnalysisReport report = analysis.report();
  CHECK(report.traces == 1);
  CHECK(report.late_parts == 3);
  CHECK(report.endpoints.rows.size() == 1);
  CHECK(report.repeated[0].path == "/");
  CHECK(report.repeated[0].traces == 1);
  CHECK(report.repeated[0].queries == 6);
  CHECK(report.repeated[0].maximum == 6);
  CHECK(report.sql.rows[0].timing.count == 6);
}

TEST_CASE("requests with a parent elsewhere are endpoints, one by one") {
  Analysis analysis;
  for (int i = 0; i < 3; ++i) analysis.add(in_trace("a", http("GET /", 1ms, times(2, sql("select 1"))), "elsewhere"));
  analysis.add(in_trace("b", function("job"), "elsewhere"));
  analysis.add(in_trace("c", sql("select 1"), "lost"));
  const AnalysisReport report = analysis.report({.sort = AnalysisSort::count});
  REQUIRE(report.endpoints.rows.size() == 2);
  CHECK(report.endpoints.rows[0].timing.count == 3);
  CHECK(report.endpoints.rows[1].path == "job");
  CHECK(report.repeated.empty());
}

TEST_CASE("spans that never ended have no duration to count") {
  const auto open = [](Span span) { return span.with_attr(std::string(weir::unfinished_attribute), "true"); };
  const AnalysisReport report = report_of({open(http("GET /", 9ms, times(5, open(sql("select 1", 1h)))))});
  CHECK(report.unfinished == 6);
  CHECK(report.endpoints.rows.empty());
  CHECK(report.sql.rows.empty());
  REQUIRE(report.repeated.size() == 1);
  CHECK(report.repeated[0].path == "/");
}

TEST_CASE("rows are ordered by what is asked for, then by name") {
  std::vector<Span> trees;
  const auto add = [&](const std::string& name, int calls, std::chrono::nanoseconds each, std::chrono::nanoseconds one) {
    trees.push_back(function(name, one));
    for (int i = 1; i < calls; ++i) trees.push_back(function(name, each));
  };
  add("often", 40, 1ms, 1ms);      // total 40, average 1, p95 1
  add("slow", 2, 25ms, 25ms);      // total 50, average 25, p95 25
  add("outlier", 20, 1ms, 100ms);  // total 119, average 5.95, p95 1
  add("b", 1, 30ms, 30ms);         // total 30, average 30, p95 30
  add("a", 1, 30ms, 30ms);
  const auto order = [&](AnalysisSort sort) { return names(report_of(trees, {.sort = sort}).functions.rows); };
  CHECK(order(AnalysisSort::total) == std::vector<std::string>{"outlier", "slow", "often", "a", "b"});
  CHECK(order(AnalysisSort::average) == std::vector<std::string>{"a", "b", "slow", "outlier", "often"});
  CHECK(order(AnalysisSort::p95) == std::vector<std::string>{"a", "b", "slow", "often", "outlier"});
  CHECK(order(AnalysisSort::count) == std::vector<std::string>{"often", "outlier", "slow", "a", "b"});
  const AnalysisReport limited = report_of(trees, {.sort = AnalysisSort::total, .limit = 2});
  CHECK(names(limited.functions.rows) == std::vector<std::string>{"outlier", "slow"});
  CHECK(limited.functions.left_out == 3);

  std::vector<Span> repeating = {http("GET /b", 1ms, times(9, sql("select 1"))), http("GET /b", 1ms, times(5, sql("select 1"))),
                                 http("GET /a", 1ms, times(8, sql("select 1"))), http("GET /c", 1ms, times(8, sql("select 1")))};
  const auto paths = [&](AnalysisSort sort) {
    std::string text;
    for (const auto& row : report_of(repeating, {.sort = sort}).repeated) text += row.path;
    return text;
  };
  CHECK(paths(AnalysisSort::total) == "/b/a/c");
  CHECK(paths(AnalysisSort::average) == "/a/c/b");
  CHECK(paths(AnalysisSort::p95) == "/b/a/c");
  CHECK(paths(AnalysisSort::count) == "/b/a/c");
}

TEST_CASE("the tables are those of a simple model, whatever the traces") {
  std::mt19937_64 random(3);
  struct Calls {
    std::vector<std::int64_t> durations;
    void compare(const weir::AnalysisTiming& timing) const {
      auto sorted = durations;
      std::sort(sorted.begin(), sorted.end());
      std::int64_t total = 0;
      for (const std::int64_t duration : sorted) total += duration;
      const auto n = sorted.size();
      CHECK(timing.count == n);
      CHECK(timing.total.count() == total);
      CHECK(timing.average.count() == total / static_cast<std::int64_t>(n));
      CHECK(timing.max.count() == sorted.back());
      const auto p95 = sorted[(95 * n + 99) / 100 - 1];
      if (n <= 128)
        CHECK(timing.p95.count() == p95);
      else
        CHECK(std::abs(static_cast<double>(timing.p95.count() - p95)) <= 0.01 * static_cast<double>(p95));
    }
  };
  for (int round = 0; round < 20; ++round) {
    std::map<std::string, Calls> endpoints, queries, functions;
    std::map<std::pair<std::string, std::string>, std::vector<std::uint64_t>> repeated;
    Analysis analysis;
    for (int i = 0; i < 200; ++i) {
      std::map<std::string, std::uint64_t> in_this_trace;
      const auto any = [&](auto self, int depth) -> Span {
        const auto duration = static_cast<std::int64_t>(random() % 1'000'000'000);
        Span span = make("", SpanKind{static_cast<int>(random() % 3)}, std::chrono::nanoseconds{duration});
        const std::string number = std::to_string(random() % 4);
        if (span.kind == SpanKind::http) {
          span.name = "GET /" + number;
        } else if (span.kind == SpanKind::function) {
          span.name = "f" + number;
          functions[span.name].durations.push_back(duration);
        } else {
          const std::string table = std::to_string(random() % 2);
          span.name = "select " + number + " from t" + table;
          queries["select ? from t" + table].durations.push_back(duration);
          ++in_this_trace["select ? from t" + table];
        }
        if (depth < 4) {
          for (std::size_t n = random() % 4; n > 0; --n) span.children.push_back(self(self, depth + 1));
        }
        return span;
      };
      const Span tree = in_trace("trace" + std::to_string(i), any(any, 0));
      const Span* endpoint = &tree;
      if (tree.kind != SpanKind::http) {
        for (const Span& child : tree.children) {
          if (child.kind != SpanKind::http) continue;
          endpoint = &child;
          break;
        }
      }
      endpoints[endpoint->name].durations.push_back(endpoint->duration().count());
      for (const auto& [query, count] : in_this_trace) {
        if (count >= 5) repeated[{endpoint->name, query}].push_back(count);
      }
      analysis.add(tree);
    }
    const AnalysisReport report = analysis.report();
    REQUIRE(report.endpoints.rows.size() == endpoints.size());
    for (const auto& row : report.endpoints.rows)
      endpoints.at(row.method.empty() ? row.path : row.method + " " + row.path).compare(row.timing);
    REQUIRE(report.sql.rows.size() == queries.size());
    for (const auto& row : report.sql.rows) queries.at(row.name).compare(row.timing);
    REQUIRE(report.functions.rows.size() == functions.size());
    for (const auto& row : report.functions.rows) functions.at(row.name).compare(row.timing);
    REQUIRE(report.repeated.size() == repeated.size());
    for (const auto& row : report.repeated) {
      const auto& counts = repeated.at({row.method.empty() ? row.path : row.method + " " + row.path, row.query});
      CHECK(row.traces == counts.size());
      CHECK(row.maximum == *std::max_element(counts.begin(), counts.end()));
      std::uint64_t sum = 0;
      for (const std::uint64_t count : counts) sum += count;
      CHECK(row.queries == sum);
    }
  }
}

TEST_CASE("a million different names take no more than the bound, and are counted") {
  const std::size_t before = ::mallinfo2().uordblks;
  AnalysisOptions options;
  options.max_groups = 100;
  Analysis analysis(options);
  constexpr std::uint64_t traces = weir::testing::sanitized ? 25'000 : 250'000;  // of four names each
  for (std::uint64_t i = 0; i < traces; ++i) {
    const std::string number = "x" + std::to_string(i);
    std::vector<Span> children = times(5, sql("select " + number, std::chrono::nanoseconds{1u << (i % 30)}));
    children.push_back(sql("delete " + number));
    children.push_back(function(number, std::chrono::nanoseconds{1u << (i % 30)}));
    analysis.add(in_trace(number, http("GET /" + number + std::string(5000, 'y'), 1ms, std::move(children))));
  }
  const AnalysisReport report = analysis.report();
  CHECK(report.endpoints.rows.size() == 100);
  CHECK(report.endpoints.other.count == traces - 100);
  CHECK(report.endpoints.rows[0].path.size() <= options.max_text + 3);
  CHECK(report.endpoints.rows[0].path.ends_with("…"));
  CHECK(report.sql.rows.size() == 100);
  CHECK(report.functions.rows.size() == 100);
  CHECK(report.functions.other.count == traces - 100);
  CHECK(report.functions.other.max == std::chrono::nanoseconds{1u << 29});
  CHECK(report.repeated.size() == 100);
  CHECK(report.repeated_other == traces - 100);
  std::uint64_t calls = report.sql.other.count;
  for (const auto& row : report.sql.rows) calls += row.timing.count;
  CHECK(calls == 6 * traces);
  const std::size_t after = ::mallinfo2().uordblks;  // says nothing under sanitizers
  CHECK(after <= before + (16u << 20));
}

TEST_CASE("one trace of more queries than are remembered is analysed, then forgotten") {
  AnalysisOptions options;
  options.max_recent_queries = 10;
  Analysis analysis(options);
  std::vector<Span> children;
  for (int i = 0; i < 100; ++i) {
    for (int k = 0; k < 5; ++k) children.push_back(sql("select a" + std::to_string(i)));
  }
  analysis.add(in_trace("a", http("GET /", 1ms, std::move(children))));
  CHECK(analysis.report().repeated.size() == 100);
  analysis.add(in_trace("a", sql("select a1"), "p"));
  CHECK(analysis.report().late_parts == 0);
}

TEST_CASE("an analysis is printed as aligned tables") {
  Analysis analysis;
  analysis.add(in_trace("a", http("GET /orders", 12ms, times(5, sql("select * from items where id = 5", 1ms)))));
  analysis.add(in_trace("b", http("POST /ünïcode/orders", 250us, {function("render\x1b[31m\n", 5us)})));
  CHECK(weir::format_analysis(analysis.report()) ==
        "2 traces, 8 spans, by total\n"
        "\n"
        "Endpoints\n"
        "METHOD  PATH             COUNT   TOTAL     AVG     P95     MAX\n"
        "GET     /orders              1  12.0ms  12.0ms  12.0ms  12.0ms\n"
        "POST    /ünïcode/orders      1   250µs   250µs   250µs   250µs\n"
        "\n"
        "SQL\n"
        "QUERY                             COUNT   TOTAL     AVG     P95     MAX\n"
        "select * from items where id = ?      5  5.00ms  1.00ms  1.00ms  1.00ms\n"
        "\n"
        "Functions\n"
        "NAME                COUNT   TOTAL     AVG     P95     MAX\n"
        "render\\x1b[31m\\x0a      1  5.00µs  5.00µs  5.00µs  5.00µs\n"
        "\n"
        "N+1 (a query 5 times or more in one trace)\n"
        "METHOD  PATH     QUERY                             TRACES  AVG  MAX\n"
        "GET     /orders  select * from items where id = ?       1  5.0    5\n");

  const std::string limited = weir::format_analysis(analysis.report({.sort = AnalysisSort::count, .limit = 1}));
  CHECK(limited.find("by count\n") != std::string::npos);
  CHECK(limited.find("\n1 more\n") != std::string::npos);

  const std::string empty = weir::format_analysis(AnalysisReport{});
  CHECK(empty.starts_with("0 traces, 0 spans, by total\n\nEndpoints\nnone\n"));
}

TEST_CASE("long texts are cut in tables and whole in JSON") {
  Analysis analysis;
  const std::string name = "f" + std::string(300, 'y');
  analysis.add(function(name));
  const std::string text = weir::format_analysis(analysis.report());
  CHECK(text.find("f" + std::string(98, 'y') + "…  ") != std::string::npos);
  CHECK(text.find(std::string(99, 'y')) == std::string::npos);
  CHECK(json::parse(weir::to_json(analysis.report())).at("functions").at(0).at("name") == name);
}

TEST_CASE("an analysis as JSON has everything") {
  AnalysisOptions options;
  options.max_groups = 2;
  Analysis analysis(options);
  analysis.add(in_trace("a", http("GET /orders", 12ms, times(5, sql("select 5", 1ms)))));
  for (const char* name : {"f", "g", "h", "h"}) analysis.add(in_trace(name, function(name, 2ms)));
  const json all = json::parse(weir::to_json(analysis.report({.limit = 1})));
  CHECK(all.at("traces") == 5);
  CHECK(all.at("spans") == 10);
  CHECK(all.at("sort") == "total");
  const json expected = {{"method", "GET"},      {"path", "/orders"},    {"count", 1},          {"total_ns", 12'000'000},
                         {"avg_ns", 12'000'000}, {"p95_ns", 12'000'000}, {"max_ns", 12'000'000}};
  CHECK(all.at("endpoints").at(0) == expected);
  CHECK(all.at("sql").at(0).at("query") == "select ?");
  CHECK(all.at("functions").size() == 1);
  CHECK(all.at("left_out").at("functions") == 1);
  CHECK(all.at("other").at("functions").at("count") == 2);
  CHECK(all.at("other").at("functions").at("total_ns") == 4'000'000);
  const json repeated = {{"method", "GET"}, {"path", "/orders"}, {"query", "select ?"}, {"traces", 1}, {"queries", 5},
                         {"avg", 5.0},      {"max", 5}};
  CHECK(all.at("n_plus_one") == json::array({repeated}));
}
