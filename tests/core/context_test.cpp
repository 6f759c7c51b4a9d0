#include "weir/core/context.hpp"

#include <thread>

#include "support/catch.hpp"

using weir::Context;
using weir::ContextScope;
using weir::SpanId;
using weir::TraceId;

namespace {
const Context one{TraceId{1, 1}, SpanId{1}}, two{TraceId{2, 2}, SpanId{2}, false};
}

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

TEST_CASE("contexts that ended out of order are skipped, the oldest forgotten beyond eight") {
  using namespace weir::detail;
  ThreadState thread;
  for (std::uint64_t i = 2; i <= 20; ++i) note_ended(thread, SpanId{i}, TraceId{9, 9}, SpanId{i - 1});
  CHECK(thread.ended_count == 8);
  thread.span = SpanId{20};
  skip_ended(thread);
  CHECK(thread.span == SpanId{12});
  CHECK(thread.ended_count == 0);
}
