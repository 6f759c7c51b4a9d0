#pragma once
// Analysis: what many traces tell together. Trees go in (from TreeAssembler, Collector, parse_span), tables come out: which
// endpoints take the time, which queries, which functions, and which endpoints ask one query again and again (N+1).
// `weir view --analyze` prints it.
//
//   weir::Analysis analysis;
//   weir::TreeAssembler trees([&](const weir::Span& tree) { analysis.add(tree); });
//   …
//   std::cout << weir::format_analysis(analysis.report({.sort = weir::AnalysisSort::p95, .limit = 20}));
//
// endpoint   of a trace: its root if that is of kind http, else the root's first child of that kind, else the root. The method is the
//            attribute http.request.method, http.method or method, else the first word of a name like "GET /orders". The path is
//            the attribute http.route, else the rest of such a name, else url.path, http.target or path, else the name; without
//            what follows a '?' or '#'. Path groups make one endpoint of many paths.
// SQL        every span of kind sql by its text without values (normalize_sql): the attribute db.query.text, db.statement or
//            query, else the name
// functions  every span of a kind that is neither http nor sql, by its name
// N+1        a query that occurs five times or more in one trace, by the trace's endpoint
//
// A tree whose root has a parent elsewhere is a trace of its own if it is the first of its trace id, or if its root is of kind
// http; else a late part of the trace: its queries and functions count, and no endpoint. Where such a first tree begins with sql,
// the endpoint is not known. A span that never ended counts as a query of its trace, and has no duration to count.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weir/trace/span.hpp"
#include "weir/view/path_groups.hpp"

namespace weir::inline v0 {

/// With the defaults an analysis takes some MiB, and whatever comes in less than 120 MiB.
struct AnalysisOptions {
  PathGroups path_groups{};                  ///< asked for each endpoint's path
  std::size_t max_groups = 1000;             ///< rows of each table; what comes first has one, the rest is counted together as `other`
  std::size_t max_text = 1024;               ///< bytes of a name, path or query; longer ones are cut and end in "…"
  std::size_t max_recent_traces = 10'000;    ///< traces whose late parts are known as such
  std::size_t max_recent_queries = 200'000;  ///< different queries in them. More: the traces that came first are forgotten
};

/// The largest first, by the order in which a viewer cycles; ties by name.
enum class AnalysisSort : std::uint8_t { total, average, p95, count };

struct AnalysisOrder {
  AnalysisSort sort = AnalysisSort::total;  ///< N+1: by all queries, average, maximum, traces
  std::size_t limit = 0;                    ///< rows of each table; 0: all
};

/// Of one row. p95 is by nearest rank: exact up to 128 calls, from then on wrong by less than 1 %.
struct AnalysisTiming {
  std::uint64_t count = 0;
  std::chrono::nanoseconds total{}, average{}, p95{}, max{};
  friend bool operator==(const AnalysisTiming&, const AnalysisTiming&) = default;
};

struct EndpointRow {
  std::string method;  ///< empty when it has none
  std::string path;
  AnalysisTiming timing;
};
/// A query or a function.
struct CallRow {
  std::string name;
  AnalysisTiming timing;
};
struct RepeatedQueryRow {
  std::string method, path;  ///< "(other)" beyond max_groups, "(unknown)" without a root
  std::string query;
  std::uint64_t traces = 0;   ///< in which it occurs five times or more
  std::uint64_t queries = 0;  ///< in all of them
  std::uint64_t maximum = 0;  ///< in one of them
  double average() const { return traces == 0 ? 0 : static_cast<double>(queries) / static_cast<double>(traces); }
};

template <class Row>
struct AnalysisTable {
  std::vector<Row> rows;
  std::size_t left_out = 0;  ///< rows beyond the limit of the order
  AnalysisTiming other;      ///< calls beyond max_groups
};

struct AnalysisReport {
  AnalysisSort sort = AnalysisSort::total;
  std::uint64_t traces = 0;
  std::uint64_t spans = 0;
  std::uint64_t late_parts = 0;  ///< trees
  std::uint64_t unfinished = 0;  ///< spans
  AnalysisTable<EndpointRow> endpoints;
  AnalysisTable<CallRow> sql;
  AnalysisTable<CallRow> functions;
  std::vector<RepeatedQueryRow> repeated;
  std::size_t repeated_left_out = 0;  ///< beyond the limit of the order
  std::uint64_t repeated_other = 0;   ///< traces' repeated queries beyond max_groups
};

/// How often a query occurs in a trace that is said to repeat it.
inline constexpr std::uint64_t repeated_query_threshold = 5;

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class Analysis {
 public:
  explicit Analysis(AnalysisOptions options = {});
  ~Analysis();
  Analysis(Analysis&&) noexcept;
  Analysis& operator=(Analysis&&) noexcept;

  /// A tree of any depth; walked without recursion.
  void add(const Span& tree);
  AnalysisReport report(AnalysisOrder order = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Tables with aligned columns, each line ended by a newline. Texts over 100 characters are cut; control characters are shown, never
/// executed (printable()).
std::string format_analysis(const AnalysisReport& report);
/// One object on one line, without a newline. Durations are whole nanoseconds, texts whole.
std::string to_json(const AnalysisReport& report);

}  // namespace weir::inline v0
