// Uses weir::weir: what is compiled.
#include <weir/trace/span.hpp>

int main() {
  weir::Span span;
  span.id = "00f067aa0ba902b7";
  span.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
  const weir::Result<weir::Span> parsed = weir::parse_span(weir::to_json(span.with_attr("error", "true")));
  return parsed && parsed->failed() && !weir::parse_span("[]") ? 0 : 1;
}
