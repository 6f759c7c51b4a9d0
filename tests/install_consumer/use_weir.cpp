// Uses weir::weir: what is compiled.
#include <weir/activity/log_tracker.hpp>
#include <weir/trace/span.hpp>

#include <string>

int main() {
  std::string log;
  {
    weir::LogTracker tracker{[&](const weir::LogLine& line) { log += line.text; }, {.asynchronous = true}};
    weir::Activity activity = tracker.start({}, "update", "user");
  }
  if (log.find("msg=\"Operation completed\" operation=update subject=user") == log.npos) return 1;

  weir::Span span;
  span.id = "00f067aa0ba902b7";
  span.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
  const weir::Result<weir::Span> parsed = weir::parse_span(weir::to_json(span.with_attr("error", "true")));
  return parsed && parsed->failed() && !weir::parse_span("[]") ? 0 : 1;
}
