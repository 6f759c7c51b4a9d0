// An analysis as text and as JSON: see weir/view/analysis.hpp.

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/json.hpp"
#include "weir/core/text.hpp"
#include "weir/view/analysis.hpp"
#include "weir/view/tree.hpp"

namespace weir::inline v0 {

namespace {

constexpr std::size_t max_shown = 100;  // characters of a text in a table

/// Characters, taking each as one column wide.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string shown(std::string_view text) {
  std::string result = text.empty() ? "(unnamed)" : printable(text);
  if (width(result) <= max_shown) return result;
  std::size_t end = 0;
  for (std::size_t characters = 0; characters + 1 < max_shown; ++characters)
    end += std::max<std::size_t>(detail::utf8_length(std::string_view(result).substr(end, 4)), 1);
  return result.substr(0, end) + "…";
}

/// Columns of texts to the left and of numbers to the right, under their titles.
class Columns {
 public:
  Columns(std::vector<std::string> titles, std::size_t texts) : texts_(texts) { add(std::move(titles)); }
  void add(std::vector<std::string> cells) {
    widths_.resize(std::max(widths_.size(), cells.size()));
    for (std::size_t i = 0; i < cells.size(); ++i) widths_[i] = std::max(widths_[i], width(cells[i]));
    rows_.push_back(std::move(cells));
  }
  void append_to(std::string& out) const {
    for (const std::vector<std::string>& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::size_t padding = widths_[i] - width(row[i]);
        if (i != 0) out += "  ";
        if (i >= texts_) out.append(padding, ' ');
        out += row[i];
        if (i < texts_ && i + 1 < row.size()) out.append(padding, ' ');
      }
      out += '\n';
    }
  }
  bool empty() const { return rows_.size() == 1; }

 private:
  std::size_t texts_;
  std::vector<std::size_t> widths_;
  std::vector<std::vector<std::string>> rows_;
};

std::string_view name_of(AnalysisSort sort) {
  constexpr std::array<std::string_view, 4> names{"total", "avg", "p95", "count"};
  return names[static_cast<std::size_t>(sort)];
}

std::vector<std::string> with_timing(std::vector<std::string> cells, const AnalysisTiming& timing) {
  cells.push_back(std::to_string(timing.count));
  for (const auto duration : {timing.total, timing.average, timing.p95, timing.max}) cells.push_back(format_duration(duration));
  return cells;
}

void append_table(std::string& out, std::string_view title, const Columns& columns, std::size_t left_out) {
  out.append("\n").append(title).append("\n");
  if (columns.empty()) {
    out += "none\n";
    return;
  }
  columns.append_to(out);
  if (left_out != 0) out += fmt::format("{} more\n", left_out);
}

std::string many(std::uint64_t count, std::string_view one, std::string_view several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

class Json {
 public:
  void open(char bracket) { out_ += bracket, first_ = true; }
  void close(char bracket) { out_ += bracket, first_ = false; }
  void next() {
    if (!first_) out_ += ',';
    first_ = false;
  }
  void key(std::string_view name) {
    next();
    out_.append("\"").append(name).append("\":");
  }
  void number(std::string_view name, std::uint64_t value) {
    key(name);
    detail::append_integer(out_, value);
  }
  void text(std::string_view name, std::string_view value) {
    key(name);
    detail::append_json_string(out_, value);
  }
  void raw(std::string_view name, std::string_view value) {
    key(name);
    out_ += value;
  }
  void timing(const AnalysisTiming& timing) {
    number("count", timing.count);
    number("total_ns", static_cast<std::uint64_t>(timing.total.count()));
    number("avg_ns", static_cast<std::uint64_t>(timing.average.count()));
    number("p95_ns", static_cast<std::uint64_t>(timing.p95.count()));
    number("max_ns", static_cast<std::uint64_t>(timing.max.count()));
  }
  template <class Rows, class Write>
  void rows(std::string_view name, const Rows& rows, Write write) {
    key(name);
    open('[');
    for (const auto& row : rows) {
      next();
      open('{');
      write(row);
      close('}');
    }
    close(']');
  }
  template <class Table, class Write>
  void table(std::string_view name, const Table& table, Write write) {
    rows(name, table.rows, [&](const auto& row) {
      write(row);
      timing(row.timing);
    });
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
  bool first_ = true;
};

}  // namespace

std::string format_analysis(const AnalysisReport& report) {
  std::string out = many(report.traces, "trace", "traces") + ", " + many(report.spans, "span", "spans");
  if (report.late_parts != 0) out += ", " + many(report.late_parts, "part that came late", "parts that came late");
  if (report.unfinished != 0) out += ", " + std::to_string(report.unfinished) + " unfinished";
  out += fmt::format(", by {}\n", name_of(report.sort));

  Columns endpoints({"METHOD", "PATH", "COUNT", "TOTAL", "AVG", "P95", "MAX"}, 2);
  for (const EndpointRow& row : report.endpoints.rows) {
    endpoints.add(with_timing({row.method.empty() ? "-" : shown(row.method), shown(row.path)}, row.timing));
  }
  if (report.endpoints.other.count != 0) endpoints.add(with_timing({"-", "(other)"}, report.endpoints.other));
  append_table(out, "Endpoints", endpoints, report.endpoints.left_out);

  const auto add_calls = [&](std::string_view title, std::string name, const AnalysisTable<CallRow>& table) {
    Columns columns({std::move(name), "COUNT", "TOTAL", "AVG", "P95", "MAX"}, 1);
    for (const CallRow& row : table.rows) columns.add(with_timing({shown(row.name)}, row.timing));
    if (table.other.count != 0) columns.add(with_timing({"(other)"}, table.other));
    append_table(out, title, columns, table.left_out);
  };
  add_calls("SQL", "QUERY", report.sql);
  add_calls("Functions", "NAME", report.functions);

  Columns repeated({"METHOD", "PATH", "QUERY", "TRACES", "AVG", "MAX"}, 3);
  for (const RepeatedQueryRow& row : report.repeated) {
    repeated.add({row.method.empty() ? "-" : shown(row.method), shown(row.path), shown(row.query), std::to_string(row.traces),
                  fmt::format("{:.1f}", row.average()), std::to_string(row.maximum)});
  }
  append_table(out, fmt::format("N+1 (a query {} times or more in one trace)", repeated_query_threshold), repeated,
               report.repeated_left_out);
  if (report.repeated_other != 0) out += many(report.repeated_other, "other", "others") + ", for which there was no room\n";
  return out;
}

std::string to_json(const AnalysisReport& report) {
  Json json;
  json.open('{');
  json.number("traces", report.traces);
  json.number("spans", report.spans);
  json.number("late_parts", report.late_parts);
  json.number("unfinished", report.unfinished);
  json.text("sort", name_of(report.sort));
  json.table("endpoints", report.endpoints, [&](const EndpointRow& row) {
    json.text("method", row.method);
    json.text("path", row.path);
  });
  json.table("sql", report.sql, [&](const CallRow& row) { json.text("query", row.name); });
  json.table("functions", report.functions, [&](const CallRow& row) { json.text("name", row.name); });
  json.rows("n_plus_one", report.repeated, [&](const RepeatedQueryRow& row) {
    json.text("method", row.method);
    json.text("path", row.path);
    json.text("query", row.query);
    json.number("traces", row.traces);
    json.number("queries", row.queries);
    json.raw("avg", fmt::format("{}", row.average()));
    json.number("max", row.maximum);
  });
  const auto other = [&](std::string_view name, const AnalysisTiming& timing) {
    json.key(name);
    json.open('{');
    json.timing(timing);
    json.close('}');
  };
  json.key("other");
  json.open('{');
  other("endpoints", report.endpoints.other);
  other("sql", report.sql.other);
  other("functions", report.functions.other);
  json.number("n_plus_one", report.repeated_other);
  json.close('}');
  json.key("left_out");
  json.open('{');
  json.number("endpoints", report.endpoints.left_out);
  json.number("sql", report.sql.left_out);
  json.number("functions", report.functions.left_out);
  json.number("n_plus_one", report.repeated_left_out);
  json.close('}');
  json.close('}');
  return json.take();
}

}  // namespace weir::inline v0
