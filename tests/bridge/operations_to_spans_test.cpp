#include "weir/bridge/operations_to_spans.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "weir/operation/wrap.hpp"
#include "weir/trace/in_memory_sender.hpp"

using namespace weir;

namespace {

thread_local std::uint64_t allocations = 0;

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace {

std::uint64_t described = 0;

struct Request {
  static constexpr std::string_view name = "http.request";
  static constexpr SpanKind kind = SpanKind::http;
  struct Args {
    std::string_view method, route;
    std::string title() const { return std::string(method) + " " + std::string(route); }
    void describe(AttributeSink& sink) const { sink.set("method", method), ++described; }
  };
  struct Result {
    int status = 0;
    void describe(AttributeSink& sink) const { sink.set("status", status), ++described; }
  };
};

struct Query {
  static constexpr SpanKind kind = SpanKind::sql;
  struct Args {
    std::string_view statement;
  };
  struct Result {};
};

struct Unending {  // its Result cannot be made up
  struct Args {};
  struct Result {
    explicit Result(int) {}
    void describe(AttributeSink& sink) const { sink.set("result", true); }
  };
};

struct CacheHit {
  void describe(AttributeSink& sink) const { sink.set("cache.hit", true), ++described; }
};

/// A tracer into memory, and a root with the bridge installed.
class Bridged {
 public:
  Bridged() : tracer(sink, {.service_name = "test"}), installed_(make_root()) {}

  std::vector<Span> spans() { return sink.spans(); }
  Span span(std::string_view name) {
    const auto all = spans();
    const auto found = std::find_if(all.begin(), all.end(), [&](const Span& s) { return s.name == name; });
    REQUIRE(found != all.end());
    return *found;
  }

  InMemorySender sink;
  Tracer tracer;

 private:
  Root make_root() {
    Root root;
    root.observe(std::make_shared<OperationsToSpans>(tracer));
    return root;
  }
  RootScope installed_;
};

}  // namespace

TEST_CASE("an operation becomes a span with the title, kind and attributes its type gives") {
  Bridged bridged;
  {
    Op<Request> request{{"GET", "/orders"}};
    request.finish({.status = 200});
  }
  REQUIRE(bridged.spans().size() == 1);
  const Span span = bridged.spans()[0];
  CHECK(span.name == "GET /orders");
  CHECK(span.kind == SpanKind::http);
  CHECK(span.parent_id.empty());
  CHECK(span.attrs == StringAttributes{{"method", "GET"}, {"status", "200"}});
  CHECK(span.end_time >= span.start_time);
}

TEST_CASE("without a title the operation's name is the span's") {
  Bridged bridged;
  { Op<Query> query{{"select 1"}}; }
  CHECK(bridged.spans()[0].name == "Query");
}

TEST_CASE("nested operations and spans entered by hand form one tree") {
  Bridged bridged;
  {
    Op<Request> request{{"GET", "/"}};
    ScopedSpan render = bridged.tracer.enter("render");
    { Op<Query> query{{"select 1"}}; }
  }
  const Span request = bridged.span("GET /"), render = bridged.span("render"), query = bridged.span("Query");
  CHECK(render.parent_id == request.id);
  CHECK(query.parent_id == render.id);
  CHECK(query.trace_id == request.trace_id);
  CHECK_FALSE(Context::current().valid());
}

TEST_CASE("an operation without a result is a span all the same") {
  Bridged bridged;
  { Op<Unending> operation{{}}; }
  REQUIRE(bridged.spans().size() == 1);
  CHECK(bridged.spans()[0].attrs.empty());
}

TEST_CASE("an operation left by an exception is a failed span") {
  Bridged bridged;
  CHECK_THROWS_AS(wrap<Query>({"select 1"}, []() -> Query::Result { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(bridged.spans()[0].failed());
  CHECK(bridged.spans()[0].attrs.at("error.message") == "no");
  CHECK_FALSE(Context::current().valid());
}

TEST_CASE("an exception that is no std::exception fails the span, too") {
  Bridged bridged;
  CHECK_THROWS_AS(wrap<Query>({"select 1"}, []() -> Query::Result { throw 1; }), int);
  CHECK(bridged.spans()[0].attrs.at("error.message") == "left by an exception");
}

TEST_CASE("what data events describe goes to the span of the operation they are emitted on") {
  Bridged bridged;
  {
    Op<Request> request{{"GET", "/"}};
    Op<Query> query{{"select 1"}};
    query.emit(CacheHit{});
    query.emit(Failure{"locked"});
  }
  CHECK(bridged.span("Query").attrs.at("cache.hit") == "true");
  CHECK(bridged.span("Query").attrs.at("error.message") == "locked");
  CHECK_FALSE(bridged.span("GET /").failed());
}

TEST_CASE("an operation under an explicit parent is its child, on whatever thread it runs") {
  Bridged bridged;
  {
    Op<Request> request{{"GET", "/"}};
    std::thread([&] {
      Op<Query> query{under(request), {"select 1"}};
      CHECK_FALSE(Context::current().valid());
    }).join();
  }
  CHECK(bridged.span("Query").parent_id == bridged.span("GET /").id);
}

TEST_CASE("a shared operation that is made current is the parent of what runs in its scope") {
  Bridged bridged;
  {
    Handle<Request> request = start<Request>({"GET", "/async"});
    CHECK_FALSE(Context::current().valid());
    std::thread([request] {
      OperationScope scope(*request);
      { Op<Query> query{{"select 1"}}; }
      request->finish({.status = 204});
    }).join();
  }
  const Span request = bridged.span("GET /async");
  CHECK(bridged.span("Query").parent_id == request.id);
  CHECK(request.attrs.at("status") == "204");
}

TEST_CASE("a parentless operation joins the trace of the ambient context") {
  Bridged bridged;
  const Context remote(TraceId{1, 2}, SpanId{3});
  {
    ContextScope scope(remote);
    { Op<Request> request{{"GET", "/"}}; }
    CHECK(Context::current() == remote);
  }
  const Span span = bridged.spans()[0];
  CHECK(span.trace_id == remote.trace_id().hex());
  CHECK(span.parent_id == remote.span_id().hex());
}

TEST_CASE("the context of a request that comes in is nearer than a shared operation around it") {
  Bridged bridged;
  const Context remote{TraceId{1, 2}, SpanId{3}};
  const auto connection = start<Request>({"GET", "/connection"});
  const OperationScope in_connection(connection);
  {
    const ContextScope scope(remote);
    { const Op<Request> request{{"GET", "/a"}}; }
    { const auto request = start<Request>({"GET", "/b"}); }
    const auto job = start<Request>({"GET", "/job"});
    const OperationScope in_job(job);
    { const Op<Request> nearer{{"GET", "/c"}}; }
  }
  { const Op<Request> request{{"GET", "/d"}}; }
  connection->finish({});
  for (const char* name : {"GET /a", "GET /b", "GET /job"}) {
    CHECK(bridged.span(name).trace_id == remote.trace_id().hex());
    CHECK(bridged.span(name).parent_id == remote.span_id().hex());
  }
  CHECK(bridged.span("GET /c").parent_id == bridged.span("GET /job").id);
  CHECK(bridged.span("GET /d").parent_id == bridged.span("GET /connection").id);
}

TEST_CASE("what a wrapped callable starts is a child of the span where its context was taken") {
  Bridged bridged;
  const auto job = start<Request>({"GET", "/job"});
  const auto run = [](const Context& context, std::string_view route) {
    auto work = context.wrap([route] { const Op<Request> request{{"GET", route}}; });
    std::thread([&] { work(); }).join();
  };
  {
    const ScopedSpan around = bridged.tracer.enter("around");
    const OperationScope in_job(job);
    run(Context::current(), "/in job");  // directly in the shared operation, of which the ambient context knows nothing
    {
      const Op<Request> stack{{"GET", "/stack"}};
      run(Context::current(), "/in stack");
      const ScopedSpan by_hand = bridged.tracer.enter("by hand");
      run(Context::current(), "/in by hand");
      run(around.context(), "/in around");
    }
    {
      const ContextScope scope(Context(TraceId{1, 2}, SpanId{3}));
      run(Context::current(), "/in scope");
    }
  }
  job->finish({});
  CHECK(bridged.span("GET /in job").parent_id == bridged.span("GET /job").id);
  CHECK(bridged.span("GET /in stack").parent_id == bridged.span("GET /stack").id);
  CHECK(bridged.span("GET /in by hand").parent_id == bridged.span("by hand").id);
  CHECK(bridged.span("GET /in around").parent_id == bridged.span("around").id);
  CHECK(bridged.span("GET /in scope").parent_id == SpanId{3}.hex());
}

TEST_CASE("operations that finish out of order leave the nearest open one ambient") {
  Bridged bridged;
  {
    Op<Request> outer{{"GET", "/outer"}};
    const Context outer_context = Context::current();
    Op<Request> middle{{"GET", "/middle"}};
    Op<Query> inner{{"select 1"}};
    middle.finish({});
    inner.finish({});
    CHECK(Context::current() == outer_context);
    { Op<Query> after{{"select 2"}}; }
  }
  CHECK_FALSE(Context::current().valid());
  const auto spans = bridged.spans();
  CHECK(std::count_if(spans.begin(), spans.end(), [&](const Span& s) { return s.parent_id == bridged.span("GET /outer").id; }) == 2);
}

TEST_CASE("an operation finished by another thread gives its thread the ambient context back when it is destroyed") {
  Bridged bridged;
  {
    Op<Request> request{{"GET", "/"}};
    std::thread([&] { request.finish({.status = 500}); }).join();
  }
  CHECK_FALSE(Context::current().valid());
  CHECK(bridged.spans()[0].attrs.at("status") == "500");
}

TEST_CASE("what is not sampled is not recorded or described, and neither is anything below it") {
  Bridged bridged;
  const std::uint64_t before = described;
  {
    ContextScope scope(Context(TraceId{1, 2}, SpanId{3}, false));
    Op<Request> request{{"GET", "/"}};
    Op<Query> query{{"select 1"}};
    request.emit(CacheHit{});
    request.finish({.status = 200});
  }
  CHECK(bridged.spans().empty());
  CHECK(described == before);
  bridged.tracer.set_sampler(Sampler::never());
  {
    Op<Request> request{{"GET", "/"}};
    request.finish({.status = 200});
  }
  CHECK(described == before);
}

TEST_CASE("operations that become spans allocate nothing in the long run") {
  Bridged bridged;
  const auto run = [] {
    Op<Request> request{{"GET", "/"}};
    for (int i = 0; i < 3; ++i) {
      Op<Query> query{{"select 1"}};
    }
    request.finish({.status = 200});
  };
  run();
  const std::uint64_t before = allocations;
  for (int i = 0; i < 100; ++i) run();
  CHECK(allocations == before);
  CHECK(bridged.spans().size() == 404);
}
