// Contexts and operations: a context holds the nearest shared one, and takes its work there.
#include "weir/core/context.hpp"

#include <coroutine>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// A root that counts what finishes.
struct Counted {
  Counted() {
    Root root;
    root.on_finish<Request>([this] { ++requests; });
    root.on_finish<Query>([this] { ++queries; });
    previous = swap_root(std::move(root));
  }
  ~Counted() { swap_root(std::move(previous)); }
  std::atomic<int> requests{0}, queries{0};
  Root previous;
};

Context context_in(const Handle<Request>& operation) {
  const OperationScope scope(operation);
  return Context::current();
}

}  // namespace

TEST_CASE("what a wrapped callable starts on another thread is a child of the shared operation, whose listeners hear it") {
  const Handle<Request> request = start<Request>({});
  std::vector<int> heard;
  request->on_start<Query>([&](const Query::Args& args) { heard.push_back(args.number); });
  auto work = context_in(request).wrap([&](int number) {
    const Op<Query> query{{number}};
    CHECK(query.parent() == &*request);
    return Operation::current() == &query;
  });
  bool current = false;
  std::thread([&] {
    current = work(1) && work(2);
    CHECK(Operation::current() == nullptr);
    const Op<Query> elsewhere{{3}};
    CHECK(elsewhere.parent() != &*request);
  }).join();
  CHECK(current);
  CHECK(heard == std::vector<int>{1, 2});
}

TEST_CASE("a context passes operations on stacks by, and never holds one") {
  const Handle<Request> request = start<Request>({});
  const OperationScope scope(request);
  const Op<Query> outer{{}};
  Context context;
  {
    const Op<Query> inner{{}};
    context = Context::current();
    CHECK(context == context_in(request));
  }
  bool right = false;
  std::thread([&, context = std::move(context)] {
    const ContextScope on_thread(context);
    right = Operation::current() == &*request;
  }).join();
  CHECK(right);
}

TEST_CASE("without a shared operation a context holds none, and its work goes under the installed root") {
  const Counted root;
  const Op<Request> request{{}};
  auto work = Context::current().wrap([&] {
    const Op<Query> query{{}};
    return query.parent() == request.parent();
  });
  bool right = false;
  std::thread([&] { right = work(); }).join();
  CHECK(right);
  CHECK(root.queries == 1);
}

TEST_CASE("a ContextScope does not part a thread from an operation below the context's") {
  const Handle<Request> request = start<Request>({}), other = start<Request>({});
  const Context context = context_in(request), elsewhere = context_in(other);
  const OperationScope scope(request);
  const Op<Query> query{{}};
  {
    const ContextScope same(context);
    CHECK(Operation::current() == &query);
    const Op<Query> below{{}};
    CHECK(below.parent() == &query);
  }
  {
    const ContextScope none(Context{});
    CHECK(Operation::current() == &query);
  }
  {
    const ContextScope away(elsewhere);
    CHECK(Operation::current() == &*other);
    {
      const ContextScope back(context);
      CHECK(Operation::current() == &*request);
    }
    CHECK(Operation::current() == &*other);
  }
  CHECK(Operation::current() == &query);
}

TEST_CASE("the last context that holds a shared operation finishes it, on its thread") {
  Counted root;
  Handle<Request> request = start<Request>({});
  std::thread::id finished_by;
  request->on_finish<Request>([&] { finished_by = std::this_thread::get_id(); });
  Context first = context_in(request);
  request = {};
  Context second = first.with_request_id("r").with_span(TraceId{1, 1}, SpanId{1});
  first = {};
  CHECK(root.requests == 0);
  std::thread::id other;
  std::thread([&, last = std::move(second)]() mutable {
    other = std::this_thread::get_id();
    auto work = last.wrap([&] { const Op<Query> query{{}}; });
    last = {};
    CHECK(root.requests == 0);
    work();
    CHECK(root.queries == 1);
  }).join();
  CHECK(root.requests == 1);
  CHECK(finished_by == other);
}

TEST_CASE("a scope that holds the last context of a shared operation finishes it at its end, when all is as before") {
  Counted root;
  Handle<Request> request = start<Request>({});
  bool outside = false;
  request->on_finish<Request>([&] { outside = Operation::current() == nullptr && Context::current() == Context{}; });
  {
    const ContextScope scope(context_in(std::exchange(request, {})).with_request_id("r"));
    CHECK(root.requests == 0);
  }
  CHECK(root.requests == 1);
  CHECK(outside);
}

TEST_CASE("a shared operation that has finished may still be a context's: its events pass on") {
  const Counted root;
  const Handle<Request> request = start<Request>({});
  const Context context = context_in(request);
  request->finish();
  const ContextScope scope(context);
  const Op<Query> query{{}};
  CHECK(query.parent() == &*request);
}

TEST_CASE("contexts with different operations differ") {
  const Handle<Request> first = start<Request>({}), second = start<Request>({});
  CHECK(context_in(first) == context_in(first));
  CHECK(context_in(first) != context_in(second));
  CHECK(context_in(first) != Context{});
}

TEST_CASE("many threads work under one context until the last of them ends its operation") {
  Counted root;
  Handle<Request> request = start<Request>({});
  std::atomic<int> heard{0}, named{0};
  request->on_start<Query>([&] { ++heard; });
  auto work = context_in(std::exchange(request, {})).with_request_id("r").wrap([&] {
    for (int i = 0; i < 500; ++i) {
      const Op<Query> query{{}};
      const Context copy = Context::current().with_baggage("i", "1");
      if (copy.request_id() == "r") ++named;
    }
  });
  {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(work);
    { const auto gone = std::move(work); }
    for (std::thread& thread : threads) thread.join();
  }
  CHECK(heard == 2000);
  CHECK(named == 2000);
  CHECK(root.requests == 1);
}

namespace {

/// A coroutine that starts at once and is resumed by whoever its wait hands it to.
struct Task {
  struct promise_type {
    Task get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};
struct Waiting {
  std::coroutine_handle<>& waiting;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> handle) const { waiting = handle; }
  void await_resume() const {}
};

struct Seen {
  Operation* parent = nullptr;
  std::string request_id;
};

Task handle(Context context, std::coroutine_handle<>& waiting, std::vector<Seen>& seen) {
  const auto look = [&] {
    const ContextScope scope(context);  // between two waits
    const Op<Query> query{{}};
    seen.push_back({query.parent(), std::string(Context::current().request_id())});
  };
  look();
  co_await Waiting{waiting};
  look();
}

}  // namespace

TEST_CASE("a coroutine takes its context along to the thread that resumes it, and leaves none behind") {
  const Handle<Request> request = start<Request>({});
  std::coroutine_handle<> first, second;
  std::vector<Seen> seen;
  handle(context_in(request).with_request_id("first"), first, seen);
  handle(Context{}.with_request_id("second"), second, seen);
  CHECK(Context::current() == Context{});
  std::thread([&] {
    second.resume();
    CHECK(Context::current() == Context{});
    CHECK(Operation::current() == nullptr);
    first.resume();
  }).join();
  REQUIRE(seen.size() == 4);
  CHECK(seen[0].parent == &*request);
  CHECK(seen[0].request_id == "first");
  CHECK(seen[1].parent != &*request);
  CHECK(seen[2].request_id == "second");
  CHECK(seen[2].parent != &*request);
  CHECK(seen[3].request_id == "first");
  CHECK(seen[3].parent == &*request);
}
