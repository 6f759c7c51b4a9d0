// Tests the spans of a piece of code without a collector, a thread or a test framework.

#include <cstdio>
#include <string>
#include <weir/testing.hpp>

// What is to be tested.
void list_orders(weir::Tracer& tracer, int orders) {
  weir::ScopedSpan request = tracer.enter("GET /orders", weir::SpanKind::http);
  request.set("orders", orders);
  for (int i = 0; i < orders; ++i) weir::ScopedSpan query = tracer.enter("SELECT items", weir::SpanKind::sql);
}

bool each_order_costs_one_query() {
  weir::testing::SpanRecorder recorder;
  list_orders(recorder.tracer(), 2);
  return recorder.tree() ==
             "GET /orders {orders=2}\n"
             "  SELECT items\n"
             "  SELECT items\n" &&
         recorder.open_spans().empty();  // nothing was left open
}

int main() {
  const bool passed = each_order_costs_one_query();
  std::puts(passed ? "passed" : "failed");
  return passed ? 0 : 1;
}
