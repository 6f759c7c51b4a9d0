#pragma once
// What the checkout service does, as operations. This is all that weir needs to know about it.

#include <weir/operation/operation.hpp>

#include <string>
#include <string_view>

namespace checkout {

struct HandleRequest {
  static constexpr std::string_view name = "http.request";
  static constexpr weir::SpanKind kind = weir::SpanKind::http;

  struct Args {
    std::string_view method, route, path;

    std::string title() const { return std::string(method) + " " + std::string(route); }
    void describe(weir::AttributeSink& sink) const {
      sink.set("http.request.method", method);
      sink.set("http.route", route);
      sink.set("url.path", path);
    }
  };
  struct Result {
    int status = 500;

    void describe(weir::AttributeSink& sink) const {
      sink.set("http.response.status_code", status);
      if (status >= 500) sink.set("error", true);
    }
  };
};

struct QuerySql {
  static constexpr std::string_view name = "sql.query";
  static constexpr weir::SpanKind kind = weir::SpanKind::sql;

  struct Args {
    std::string_view statement;

    std::string_view title() const { return statement; }
    void describe(weir::AttributeSink& sink) const { sink.set("db.query.text", statement); }
  };
  struct Result {
    std::size_t rows = 0;
    std::string_view error;

    void describe(weir::AttributeSink& sink) const {
      sink.set("db.response.returned_rows", rows);
      if (error.empty()) return;
      sink.set("error", true);
      sink.set("error.message", error);
    }
  };
};

}  // namespace checkout
