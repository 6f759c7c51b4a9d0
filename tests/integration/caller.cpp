// caller PORT: a program with a tracer of its own that asks the checkout service for orders, each time in another way. Prints
// one line of JSON for each request: how it was asked, under which trace and span, and what came back.

#include <httplib.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "weir/core/propagation.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

namespace {

/// Asks under the thread's ambient context. `change` may change the headers.
template <class Change>
void ask(httplib::Client& client, const char* how, Change change) {
  const weir::Context context = weir::Context::current();
  httplib::Headers headers;
  weir::inject(context, [&](const char* name, std::string value) { headers.emplace(name, std::move(value)); });
  change(headers);
  const auto reply = client.Get("/orders?limit=1", headers);
  const nlohmann::json line{{"how", how},
                            {"trace", context.trace_id().hex()},
                            {"span", context.span_id().hex()},
                            {"status", reply ? reply->status : 0},
                            {"x-request-id", reply ? reply->get_header_value("x-request-id") : ""}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace

int main(int, char** argv) {
  weir::Tracer tracer{weir::SocketSender{}, {.service_name = "caller"}};
  httplib::Client client("127.0.0.1", std::atoi(argv[1]));
  const auto as_it_is = [](httplib::Headers&) {};
  {
    const weir::ScopedSpan span = tracer.enter("sampled");
    const weir::ContextScope scope(span.context().with_request_id("r-1").with_tracestate("rojo", "1").with_baggage("user", "ada"));
    ask(client, "sampled", as_it_is);
  }
  {
    const weir::ContextScope scope(weir::Context(weir::TraceId{1, 2}, weir::SpanId{3}, false));
    const weir::ScopedSpan span = tracer.enter("not sampled");
    ask(client, "not sampled", as_it_is);
  }
  {
    const weir::ScopedSpan span = tracer.enter("malformed");
    ask(client, "malformed", [](httplib::Headers& headers) { headers.find("traceparent")->second[0] = 'x'; });
  }
  {
    const weir::ScopedSpan span = tracer.enter("twice");
    ask(client, "twice", [](httplib::Headers& headers) { headers.emplace("traceparent", headers.find("traceparent")->second); });
  }
  ask(client, "without headers", as_it_is);
  return 0;
}
