#include "weir/core/propagation.hpp"

#include <cstdlib>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/process.hpp"

using weir::Context;

namespace {

using Headers = std::map<std::string, std::string>;

const std::string traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const std::string not_sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02";

Context extracted(const Headers& headers) {
  return weir::extract([&](const std::string& name) {
    const auto found = headers.find(name);
    return found != headers.end() ? found->second : std::string();
  });
}
Headers injected(const Context& context) {
  Headers headers;
  weir::inject(context, [&](const char* name, std::string value) { CHECK(headers.emplace(name, std::move(value)).second); });
  return headers;
}
Headers environment(const Context& context) {
  Headers variables;
  weir::inject_environment(context, [&](const char* name, std::string value) { CHECK(variables.emplace(name, std::move(value)).second); });
  return variables;
}

/// Sets the variables until the end of the scope; an empty text unsets.
class Environment {
 public:
  explicit Environment(const Headers& variables) { set(variables); }
  ~Environment() { set({}); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  static void set(const Headers& variables) {
    for (const char* name : {"TRACEPARENT", "TRACESTATE", "BAGGAGE"}) ::unsetenv(name);
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  }
};

}  // namespace

TEST_CASE("what a request brings goes out again") {
  const Headers headers{
      {"traceparent", traceparent}, {"tracestate", "rojo=1,congo=2"}, {"baggage", "user=ada;p,n=1"}, {"x-request-id", "r-1"}};
  const Context context = extracted(headers);
  CHECK(context.traceparent() == traceparent);
  CHECK(context.tracestate() == "rojo=1,congo=2");
  CHECK(context.baggage("user") == "ada");
  CHECK(context.request_id() == "r-1");
  CHECK(injected(context) == headers);
}

TEST_CASE("a request without headers begins a trace, and one under it names that trace") {
  const Context context = extracted({});
  CHECK(context.valid());
  CHECK(context.request_id().empty());
  const Headers headers = injected(context);
  REQUIRE(headers.size() == 1);
  const Context next = extracted(headers);
  CHECK(next.trace_id() == context.trace_id());
  CHECK(next.span_id().valid());
  CHECK(next.trace_flags() == 3);
}

TEST_CASE("a malformed traceparent costs the trace, and nothing else") {
  const auto before = weir::malformed_traceparents();
  const Context context =
      extracted({{"traceparent", traceparent + "0"}, {"tracestate", "rojo=1"}, {"baggage", "a=1"}, {"x-request-id", "r"}});
  CHECK(weir::malformed_traceparents() == before + 1);
  CHECK(context.trace_id() != Context::from_traceparent(traceparent).trace_id());
  const Headers headers = injected(context);
  CHECK(headers.count("tracestate") == 0);
  CHECK(headers.at("baggage") == "a=1");
  CHECK(headers.at("x-request-id") == "r");
}

TEST_CASE("getters may return any kind of text, and a null pointer for none") {
  const auto trace = Context::from_traceparent(traceparent).trace_id();
  CHECK(weir::extract([](std::string_view name) { return name == "traceparent" ? traceparent.c_str() : nullptr; }).trace_id() == trace);
  CHECK(weir::extract([](const char* name) { return std::string_view(name[5] == 'p' ? traceparent : std::string_view()); }).trace_id() ==
        trace);
}

TEST_CASE("without a trace only baggage and request id go out") {
  CHECK(injected(Context{}).empty());
  const Context context = Context{}.with_baggage("a", "1").with_request_id("r").with_tracestate("rojo", "1");
  CHECK(injected(context) == Headers{{"baggage", "a=1"}, {"x-request-id", "r"}});
}

TEST_CASE("each request of a trace that is not sampled has a parent id of its own") {
  const Context context = extracted({{"traceparent", not_sampled}, {"tracestate", "rojo=1"}});
  const Context first = extracted(injected(context)), second = extracted(injected(context));
  CHECK(first.trace_id() == context.trace_id());
  CHECK(first.trace_flags() == 2);
  CHECK(first.tracestate() == "rojo=1");
  CHECK(first.span_id().valid());
  CHECK(first.span_id() != context.span_id());
  CHECK(first.span_id() != second.span_id());
}

TEST_CASE("nothing that comes in can put a line of its own into the headers that go out") {
  const std::string evil = "1\r\nset-cookie: a=b\r\n\r\n";
  std::vector<Context> contexts{
      extracted({{"traceparent", traceparent}, {"x-request-id", evil}}),
      extracted({{"traceparent", traceparent + "\r\n"}, {"tracestate", "a=" + evil}}),
      extracted({{"traceparent", traceparent}, {"tracestate", "a=" + evil}, {"baggage", "a=" + evil + ",b=1;" + evil}}),
      extracted({{"traceparent", traceparent}, {"tracestate", evil + "=1"}, {"baggage", evil + "=1"}}),
      Context::from_traceparent(traceparent).with_request_id(evil).with_baggage("a", evil).with_tracestate("a", evil),
      Context::from_traceparent(traceparent).with_baggage(evil, "a").with_tracestate(evil, "a"),
  };
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  contexts.push_back(contexts[0].with_request_id(all).with_baggage("all", all));
  for (const Context& context : contexts) {
    for (const auto& headers : {injected(context), environment(context)})
      for (const auto& [name, value] : headers) {
        INFO(name << ": " << value);
        for (const char c : value) CHECK((c >= 0x20 && c < 0x7f));
      }
  }
  CHECK(contexts[0].request_id() == "1__set-cookie:_a=b____");
}

TEST_CASE("a process is told its context in the environment") {
  const Environment set({{"TRACEPARENT", traceparent}, {"TRACESTATE", "rojo=1"}, {"BAGGAGE", "a=1"}});
  const Context context = weir::context_from_environment();
  CHECK(context.traceparent() == traceparent);
  CHECK(context.tracestate() == "rojo=1");
  CHECK(context.baggage() == "a=1");
}

TEST_CASE("a process that is told no trace belongs to none; baggage it may have all the same") {
  {
    const Environment nothing({});
    CHECK(weir::context_from_environment() == Context{});
  }
  const Environment empty({{"TRACEPARENT", ""}, {"TRACESTATE", "rojo=1"}, {"BAGGAGE", "a=1"}});
  CHECK(weir::context_from_environment() == Context{}.with_baggage("a", "1"));
}

TEST_CASE("a malformed TRACEPARENT is counted, and the process begins a trace") {
  const Environment set({{"TRACEPARENT", "nonsense"}, {"TRACESTATE", "rojo=1"}});
  const auto before = weir::malformed_traceparents();
  const Context context = weir::context_from_environment();
  CHECK(weir::malformed_traceparents() == before + 1);
  CHECK(context.valid());
  CHECK(context.tracestate().empty());
}

TEST_CASE("a child process has the variables of its context, and none of ours") {
  const Environment ours({{"TRACEPARENT", "ours"}, {"TRACESTATE", "ours"}, {"BAGGAGE", "ours"}});
  const auto child = [](const Context& context) {
    weir::testing::Process process({"/bin/sh", "-c", "echo \"${TRACEPARENT-none} ${TRACESTATE-none} ${BAGGAGE-none}\""},
                                   environment(context));
    CHECK(process.wait() == 0);
    return process.out();
  };
  const Context context = extracted({{"traceparent", traceparent}});
  CHECK(child(context) == traceparent + " none none\n");
  CHECK(child(context.with_tracestate("a", "1").with_baggage("b", "2")) == traceparent + " a=1 b=2\n");
  CHECK(child(Context{}.with_baggage("b", "2")) == "none none b=2\n");
  CHECK(child(Context{}) == "none none none\n");
}
