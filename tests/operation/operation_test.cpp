// The behaviour statements of the operation tree, one thread. Test names are the statements.
#include "weir/operation/operation.hpp"

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "support/catch.hpp"
#include "support/operations.hpp"

using namespace weir;
using namespace weir::testing;

// ---- 1, 2, 3

TEST_CASE("start bubbles from the parent to the root: an operation does not hear its own start") {
  Log log;
  Root root;
  root.on_start<Request>([&](Op<Request>& op, const Request::Args& args) {
    log.push_back("root hears " + std::to_string(args.number));
    op.on_start<Request>([&log, n = args.number](const Request::Args& inner) {
      log.push_back(std::to_string(n) + " hears " + std::to_string(inner.number));
    });
  });
  RootScope installed(std::move(root));
  Op<Request> one{{1}};
  CHECK(log == Log{"root hears 1"});
  Op<Request> two{{2}};
  CHECK(log == Log{"root hears 1", "1 hears 2", "root hears 2"});
}

TEST_CASE("finish and data bubble from the operation itself to the root, nearest node first") {
  Log log;
  Root root;
  root.on_finish<Query>([&] { log.push_back("root finish"); });
  root.on_data<Tick>([&] { log.push_back("root data"); });
  RootScope installed(std::move(root));
  Op<Request> request{{1}};
  request.on_finish<Query>([&] { log.push_back("request finish"); });
  request.on_data<Tick>([&] { log.push_back("request data"); });
  Op<Query> query{{1}};
  query.on_finish<Query>([&] { log.push_back("query finish"); });
  query.on_data<Tick>([&] { log.push_back("query data"); });
  query.emit(Tick{});
  query.finish({3});
  CHECK(log == Log{"query data", "request data", "root data", "query finish", "request finish", "root finish"});
}

TEST_CASE("at one node listeners run in registration order, across the lanes they are kept in") {
  std::vector<int> order;
  Root root;
  for (int i = 0; i < 200; ++i) root.on_start<Request>([&order, i] { order.push_back(i); });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  REQUIRE(order.size() == 200);
  for (int i = 0; i < 200; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("listeners and observers of one node run in registration order") {
  Log log;
  struct Named : Observer {
    Named(Log& l, std::string n) : log(l), name(std::move(n)) {}
    void started(Operation&, const EventView&) override { log.push_back(name); }
    Log& log;
    std::string name;
  } first(log, "observer 1"), second(log, "observer 2");
  Root root;
  root.on_start<Request>([&] { log.push_back("listener 1"); });
  root.observe(first);
  root.on_start<Request>([&] { log.push_back("listener 2"); });
  root.on_start<Request>([&] { log.push_back("listener 3"); });
  root.observe(second);
  root.on_start<Request>([&] { log.push_back("listener 4"); });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  CHECK(log == Log{"listener 1", "observer 1", "listener 2", "listener 3", "observer 2", "listener 4"});
}

TEST_CASE("one event reaches a listener once") {
  int starts = 0, finishes = 0, data = 0;
  Root root;
  root.on_start<Request>([&] { ++starts; });
  root.on_finish<Request>([&] { ++finishes; });
  root.on_data<Tick>([&] { ++data; });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  op.emit(Tick{});
  op.finish();
  CHECK(starts == 1);
  CHECK(finishes == 1);
  CHECK(data == 1);
}

TEST_CASE("matching is by type: a listener for one type never hears another") {
  struct Other {
    struct Args {};
    struct Result {};
  };
  int wrong = 0, right = 0;
  Root root;
  root.on_start<Other>([&] { ++wrong; });
  root.on_finish<Other>([&] { ++wrong; });
  root.on_data<Other>([&] { ++wrong; });
  root.on_start<Request>([&] { ++right; });
  root.on_finish<Request>([&] { ++right; });
  RootScope installed(std::move(root));
  {
    Op<Request> op{{}};
    op.emit(Tick{});
  }
  CHECK(wrong == 0);
  CHECK(right == 2);
}

namespace {
int local_starts = 0;
void first_function() {
  struct Local {
    struct Args {};
    struct Result {};
    long payload[4] = {};
  };
  Operation::current()->on_start<Local>([](Op<Local>& op) { local_starts += static_cast<int>(op->payload[3]) + 1; });
}
void second_function() {
  struct Local {
    struct Args {};
    struct Result {};
  };
  Op<Local> op{{}};
  CHECK(op.find<Local>() == &op);
}
}  // namespace

TEST_CASE("matching is by type: types of one name inside different functions are different") {
  Op<Request> around{{}};
  first_function();
  second_function();
  CHECK(local_starts == 0);
}

TEST_CASE("what a type is matched by tells local, unnamed and anonymous types from others") {
  using detail::mangled_name_is_local;
  CHECK(mangled_name_is_local("Z4mainE5Local"));
  CHECK(mangled_name_is_local("N2ns3BoxIZNS_1G1mEvE5LocalLi3EEE"));
  CHECK(mangled_name_is_local("N2ns3BoxIA30_ZNS_1G1mEvE5LocalLi7EEE"));
  CHECK_FALSE(mangled_name_is_local("N3Zip6ZebraZE"));
  CHECK_FALSE(mangled_name_is_local("N2ns3BoxIiLi40EEE"));
  CHECK_FALSE(mangled_name_is_local("N2ns3BoxIPKcS1_SZ_Li3EEE"));
  CHECK_FALSE(mangled_name_is_local(""));
  CHECK_FALSE(detail::is_ambiguous<Request>());
  CHECK_FALSE(detail::name_is_ambiguous("aws::lambda::Invoke"));
  CHECK_FALSE(detail::name_is_ambiguous("web::anonymous_user"));
  struct Local {};
  CHECK(detail::is_ambiguous<Local>());
  CHECK(detail::is_ambiguous<decltype([] {})>());
}

TEST_CASE("recursion counts: five nested operations of a type call a root listener five times") {
  int calls = 0;
  Root root;
  root.on_start<Request>([&] { ++calls; });
  RootScope installed(std::move(root));
  std::function<void(int)> recurse = [&](int depth) {
    if (depth == 0) return;
    Op<Request> op{{}};
    recurse(depth - 1);
  };
  recurse(5);
  CHECK(calls == 5);
}

// ---- 4, 5

TEST_CASE("finishing disables an operation and drops its listeners: registering, emitting, finishing again are no-ops") {
  int finishes = 0, heard = 0;
  Root root;
  root.on_finish<Request>([&](const Request::Result& result) { finishes += result.status; });
  root.on_data<Tick>([&] { ++heard; });
  RootScope installed(std::move(root));
  std::atomic<int> alive{0};
  {
    Op<Request> op{{}};
    op.on_data<Tick>([&, life = Life(alive)] { ++heard; });
    CHECK(alive == 1);
    CHECK_FALSE(op.finished());
    op.finish({1});
    CHECK(op.finished());
    CHECK(alive == 0);  // its listeners are gone
    op.finish({10});
    op.emit(Tick{});
    Listener refused = op.on_data<Tick>([&, life = Life(alive)] { ++heard; });
    CHECK(alive == 0);
    CHECK_FALSE(refused.remove());
    struct Nothing : Observer {
    } observer;
    CHECK_FALSE(op.observe(observer).remove());
  }
  CHECK(finishes == 1);
  CHECK(heard == 0);
}

TEST_CASE("a refused listener is destroyed outside the locks: its destructor may register and finish") {
  struct Meddler {
    Op<Request>* op;
    std::array<char, 64> large{};
    explicit Meddler(Op<Request>* o) : op(o) {}
    Meddler(Meddler&& other) noexcept : op(std::exchange(other.op, nullptr)) {}
    ~Meddler() {
      if (op == nullptr) return;
      op->on_data<Tick>([] {});
      op->finish();
    }
    void operator()() const {}
  };
  Op<Request> op{{}};
  op.finish();
  op.on_data<Tick>(Meddler(&op));
  CHECK(op.finished());
}

TEST_CASE("the destructor of a listener may finish the operation that drops it") {
  struct Finisher {
    Op<Request>* op;
    explicit Finisher(Op<Request>* o) : op(o) {}
    Finisher(Finisher&& other) noexcept : op(std::exchange(other.op, nullptr)) {}
    ~Finisher() {
      if (op != nullptr) op->finish();
    }
    void operator()() const {}
  };
  Op<Request> op{{}};
  op.on_data<Tick>(Finisher(&op));
  op.finish();
  CHECK(op.finished());
}

TEST_CASE("a child may start under a finished parent: the event passes through it to the grandparents") {
  Log log;
  Op<Request> top{{}};
  top.on_start<Query>([&] { log.push_back("top start"); });
  top.on_finish<Query>([&] { log.push_back("top finish"); });
  Op<Request> middle{{}};
  middle.on_start<Query>([&] { log.push_back("middle"); });
  middle.on_finish<Query>([&] { log.push_back("middle"); });
  middle.finish();
  Op<Query> child{under(middle), {}};
  child.finish();
  CHECK(log == Log{"top start", "top finish"});
}

TEST_CASE("a child may outlive the finishing of its parent") {
  Log log;
  Op<Request> top{{}};
  top.on_finish<Query>([&] { log.push_back("top"); });
  top.on_data<Tick>([&] { log.push_back("tick"); });
  Op<Request> middle{{}};
  middle.on_finish<Query>([&] { log.push_back("middle"); });
  Op<Query> child{{}};
  middle.finish();
  child.emit(Tick{});
  child.finish();
  CHECK(log == Log{"tick", "top"});
}

// ---- 7

TEST_CASE("listeners may register, start, finish, emit and swap the root from inside a callback, without deadlock") {
  Log log;
  Root root;
  root.on_start<Request>([&](Op<Request>& op) {
    op.on_finish<Query>([&log] { log.push_back("query finished"); });
    op.on_data<Tick>([&log, &op](Tick& tick) {
      log.push_back("tick " + std::to_string(tick.value));
      if (tick.value > 0) {
        op.emit(Tick{tick.value - 1});
      } else {
        Op<Query> inner{{}};
        inner.finish();
        Root old = swap_root(Root{});
        swap_root(std::move(old));
        op.finish();
        log.push_back("finished inside");
      }
    });
    op.on_data<Tick>([&log] { log.push_back("second"); });
  });
  root.on_finish<Request>([&] { log.push_back("request finished"); });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  op.emit(Tick{2});
  // Once the operation is finished, none of its listeners is called any more.
  CHECK(log == Log{"tick 2", "tick 1", "tick 0", "query finished", "request finished", "finished inside"});
  CHECK(op.finished());
}

TEST_CASE("the finish of an operation inside its own listeners: closures live until the listeners have returned") {
  std::atomic<int> alive{0};
  int after = 0;
  {
    Op<Request> op{{}};
    op.on_data<Tick>([&, life = Life(alive)] {
      op.finish();
      after = alive;
    });
    op.emit(Tick{});
    CHECK(after == 1);
  }
  CHECK(alive == 0);
}

TEST_CASE("a listener registered during an event does not hear that event, also on a node further up") {
  Log log;
  Root root;
  root.on_data<Tick>([&] { log.push_back("root"); });
  RootScope installed(std::move(root));
  Op<Request> outer{{}};
  Op<Request> op{{}};
  bool once = true;
  op.on_data<Tick>([&] {
    log.push_back("op");
    if (!std::exchange(once, false)) return;
    for (int i = 0; i < 10; ++i) op.on_data<Tick>([&log] { log.push_back("new on op"); });  // also beyond the first lane
    outer.on_data<Tick>([&log] { log.push_back("new on outer"); });
    outer.parent()->on_data<Tick>([&log] { log.push_back("new on root"); });
  });
  op.emit(Tick{});
  CHECK(log == Log{"op", "root"});
  log.clear();
  op.emit(Tick{});
  CHECK(log.size() == 14);
}

TEST_CASE("a listener registered during an event hears an event emitted inside that one") {
  Log log;
  Op<Request> op{{}};
  bool once = true;
  op.on_data<Tick>([&](const Tick& tick) {
    log.push_back("old " + std::to_string(tick.value));
    if (!std::exchange(once, false)) return;
    op.on_data<Tick>([&log](const Tick& t) { log.push_back("new " + std::to_string(t.value)); });
    op.emit(Tick{2});
  });
  op.emit(Tick{1});
  CHECK(log == Log{"old 1", "old 2", "new 2"});
}

TEST_CASE("a start listener may finish the operation that starts") {
  int finishes = 0;
  Root root;
  root.on_start<Request>([](Op<Request>& op) { op.finish({7}); });
  root.on_finish<Request>([&](const Request::Result& result) { finishes += result.status; });
  RootScope installed(std::move(root));
  {
    Op<Request> op{{}};
    CHECK(op.finished());
    CHECK(Operation::current() == nullptr);
  }
  CHECK(finishes == 7);
}

TEST_CASE("an operation started by a start listener is a child of the one that starts") {
  const Operation* parent = nullptr;
  Root root;
  root.on_start<Request>([&] {
    Op<Query> inner{{}};
    parent = inner.parent();
  });
  RootScope installed(std::move(root));
  Op<Request> op{{}};
  CHECK(parent == &op);
  CHECK(Operation::current() == &op);
}

TEST_CASE("a data event may be written to by listeners, and is read back by the emitter") {
  Op<Request> op{{}};
  op.on_data<Tick>([](Tick& tick) { tick.value *= 2; });
  op.on_data<Tick>([](Tick& tick) { tick.value += 1; });
  Tick tick{20};
  op.emit(tick);
  CHECK(tick.value == 41);
  const Tick constant{20};
  op.emit(constant);  // listeners write to a copy
  CHECK(constant.value == 20);
}

// ---- 10, 11

TEST_CASE("find returns the nearest operation of a type from an operation to the root, itself included, else nullptr") {
  Op<Request> outer{{}, {"outer"}};
  Op<Request> inner{{}, {"inner"}};
  Op<Query> query{{}};
  CHECK(query.find<Query>() == &query);
  REQUIRE(query.find<Request>() == &inner);
  CHECK((*query.find<Request>())->user == "inner");
  CHECK(outer.find<Query>() == nullptr);
  struct Never {
    struct Args {};
    struct Result {};
  };
  CHECK(query.find<Never>() == nullptr);
}

TEST_CASE("leaving a scope without finish: the operation finishes with Result{}") {
  int finishes = 0, status = -1;
  Root root;
  root.on_finish<Request>([&](const Request::Result& result) { ++finishes, status = result.status; });
  RootScope installed(std::move(root));
  { Op<Request> op{{}}; }
  CHECK(finishes == 1);
  CHECK(status == 0);
}

TEST_CASE("a scope left by an exception: listeners can tell by unwinding()") {
  std::vector<bool> unwinding;
  Root root;
  root.on_finish<Request>([&](Op<Request>& op) { unwinding.push_back(op.unwinding()); });
  RootScope installed(std::move(root));
  { Op<Request> op{{}}; }
  try {
    Op<Request> op{{}};
    throw 1;
  } catch (int) {}
  // An operation that starts and ends normally while an exception is in flight is not unwinding.
  struct Cleanup {
    ~Cleanup() { Op<Request> op{{}}; }
  };
  try {
    Cleanup cleanup;
    throw 1;
  } catch (int) {}
  CHECK(unwinding == std::vector<bool>{false, true, false});
}

TEST_CASE("out-of-order finishes restore the nearest unfinished operation as the current one") {
  CHECK(Operation::current() == nullptr);
  {
    Op<Request> a{{}};
    Op<Request> b{{}};
    Op<Request> c{{}};
    Op<Request> d{{}};
    CHECK(Operation::current() == &d);
    b.finish();
    c.finish();
    CHECK(Operation::current() == &d);
    d.finish();
    CHECK(Operation::current() == &a);
    Op<Request> e{{}};
    CHECK(e.parent() == &a);
    a.finish();
    CHECK(Operation::current() == &e);
    e.finish();
    CHECK(Operation::current() == nullptr);
  }
  CHECK(Operation::current() == nullptr);
}

TEST_CASE("out-of-order finishes below an installed root leave no operation current") {
  RootScope installed{Root{}};
  Op<Request> a{{}};
  Op<Request> b{{}};
  a.finish();
  CHECK(Operation::current() == &b);
  b.finish();
  CHECK(Operation::current() == nullptr);
  Op<Request> c{{}};
  CHECK(c.depth() == 1);
}

TEST_CASE("an operation finished by another thread is no longer current once its scope has ended") {
  Op<Request> outer{{}};
  {
    Op<Request> op{{}};
    std::thread([&] { op.finish(); }).join();
    CHECK(op.finished());
  }
  CHECK(Operation::current() == &outer);
}

TEST_CASE("an explicit parent leaves the thread's current operation alone") {
  Op<Request> a{{}};
  Op<Request> b{{}};
  {
    Op<Query> query{under(a), {}};
    CHECK(query.parent() == &a);
    CHECK_FALSE(query.implicit());
    CHECK(b.implicit());
    CHECK(Operation::current() == &b);
    query.finish();
    CHECK(Operation::current() == &b);
  }
  CHECK(Operation::current() == &b);
}

TEST_CASE("a parent may be given from another thread") {
  std::vector<int> heard;
  Op<Request> request{{}};
  request.on_finish<Query>([&](const Query::Result& result) { heard.push_back(result.rows); });
  std::thread([&] {
    Op<Query> query{under(request), {}};
    query.finish({3});
  }).join();
  CHECK(heard == std::vector<int>{3});
}

TEST_CASE("OperationScope makes an operation the current one until the end of the scope") {
  Op<Request> a{{}};
  Op<Request> b{{}};
  {
    OperationScope scope(a);
    CHECK(Operation::current() == &a);
    Op<Query> query{{}};
    CHECK(query.parent() == &a);
    query.finish();
    CHECK(Operation::current() == &a);
  }
  CHECK(Operation::current() == &b);
  {
    OperationScope scope(a);
    b.finish();
  }
  CHECK(Operation::current() == &a);  // what was current before has finished
}

// ---- 12, 15 and values

TEST_CASE("an operation knows its name, kind, depth and parent, and holds its T") {
  RootScope installed{Root{}};
  Op<Request> request{{}, {"ada"}};
  Op<Query> query{{}};
  CHECK(request.name() == "http.request");
  CHECK(request.kind() == SpanKind::http);
  CHECK(query.name() == "Query");
  CHECK(query.kind() == SpanKind::function);
  CHECK(request.depth() == 1);
  CHECK(query.depth() == 2);
  CHECK(query.parent() == &request);
  REQUIRE(request.parent() != nullptr);
  CHECK(request.parent()->name() == "root");
  CHECK(request.parent()->parent() == nullptr);
  CHECK(request->user == "ada");
  CHECK((*request).user == "ada");
  CHECK(std::as_const(request)->user == "ada");
}

namespace {
struct Unlucky {  // state that is called like the optional statics
  struct Args {};
  struct Result {};
  std::string name = "state";
  int kind = 3;
};
template <class T>
struct Generic {
  struct Args {};
  struct Result {};
};
}  // namespace

TEST_CASE("state named like the optional static members is just state") {
  Op<Unlucky> op{{}};
  CHECK(op.name() == "Unlucky");
  CHECK(op.kind() == SpanKind::function);
  CHECK(op->name == "state");
  Op<Generic<Request>> generic{{}};
  CHECK(generic.name().substr(0, 8) == "Generic<");
}

TEST_CASE("without an installed root an operation has no parent and nobody hears") {
  Op<Request> op{{}};
  CHECK(op.parent() == nullptr);
  CHECK(op.depth() == 0);
  op.emit(Tick{});
  op.finish();
}

TEST_CASE("events nest to a depth of 16 per thread, the 17th is refused and counted; operations nest without limit") {
  int deepest = 0;
  Op<Request> op{{}};
  op.on_data<Tick>([&](const Tick& tick) {
    deepest = tick.value;
    op.emit(Tick{tick.value + 1});
  });
  const std::uint64_t before = refused_emissions();
  op.emit(Tick{1});
  CHECK(deepest == 16);
  CHECK(refused_emissions() == before + 1);

  int finishes = 0;
  op.on_finish<Query>([&] { ++finishes; });
  std::function<void(int)> nest = [&](int depth) {
    if (depth == 0) return;
    Op<Query> query{{}};
    nest(depth - 1);
  };
  nest(1000);
  CHECK(finishes == 1000);
  CHECK(refused_emissions() == before + 1);
}

TEST_CASE("an operation whose finish event is refused is finished all the same") {
  int finishes = 0;
  Op<Request> op{{}};
  op.on_finish<Query>([&] { ++finishes; });
  op.on_data<Tick>([&](const Tick& tick) {
    if (tick.value < 16) return op.emit(Tick{tick.value + 1});
    Op<Query> query{{}};
    query.finish();
    CHECK(query.finished());
  });
  op.emit(Tick{1});
  CHECK(finishes == 0);
  CHECK(Operation::current() == &op);
}
