#include "weir/core/context.hpp"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using weir::Context;
using weir::ContextScope;
using weir::SpanId;
using weir::TraceId;

namespace {

using Clock = std::chrono::steady_clock;

const Context one{TraceId{1, 1}, SpanId{1}}, two{TraceId{2, 2}, SpanId{2}, false};
const Clock::time_point noon{std::chrono::hours(12)};

/// One that says something of everything.
Context full() {
  return Context::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", "rojo=1", "user=ada")
      .with_request_id("r-1")
      .with_deadline(noon);
}

}  // namespace

TEST_CASE("a context belongs to no trace unless it is told") {
  CHECK_FALSE(Context{}.valid());
  CHECK(Context{}.sampled());
  CHECK(one.valid());
  CHECK(Context::current() == Context{});
}

TEST_CASE("scopes nest, each on its own thread") {
  {
    ContextScope outer{one};
    CHECK(Context::current() == one);
    {
      ContextScope inner{two};
      CHECK(Context::current() == two);
      std::thread([] { CHECK(Context::current() == Context{}); }).join();
    }
    CHECK(Context::current() == one);
  }
  CHECK(Context::current() == Context{});
}

TEST_CASE("a wrapped callable runs under the context, passes arguments and results, and leaves the thread as it was") {
  auto wrapped = one.wrap([](int& a, int b) -> int& {
    CHECK(Context::current() == one);
    a += b;
    return a;
  });
  int number = 1;
  std::thread([&] {
    CHECK(&wrapped(number, 2) == &number);
    CHECK(Context::current() == Context{});
  }).join();
  CHECK(number == 3);
}

TEST_CASE("what is said of a context is said of a copy: the original stays as it is") {
  const Context before = full(), context = before;
  const Context changed[] = {
      context.with_span(TraceId{1, 1}, SpanId{1}),
      context.with_request_id("other"),
      context.with_new_request_id(),
      context.with_deadline(noon - noon.time_since_epoch()),
      context.with_timeout(Clock::duration::min()),
      context.with_baggage("user", "grace"),
      context.with_tracestate("rojo", "2"),
  };
  for (const Context& other : changed) CHECK(other != before);
  CHECK(context == before);
  CHECK(context.request_id() == "r-1");
  CHECK(context.baggage() == "user=ada");
  CHECK(context.tracestate() == "rojo=1");
  CHECK(context.deadline() == noon);
}

TEST_CASE("each change keeps everything else") {
  const Context context = full();
  const auto but = [](const Context& c) {
    return std::pair{c.traceparent(), std::string(c.tracestate()) + '|' + std::string(c.baggage())};
  };
  CHECK(but(context.with_request_id("other")) == but(context));
  CHECK(but(context.with_deadline(noon)) == but(context));
  CHECK(context.with_baggage("user", "grace").tracestate() == "rojo=1");
  CHECK(context.with_tracestate("rojo", "2").baggage() == "user=ada");
  const Context moved = context.with_span(TraceId{1, 1}, SpanId{1});
  CHECK(moved.request_id() == "r-1");
  CHECK(moved.baggage() == "user=ada");
  CHECK(moved.deadline() == noon);
}

TEST_CASE("in another span a trace keeps what is known of its id; in another trace it does not") {
  const Context context = full();
  CHECK(context.with_span(context.trace_id(), SpanId{1}).trace_flags() == 3);
  CHECK(context.with_span(context.trace_id(), SpanId{1}, false).trace_flags() == 2);
  CHECK(context.with_span(TraceId{1, 1}, SpanId{1}).trace_flags() == 1);
  CHECK(context.with_span({}, {}).trace_flags() == 3);  // of the trace that begins under it
}

TEST_CASE("contexts are equal when all they say is") {
  CHECK(Context{} == Context(TraceId{}, SpanId{}));
  CHECK(full() == full());
  CHECK(full().with_request_id("") != full());
  CHECK(Context{}.with_request_id("").with_baggage("a", "") == Context{});
  CHECK(one != Context(TraceId{1, 1}, SpanId{1}, false));
  CHECK(one != Context(TraceId{1, 1}, SpanId{2}));
  CHECK(one != Context(TraceId{1, 2}, SpanId{1}));
  CHECK(one != one.with_deadline(noon));
  CHECK(one.with_baggage("a", "1") != one.with_tracestate("a", "1"));
}

TEST_CASE("a request id has visible ASCII characters, up to 256; a new one is random") {
  CHECK(one.with_request_id("a b\r\n\t\x7f\xff~!").request_id() == "a_b_____~!");
  CHECK(one.with_request_id(std::string(257, 'x')).request_id() == std::string(256, 'x'));
  const Context first = one.with_new_request_id(), second = first.with_new_request_id();
  CHECK(first.request_id().size() == 32);
  CHECK(first.request_id().find_first_not_of("0123456789abcdef") == std::string_view::npos);
  CHECK(first.request_id() != second.request_id());
  CHECK(first.with_request_id(first.request_id()) == first);
}

TEST_CASE("of two deadlines the earlier counts") {
  CHECK_FALSE(one.deadline());
  CHECK_FALSE(one.expired());
  const auto hour = std::chrono::hours(1);
  CHECK(one.with_deadline(noon).with_deadline(noon + hour).deadline() == noon);
  CHECK(one.with_deadline(noon).with_deadline(noon - hour).deadline() == noon - hour);
  CHECK(one.with_deadline(Clock::time_point::min()).expired());
  CHECK_FALSE(one.with_deadline(Clock::time_point::max()).expired());
  const auto before = Clock::now();
  const auto timeout = one.with_timeout(hour).deadline();
  CHECK(*timeout >= before + hour);
  CHECK(*timeout <= Clock::now() + hour);
  CHECK(one.with_timeout(std::chrono::nanoseconds(0)).expired());
  CHECK(one.with_timeout(std::chrono::nanoseconds::min()).expired());
  CHECK(one.with_timeout(std::chrono::nanoseconds::max()).deadline() == Clock::time_point::max());
  CHECK(one.with_timeout(std::chrono::nanoseconds::max()).with_deadline(noon).deadline() == noon);
}

TEST_CASE("scopes hand on all that a context says, and restore all of it") {
  {
    const ContextScope outer{full()};
    CHECK(Context::current() == full());
    {
      const ContextScope inner{Context::current().with_request_id("r-2").with_baggage("user", "")};
      CHECK(Context::current().request_id() == "r-2");
      CHECK(Context::current().baggage().empty());
      {
        const ContextScope none{Context{}};
        CHECK(Context::current() == Context{});
      }
      CHECK(Context::current().request_id() == "r-2");
    }
    CHECK(Context::current() == full());
  }
  CHECK(Context::current() == Context{});
}

TEST_CASE("what a context says lives as long as some copy of it") {
  Context kept;
  std::string_view id;
  {
    const ContextScope scope{full()};
    kept = Context::current();
    id = kept.request_id();
  }
  Context moved = std::move(kept);
  CHECK(id == "r-1");
  CHECK(moved == full());
  moved = moved.with_request_id("r-2");
  CHECK(moved.request_id() == "r-2");
}

TEST_CASE("a wrapped callable carries all of a context to another thread, and may be moved only, be copied, be called again") {
  auto once = full().wrap([text = std::make_unique<std::string>("x")] { return *text + std::string(Context::current().request_id()); });
  auto copied = full().wrap([] { return Context::current(); });
  std::string text;
  Context seen;
  std::thread([&text, &seen, once = std::move(once), copied]() mutable {
    text = once() + once();
    seen = copied();
  }).join();
  CHECK(text == "xr-1xr-1");
  CHECK(seen == full());
}

TEST_CASE("a wrapped callable that throws leaves the thread as it was") {
  auto wrapped = full().wrap([] { throw 1; });
  CHECK_THROWS_AS(wrapped(), int);
  CHECK(Context::current() == Context{});
}

TEST_CASE("many threads copy, change and drop one context") {
  const Context shared = full();
  std::vector<std::thread> threads;
  std::vector<Context> last(4);
  for (std::size_t i = 0; i < last.size(); ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 2000; ++round) {
        const ContextScope scope{shared};
        Context mine = Context::current().with_baggage("thread", std::to_string(i));
        last[i] = mine;
        mine = shared;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < last.size(); ++i) CHECK(last[i].baggage() == "user=ada,thread=" + std::to_string(i));
  CHECK(shared == full());
}

TEST_CASE("contexts that ended out of order are skipped, the oldest forgotten beyond eight") {
  using namespace weir::detail;
  ThreadState thread;
  for (std::uint64_t i = 2; i <= 20; ++i) note_ended(thread, SpanId{i}, {TraceId{9, 9}, SpanId{i - 1}});
  CHECK(thread.ended_count == 8);
  thread.span = SpanId{20};
  skip_ended(thread);
  CHECK(thread.span == SpanId{12});
  CHECK(thread.ended_count == 0);
}
