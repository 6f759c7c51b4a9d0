// A request comes in with headers, and goes on with them: to business code, to another thread, to the next service.

#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <thread>
#include <weir/activity/span_tracker.hpp>
#include <weir/core/propagation.hpp>
#include <weir/trace/in_memory_sender.hpp>

#include "service.hpp"

using Headers = std::map<std::string, std::string>;

// Where a request enters the program: what its headers say, and how long there is for it.
weir::Context accept(Headers& headers) {
  weir::Context context = weir::extract([&](const char* name) { return headers[name]; });  // no or bad headers: a trace of its own
  if (context.request_id().empty()) context = context.with_new_request_id();
  return context.with_timeout(std::chrono::seconds(2));
}

// Where it leaves it. Inside the activity: the span that a tracker has opened for it is the parent of what happens there.
Headers call_next_service(weir::ActivityTracker& tracker, const weir::Context& context) {
  weir::Activity activity = tracker.start(context, "charge", "card");
  Headers headers;
  weir::inject(activity.inside(context), [&](const char* name, std::string value) { headers.emplace(name, std::move(value)); });
  return headers;
}

void handle(weir::ActivityTracker& tracker, Headers headers) {
  const weir::Context context = accept(headers);
  std::printf("request %s of user %s\n", std::string(context.request_id()).c_str(), context.baggage("user").value_or("?").c_str());
  Accounts accounts(tracker);
  (void)accounts.withdraw(context, 1, 30);

  // Another thread works for this request while the callable runs there.
  std::thread(context.wrap([&] {
    const weir::Context here = weir::Context::current();
    std::printf("there: request %s, %s\n", std::string(here.request_id()).c_str(), here.expired() ? "too late" : "in time");
    weir::Activity activity = tracker.start("write", "report");  // under the ambient context
  })).join();

  for (const auto& [name, value] : call_next_service(tracker, context)) std::printf("%s: %s\n", name.c_str(), value.c_str());
}

int main() {
  weir::InMemorySender spans;
  weir::Tracer tracer{spans};
  weir::SpanTracker tracker(tracer);
  handle(
      tracker,
      {{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, {"baggage", "user=ada%20l"}, {"x-request-id", "r-17"}});
  for (const weir::Span& span : spans.spans())
    std::printf("span '%s' of trace %.4s…, parent %s\n", span.name.c_str(), span.trace_id.c_str(), span.parent_id.c_str());
}
