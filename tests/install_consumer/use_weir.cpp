// Uses weir::weir: what is compiled.
#include <weir/trace/event.hpp>
#include <weir/trace/span.hpp>

int main() {
  const weir::Span span = weir::Span{}.with_attr("error", "true");
  return span.failed() && to_string(weir::EventType::span_end) == "span_end" ? 0 : 1;
}
