// Registering and removing listeners, the forms they may take, and what happens when they throw.
#include "weir/operation/listener.hpp"

#include <malloc.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/catch.hpp"
#include "support/operations.hpp"

using namespace weir;
using namespace weir::testing;

// ---- forms

namespace {
int free_function_calls = 0;
void free_function(Op<Request>&, const Request::Args& args) { free_function_calls += args.number; }
}  // namespace

TEST_CASE("a listener may take operation and event, operation, event or nothing; the first form that fits is called") {
  Log log;
  Op<Request> around{{}};
  around.on_start<Request>([&](Op<Request>& op, const Request::Args& args) { log.push_back(op->user + std::to_string(args.number)); });
  around.on_start<Request>([&](Op<Request>& op) { log.push_back(op->user); });
  around.on_start<Request>([&](const Request::Args& args) { log.push_back(std::to_string(args.number)); });
  around.on_start<Request>([&] { log.push_back("nothing"); });
  around.on_start<Request>([&](const Op<Request>& op, Request::Args args) { log.push_back(op->user + std::to_string(args.number + 1)); });
  around.on_start<Request>([&](Operation& op) { log.push_back(std::string(op.name())); });
  around.on_start<Request>([&](auto& op, auto& args) {
    static_assert(std::is_same_v<decltype(op), Op<Request>&>);
    static_assert(std::is_same_v<decltype(args), const Request::Args&>);
    log.push_back("generic 2");
  });
  around.on_start<Request>([&](auto& one) {
    static_assert(std::is_same_v<decltype(one), Op<Request>&>);
    log.push_back("generic 1");
  });
  around.on_start<Request>([&](const auto&... all) { log.push_back("variadic " + std::to_string(sizeof...(all))); });
  around.on_start<Request>([count = 0, &log](Op<Request>&) mutable { log.push_back("mutable " + std::to_string(++count)); });
  Op<Request> op{{5}, {"ada"}};
  CHECK(log == Log{"ada5", "ada", "5", "nothing", "ada6", "http.request", "generic 2", "generic 1", "variadic 2", "mutable 1"});
}

TEST_CASE("finish and data listeners take the same forms; a data listener may write to the event") {
  Log log;
  Op<Request> op{{}};
  op.on_finish<Request>([&](Op<Request>&, const Request::Result& result) { log.push_back(std::to_string(result.status)); });
  op.on_finish<Request>([&](Op<Request>&) { log.push_back("op"); });
  op.on_finish<Request>([&](const Request::Result&) { log.push_back("result"); });
  op.on_finish<Request>([&](auto&, const auto& result) { log.push_back(std::to_string(result.status + 1)); });
  op.on_data<Tick>([](Operation&, Tick& tick) { ++tick.value; });
  op.on_data<Tick>([](Tick& tick) { ++tick.value; });
  op.on_data<Tick>([](const Operation&, const Tick&) {});
  op.on_data<Tick>([](auto&, auto& tick) { ++tick.value; });
  op.on_data<int>([&](int number) { log.push_back("int " + std::to_string(number)); });
  op.on_data<std::string>([&](std::string& text) { text += "!"; });
  Tick tick{1};
  op.emit(tick);
  CHECK(tick.value == 4);
  op.emit(42);
  std::string text = "hi";
  op.emit(text);
  CHECK(text == "hi!");
  op.finish({200});
  CHECK(log == Log{"int 42", "200", "op", "result", "201"});
}

TEST_CASE("functions, function pointers and std::function are listeners") {
  free_function_calls = 0;
  Op<Request> around{{}};
  around.on_start<Request>(free_function);
  around.on_start<Request>(&free_function);
  const std::function<void(Op<Request>&, const Request::Args&)> kept = free_function;
  around.on_start<Request>(kept);
  Op<Request> op{{7}};
  CHECK(free_function_calls == 21);
}

TEST_CASE("what cannot be a listener does not satisfy the concept") {
  STATIC_REQUIRE(ListenerFor<void (*)(const Request::Args&), Op<Request>, const Request::Args>);
  STATIC_REQUIRE_FALSE(ListenerFor<void (*)(Request::Args&), Op<Request>, const Request::Args>);
  STATIC_REQUIRE_FALSE(ListenerFor<void (*)(const Request::Args&, Op<Request>&), Op<Request>, const Request::Args>);
  STATIC_REQUIRE_FALSE(ListenerFor<void (*)(const Query::Args&), Op<Request>, const Request::Args>);
}

TEST_CASE("closures of any size, alignment and value category are kept until the finish and destroyed once") {
  std::atomic<int> alive{0};
  int calls = 0;
  {
    Op<Request> op{{}};
    op.on_data<Tick>([life = Life(alive), &calls] { ++calls; });
    op.on_data<Tick>([life = Life(alive), &calls, large = std::array<int, 100>{1}] { calls += large[0]; });
    op.on_data<Tick>([life = Life(alive), &calls, only = std::make_unique<int>(1)] { calls += *only; });
    op.on_data<Tick>(
        [life = Life(alive), &calls, only = std::make_unique<int>(1), large = std::array<int, 100>{}] { calls += *only + large[1]; });
    struct alignas(64) Aligned {
      int one = 1;
    };
    op.on_data<Tick>([life = Life(alive), &calls, aligned = Aligned{}] {
      calls += aligned.one;
      CHECK(reinterpret_cast<std::uintptr_t>(&aligned) % 64 == 0);
    });
    const auto copied = [life = Life(alive), &calls] { ++calls; };
    op.on_data<Tick>(copied);
    CHECK(alive == 7);
    op.emit(Tick{});
    CHECK(calls == 6);
    op.finish();
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
}

TEST_CASE("a closure whose copy throws is not registered and harms nothing") {
  struct Throwing {
    Throwing() = default;
    Throwing(const Throwing&) { throw std::runtime_error("copy"); }
    Throwing(Throwing&&) noexcept {}
    void operator()() const {}
  };
  int calls = 0;
  Op<Request> op{{}};
  const Throwing throwing;
  CHECK_THROWS_AS(op.on_data<Tick>(throwing), std::runtime_error);
  op.on_data<Tick>([&] { ++calls; });
  op.emit(Tick{});
  CHECK(calls == 1);
}

TEST_CASE("a closure whose copy registers another listener does not deadlock") {
  struct Copying {
    explicit Copying(Op<Request>& o) : op(&o) {}
    Copying(const Copying& other) : op(other.op) {
      op->on_data<Tick>([] {});
    }
    Copying(Copying&& other) noexcept = default;
    void operator()() const {}
    Op<Request>* op;
  };
  Op<Request> op{{}};
  const Copying copying(op);
  CHECK(op.on_data<Tick>(copying).remove());
}

// ---- 14: remove

TEST_CASE("remove() takes a listener away and destroys it; ignoring the handle keeps it") {
  std::atomic<int> alive{0};
  Log log;
  Root root;
  root.on_data<Tick>([&] { log.push_back("first"); });
  Listener second = root.on_data<Tick>([&, life = Life(alive)] { log.push_back("second"); });
  root.on_data<Tick>([&] { log.push_back("third"); });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  op.emit(Tick{});
  Listener copy = second;
  CHECK(alive == 1);
  CHECK(second.remove());
  CHECK(alive == 0);
  CHECK_FALSE(second.remove());
  CHECK_FALSE(copy.remove());
  op.emit(Tick{});
  CHECK(log == Log{"first", "second", "third", "first", "third"});
  CHECK_FALSE(Listener{}.remove());
}

TEST_CASE("stale handles are harmless after the operation is gone, also when its memory is used again") {
  std::atomic<int> alive{0};
  std::optional<Op<Request>> place;
  std::vector<Listener> stale;
  for (int round = 0; round < 100; ++round) {
    place.emplace(Request::Args{});
    Listener now = place->on_data<Tick>([life = Life(alive)] {});
    for (Listener& listener : stale) CHECK_FALSE(listener.remove());
    CHECK(alive == 1);
    if (round % 2 == 0) CHECK(now.remove());
    stale.push_back(now);
    place.reset();
    CHECK(alive == 0);
  }
  for (Listener& listener : stale) CHECK_FALSE(listener.remove());
}

TEST_CASE("a stale handle does not remove what was registered later on the same node") {
  Op<Request> op{{}};
  Listener old = op.on_data<Tick>([] {});
  REQUIRE(old.remove());
  int calls = 0;
  Listener fresh = op.on_data<Tick>([&] { ++calls; });
  CHECK_FALSE(old.remove());
  op.emit(Tick{});
  CHECK(calls == 1);
  CHECK(fresh.remove());
}

TEST_CASE("a stale handle does not remove what was registered later in the same memory of the same node") {
  int calls = 0;
  Op<Request> op{{}};
  op.on_data<int>([] {});
  for (int i = 0; i < 100; ++i) {
    Listener old = op.on_data<Tick>([] {});
    REQUIRE(old.remove());
    Listener fresh = op.on_data<Tick>([&] { ++calls; });
    CHECK_FALSE(old.remove());
    op.emit(Tick{});
    CHECK(fresh.remove());
  }
  CHECK(calls == 100);
}

TEST_CASE("a listener may remove itself: it is not destroyed under its own feet, but soon after") {
  std::atomic<int> alive{0};
  int calls = 0;
  Op<Request> op{{}};
  Listener self;
  self = op.on_data<Tick>([&, life = Life(alive), big = std::array<int, 64>{3}] {
    calls += self.remove() ? 1 : 100;
    calls += self.remove() ? 100 : 1;
    CHECK(alive == 1);
    CHECK(big[0] == 3);
  });
  op.emit(Tick{});
  CHECK(calls == 2);
  CHECK(alive == 0);
  op.emit(Tick{});
  CHECK(calls == 2);
}

TEST_CASE("a listener removed during an event, further on the same node or further up, is not called any more") {
  Log log;
  Root root;
  Listener above = root.on_data<Tick>([&] { log.push_back("above"); });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  Listener later;
  op.on_data<Tick>([&] {
    log.push_back("remover");
    CHECK(later.remove());
    CHECK(above.remove());
  });
  later = op.on_data<Tick>([&] { log.push_back("later"); });
  op.emit(Tick{});
  CHECK(log == Log{"remover"});
}

TEST_CASE("a listener removed in an inner event lives until the outer event has ended") {
  std::atomic<int> alive{0};
  Op<Request> op{{}};
  Listener self;
  self = op.on_data<Tick>([&, life = Life(alive)](const Tick& tick) {
    if (tick.value == 0) return op.emit(Tick{1});
    self.remove();
    CHECK(alive == 1);
  });
  op.emit(Tick{0});
  CHECK(alive == 0);
}

TEST_CASE("a listener removed inside a listener survives the end of its operation until nobody runs it") {
  std::atomic<int> alive{0};
  std::optional<Op<Request>> inner;
  Op<Request> op{{}};
  Listener on_inner;
  op.on_data<Tick>([&] {
    inner.emplace(Request::Args{});
    on_inner = inner->on_data<int>([life = Life(alive)] {});
    CHECK(on_inner.remove());
    inner.reset();
  });
  op.emit(Tick{});
  CHECK(alive == 0);
}

TEST_CASE("listeners removed inside a listener are destroyed at the latest when their thread ends") {
  std::atomic<int> alive{0};
  Op<Request> op{{}};
  std::vector<Listener> handles;
  for (int i = 0; i < 10; ++i) handles.push_back(op.on_data<Tick>([life = Life(alive)] {}));
  std::thread([&] {
    Op<Query> query{under(op), {}};
    query.on_data<int>([&] {
      for (Listener& handle : handles) handle.remove();
    });
    query.emit(1);
  }).join();
  CHECK(alive == 0);
}

namespace {
/// Bytes of the heap in use. (Sanitizers have heaps of their own, which mallinfo2 does not see: there the test only checks that nothing
/// breaks.)
std::size_t heap_in_use() { return mallinfo2().uordblks; }
}  // namespace

TEST_CASE("ten million registrations and removals on one root do not grow it") {
  constexpr int rounds = sanitized ? 100'000 : 10'000'000;
  std::atomic<int> alive{0};
  Root root;
  int calls = 0;
  root.on_data<Tick>([&] { ++calls; });
  for (int i = 0; i < 1000; ++i) root.on_data<Tick>([life = Life(alive)] {}).remove();
  const std::size_t before = heap_in_use();
  for (int i = 0; i < rounds; ++i) root.on_data<Tick>([life = Life(alive)] {}).remove();
  CHECK(heap_in_use() <= before + 4096);
  CHECK(alive == 0);
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  op.emit(Tick{});
  CHECK(calls == 1);
}

TEST_CASE("registrations and removals among others that come and go do not grow a root") {
  constexpr int rounds = sanitized ? 20'000 : 1'000'000;
  Root root;
  std::vector<Listener> window(100);
  const auto cycle = [&](int i) {
    Listener& oldest = window[static_cast<std::size_t>(i) % window.size()];
    oldest.remove();
    switch (i % 3) {
      case 0: oldest = root.on_start<Request>([] {}); break;
      case 1: oldest = root.on_finish<Request>([large = std::array<int, 20>{}] { (void)large; }); break;
      default: oldest = root.on_data<Tick>([] {}); break;
    }
  };
  for (int i = 0; i < 3000; ++i) cycle(i);
  const std::size_t before = heap_in_use();
  for (int i = 0; i < rounds; ++i) cycle(i);
  CHECK(heap_in_use() <= before + 32768);
}

// ---- 6: isolation

namespace {
/// Collects what listeners threw until the end of the scope.
struct Errors {
  struct Seen {
    std::string operation, event, what;
    bool disabled;
  };
  Errors() {
    set_error_handler([this](const ListenerError& error) {
      seen.push_back({std::string(error.operation), std::string(error.event), std::string(error.what), error.disabled});
    });
  }
  ~Errors() { set_error_handler(nullptr); }
  std::vector<Seen> seen;
};

/// What `action` writes to stderr.
template <class Action>
std::string stderr_of(Action action) {
  std::fflush(stderr);
  FILE* const file = std::tmpfile();
  const int saved = dup(2);
  dup2(fileno(file), 2);
  action();
  std::fflush(stderr);
  dup2(saved, 2);
  close(saved);
  std::rewind(file);
  std::string text(1 << 16, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  return text;
}
}  // namespace

TEST_CASE("a listener that throws is isolated: the error handler gets the names, every other listener still runs") {
  Errors errors;
  Log log;
  Root root;
  root.on_start<Request>([&] { log.push_back("root 1"); });
  root.on_start<Request>([] { throw std::runtime_error("first"); });
  root.on_start<Request>([&] { log.push_back("root 2"); });
  root.on_finish<Request>([] { throw 42; });
  root.on_finish<Request>([&] { log.push_back("root finish"); });
  root.on_data<Tick>([&] { log.push_back("root data"); });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  op.on_data<Tick>([] { throw std::logic_error("data"); });
  op.on_data<Tick>([&] { log.push_back("op data"); });
  op.emit(Tick{});
  op.finish();
  CHECK(op.finished());
  CHECK(log == Log{"root 1", "root 2", "op data", "root data", "root finish"});
  REQUIRE(errors.seen.size() == 3);
  CHECK(errors.seen[0].operation == "http.request");
  CHECK(errors.seen[0].event == "weir::testing::Request::Args");
  CHECK(errors.seen[0].what == "first");
  CHECK_FALSE(errors.seen[0].disabled);
  CHECK(errors.seen[1].event == "weir::testing::Tick");
  CHECK(errors.seen[1].what == "data");
  CHECK(errors.seen[2].event == "weir::testing::Request::Result");
  CHECK(errors.seen[2].what == "unknown exception");
}

TEST_CASE("an observer that throws is isolated like a listener") {
  Errors errors;
  struct Throwing : Observer {
    void started(Operation&, const EventView&) override { throw std::runtime_error("observer"); }
  } throwing;
  int calls = 0;
  Root root;
  root.observe(throwing);
  root.on_start<Request>([&] { ++calls; });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  CHECK(calls == 1);
  REQUIRE(errors.seen.size() == 1);
  CHECK(errors.seen[0].what == "observer");
}

TEST_CASE("by default a listener's exception prints one line that names the operation and the event type") {
  set_error_handler(nullptr);
  Op<Request> op{{}};
  op.on_data<Tick>([] { throw std::runtime_error("no luck"); });
  const std::string text = stderr_of([&] { op.emit(Tick{}); });
  CHECK(text == "weir: a listener threw on operation 'http.request' (event weir::testing::Tick): no luck\n");
}

TEST_CASE("a listener that throws 100 times in a row is disabled and reported") {
  Errors errors;
  int calls = 0, others = 0;
  Op<Request> op{{}};
  op.on_data<Tick>([&] {
    ++calls;
    throw std::runtime_error("again");
  });
  op.on_data<Tick>([&] { ++others; });
  for (int i = 0; i < 150; ++i) op.emit(Tick{});
  CHECK(calls == 100);
  CHECK(others == 150);
  REQUIRE(errors.seen.size() == 100);
  CHECK_FALSE(errors.seen[98].disabled);
  CHECK(errors.seen[99].disabled);
  const std::string text = stderr_of([&] {
    set_error_handler(nullptr);
    op.on_data<int>([] { throw 1; });
    for (int i = 0; i < 100; ++i) op.emit(1);
  });
  CHECK(text.find("threw 100 times in a row and is disabled") != std::string::npos);
}

TEST_CASE("a success in between starts the count of exceptions again") {
  Errors errors;
  int calls = 0;
  Op<Request> op{{}};
  op.on_data<Tick>([&] {
    if (++calls % 100 != 0) throw std::runtime_error("again");
  });
  for (int i = 0; i < 1000; ++i) op.emit(Tick{});
  CHECK(calls == 1000);
  CHECK(errors.seen.size() == 990);
  for (const auto& error : errors.seen) CHECK_FALSE(error.disabled);
}

TEST_CASE("a listener that has thrown can be removed, and remove itself") {
  Errors errors;
  std::atomic<int> alive{0};
  Op<Request> op{{}};
  Listener self;
  int calls = 0;
  self = op.on_data<Tick>([&, life = Life(alive)] {
    if (++calls == 3) self.remove();
    throw std::runtime_error("again");
  });
  for (int i = 0; i < 10; ++i) op.emit(Tick{});
  CHECK(calls == 3);
  CHECK(alive == 0);
  Listener other = op.on_data<Tick>([&, life = Life(alive)] { throw 1; });
  op.emit(Tick{});
  CHECK(other.remove());
  CHECK(alive == 0);
  op.emit(Tick{});
  CHECK(errors.seen.size() == 4);
}

TEST_CASE("a listener that throws may finish the operation first") {
  Errors errors;
  Op<Request> op{{}};
  op.on_data<Tick>([&] {
    op.finish();
    throw std::runtime_error("finished");
  });
  op.emit(Tick{});
  CHECK(op.finished());
  CHECK(errors.seen.size() == 1);
}

TEST_CASE("set_error_handler may be called inside the handler, which lives until it returns") {
  std::atomic<int> alive{0};
  int calls = 0;
  set_error_handler([&, life = Life(alive)](const ListenerError&) {
    set_error_handler(nullptr);
    CHECK(alive == 1);
    ++calls;
  });
  Op<Request> op{{}};
  op.on_data<Tick>([] { throw 1; });
  op.emit(Tick{});
  CHECK(calls == 1);
  CHECK(alive == 0);
}

TEST_CASE("what the error handler throws reaches nobody") {
  int handled = 0, heard = 0;
  set_error_handler([&](const ListenerError&) {
    ++handled;
    throw 2;
  });
  Root root;
  root.on_start<Request>([] { throw 1; });
  root.on_start<Request>([&] { ++heard; });
  {
    const RootScope installed(std::move(root));
    const Op<Request> first{{}};
    const Op<Request> second{{}};
  }
  set_error_handler(nullptr);
  CHECK(handled == 2);
  CHECK(heard == 2);
}

TEST_CASE("an error handler may set another one, and itself use operations") {
  int first = 0, second = 0;
  Root root;
  root.on_start<Request>([] { throw 1; });
  const RootScope installed(std::move(root));
  set_error_handler([&](const ListenerError&) {
    ++first;
    set_error_handler([&](const ListenerError&) { ++second; });
    const Op<Query> op{{}};
  });
  for (int i = 0; i < 3; ++i) const Op<Request> op{{}};
  set_error_handler(nullptr);
  CHECK(first == 1);
  CHECK(second == 2);
}
