#pragma once
// The operations that the programs of this folder listen to: requests, and the queries that they run.

#include <cstddef>
#include <string>
#include <string_view>
#include <weir/operation/operation.hpp>

struct HandleRequest {
  static constexpr std::string_view name = "http.request";  // optional; default: the type's own name

  struct Args {
    std::string_view route;

    std::string_view title() const { return route; }                                   // optional: what this call is called
    void describe(weir::AttributeSink& sink) const { sink.set("http.route", route); }  // optional: for observers
  };
  struct Result {
    int status = 200;

    void describe(weir::AttributeSink& sink) const { sink.set("http.response.status_code", status); }
  };

  std::string user;  // optional: state that lives as long as the operation
  std::size_t rows = 0;
};

struct QuerySql {
  static constexpr std::string_view name = "sql.query";

  struct Args {
    std::string_view statement;

    std::string_view title() const { return statement; }
  };
  struct Result {
    std::size_t rows = 0;

    void describe(weir::AttributeSink& sink) const { sink.set("db.response.returned_rows", rows); }
  };
};
