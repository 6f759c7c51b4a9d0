// One trace over several threads, and a span that fails.
//
//   tracing_threads

#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <weir/testing.hpp>
#include <weir/trace/tracer.hpp>

// Spans of one thread nest by themselves.
std::string load_cart(weir::Tracer& tracer, int user) {
  weir::ScopedSpan span = tracer.enter("load cart");
  span.set("user", user);
  weir::ScopedSpan query = tracer.enter("SELECT cart", weir::SpanKind::sql);
  return "3 items";
}

void charge(weir::Tracer& tracer) {
  weir::ScopedSpan span = tracer.enter("charge");
  try {
    throw std::runtime_error("card declined");
  } catch (const std::exception& error) {
    span.fail(error.what());
  }
}

void checkout(weir::Tracer& tracer) {
  weir::ScopedSpan request = tracer.enter("POST /checkout", weir::SpanKind::http);
  request.set("method", "POST");
  load_cart(tracer, 42);
  // What goes elsewhere takes its context along: as a parent, or around a closure.
  std::thread payment([&tracer, work = weir::Context::current().wrap([](weir::Tracer& t) { charge(t); })]() mutable { work(tracer); });
  payment.join();
  std::thread([&tracer, parent = request.context()] { weir::ScopedSpan span = tracer.enter(parent, "send mail"); }).join();
  request.set("status", 402);
}

int main() {
  weir::testing::SpanRecorder recorder;  // in a service: weir::tracer(), after weir::init
  checkout(recorder.tracer());
  std::printf("%s", recorder.tree().c_str());
}
