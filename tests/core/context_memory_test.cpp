// Contexts without memory: they keep their ids, lose no more than what was to be said, and throw nothing.
#include <cstdlib>
#include <new>
#include <string>

#include "support/catch.hpp"
#include "weir/core/context.hpp"
#include "weir/core/propagation.hpp"

using weir::Context;

namespace {

/// Allocations from this one on fail, counted from 1; 0: none does.
thread_local int first_to_fail = 0, allocations = 0;

void* allocate(std::size_t size) noexcept { return first_to_fail != 0 && ++allocations >= first_to_fail ? nullptr : std::malloc(size); }

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (void* memory = allocate(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace {

/// Calls check(make()) while the n-th allocation and those after it fail, for every n. How many there are.
template <class Make, class Check>
int at_every_allocation(Make make, Check check) {
  for (int n = 1;; ++n) {
    first_to_fail = n;
    allocations = 0;
    const Context context = make();
    first_to_fail = 0;
    INFO("allocation " << n);
    if (allocations < n) return n - 1;
    check(context);
  }
}

const std::string traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const std::string tracestate = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", baggage = "user=ada%20lovelace,tenant=17";

}  // namespace

TEST_CASE("a context that has no memory for a change stays what it was") {
  const Context context = Context::from_traceparent(traceparent, tracestate, baggage).with_request_id("a request id that is long");
  const std::string text(100, 'x');
  const auto unchanged = [&](const Context& result) { CHECK(result == context); };
  CHECK(at_every_allocation([&] { return context.with_request_id(text); }, unchanged) > 3);
  CHECK(at_every_allocation([&] { return context.with_baggage("k", text); }, unchanged) > 3);
  CHECK(at_every_allocation([&] { return context.with_tracestate("k", text); }, unchanged) > 3);
  CHECK(at_every_allocation([&] { return context.with_deadline({}); }, unchanged) > 3);
}

TEST_CASE("a request's context keeps the trace when there is no memory for the rest") {
  const auto header = [](std::string_view name) {
    return std::string_view(name == "traceparent"  ? traceparent
                            : name == "tracestate" ? tracestate
                            : name == "baggage"    ? baggage
                                                   : traceparent);
  };
  const auto check = [](const Context& context) { CHECK(context.traceparent() == traceparent); };
  CHECK(at_every_allocation([&] { return weir::extract(header); }, check) > 3);
}

TEST_CASE("copies, scopes and the ambient context need no memory") {
  const Context context = Context::from_traceparent(traceparent, tracestate, baggage);
  first_to_fail = 1;
  allocations = 0;
  Context seen;
  {
    const weir::ContextScope scope{context};
    seen = Context::current().with_span(context.trace_id(), context.span_id());
  }
  first_to_fail = 0;
  CHECK(allocations == 0);
  CHECK(seen == context);
}
