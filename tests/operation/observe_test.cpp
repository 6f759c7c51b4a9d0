// Observers: everything of every type, without knowing the types.
#include "weir/operation/observe.hpp"

#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/operations.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

struct Order {
  static constexpr std::string_view name = "order";
  static constexpr SpanKind kind = SpanKind::sql;
  struct Args {
    int items = 0;
    std::string_view customer;
    void describe(AttributeSink& sink) const {
      sink.set("items", items);
      sink.set("customer", customer);
    }
    std::string title() const { return "order of " + std::string(customer); }
  };
  struct Result {
    double total = 0;
    void describe(AttributeSink& sink) const { sink.set("total", total); }
  };
};

struct NoDefault {
  struct Args {};
  struct Result {
    explicit Result(int v) : value(v) {}
    int value;
  };
};

struct Payment {
  bool ok = true;
  void describe(AttributeSink& sink) const { sink.set("ok", ok); }
};

struct Text final : AttributeSink {
  void set(Name key, AttributeValue value) override {
    text += " " + std::string(key.view()) + "=";
    switch (value.type()) {
      case AttributeValue::Type::string: text += value.text(); break;
      case AttributeValue::Type::integer: text += std::to_string(value.integer()); break;
      case AttributeValue::Type::real: text += std::to_string(static_cast<int>(value.real())); break;
      case AttributeValue::Type::boolean: text += value.boolean() ? "true" : "false"; break;
    }
  }
  std::string text;
};

struct Recorder : Observer {
  void started(Operation& op, const EventView& view) override { add("start", op, view); }
  void finished(Operation& op, const EventView& view) override { add("finish", op, view); }
  void data(Operation& op, const EventView& view) override { add("data", op, view); }
  void add(const char* what, Operation& op, const EventView& view) {
    Text attributes;
    view.describe(attributes);
    log.push_back(std::string(what) + " " + std::string(op.name()) + " " + std::to_string(op.depth()) + attributes.text +
                  (view.has_value() ? "" : " without value"));
  }
  Log log;
};

}  // namespace

TEST_CASE("an observer hears start, finish and data of every type below its node, with name, depth and attributes") {
  Recorder recorder;
  Root root;
  root.observe(recorder);
  RootScope installed(std::move(root));
  {
    Op<Order> order{{2, "ada"}};
    Op<Query> query{{}};
    query.emit(Payment{false});
    query.finish();
    order.finish({30.0});
  }
  CHECK(recorder.log ==
        Log{"start order 1 items=2 customer=ada", "start Query 2", "data Query 2 ok=false", "finish Query 2", "finish order 1 total=30"});
}

TEST_CASE("an observer of an operation hears what happens below, its finish, and not its start") {
  Recorder recorder;
  Op<Request> outside{{}};
  Op<Order> order{{}};
  order.observe(recorder);
  { Op<Query> query{{}}; }
  order.finish();
  outside.finish();
  CHECK(recorder.log == Log{"start Query 2", "finish Query 2", "finish order 1 total=0"});
}

TEST_CASE("an observer hears types that were first used before it was registered, and after") {
  struct Early {
    struct Args {};
    struct Result {};
  };
  struct Late {
    struct Args {};
    struct Result {};
  };
  { Op<Early> op{{}}; }
  Recorder recorder;
  Op<Request> around{{}};
  around.observe(recorder);
  { Op<Early> op{{}}; }
  { Op<Late> op{{}}; }
  CHECK(recorder.log == Log{"start Early 1", "finish Early 1", "start Late 1", "finish Late 1"});
}

TEST_CASE("an operation that ends without a result is heard by observers only, without a value") {
  Recorder recorder;
  int finishes = 0;
  Root root;
  root.observe(recorder);
  root.on_finish<NoDefault>([&] { ++finishes; });
  RootScope installed(std::move(root));
  { Op<NoDefault> op{{}}; }
  CHECK(finishes == 0);
  CHECK(recorder.log == Log{"start NoDefault 1", "finish NoDefault 1 without value"});
  recorder.log.clear();
  {
    Op<NoDefault> op{{}};
    op.finish(NoDefault::Result(3));
  }
  { auto handle = start<NoDefault>({}); }
  CHECK(finishes == 1);
  CHECK(recorder.log == Log{"start NoDefault 1", "finish NoDefault 1", "start NoDefault 1", "finish NoDefault 1 without value"});
}

TEST_CASE("an observer sees the kind, the parent, the type name, the title and the time of an event") {
  struct Looking : Observer {
    void started(Operation& op, const EventView& view) override {
      if (op.kind() != SpanKind::sql) return;
      std::string buffer;
      parent = op.parent();
      type = view.type_name();
      title = view.title(buffer);
      started_at = view.time();
      same_time = view.time() == started_at;
    }
    void finished(Operation&, const EventView& view) override { finished_at = view.time(); }
    Operation* parent = nullptr;
    std::string type, title;
    std::int64_t started_at = 0, finished_at = 0;
    bool same_time = false;
  } looking;
  Op<Request> request{{}};
  request.observe(looking);
  const std::int64_t before = std::int64_t{std::time(nullptr)} * 1'000'000'000;
  { Op<Order> order{{1, "ada"}}; }
  CHECK(looking.parent == &request);
  CHECK(looking.type.find("Order::Args") != std::string::npos);
  CHECK(looking.title == "order of ada");
  CHECK(looking.same_time);
  CHECK(looking.started_at >= before - 1'000'000'000);
  CHECK(looking.finished_at >= looking.started_at);
}

TEST_CASE("an observer given by pointer is kept until the operation finishes or the handle is removed") {
  std::atomic<int> alive{0};
  struct Kept : Observer {
    explicit Kept(std::atomic<int>& a) : life(a) {}
    Life life;
  };
  {
    Op<Request> op{{}};
    op.observe(std::make_shared<Kept>(alive));
    op.observe(std::make_unique<Kept>(alive));
    Listener third = op.observe(std::make_shared<Kept>(alive));
    CHECK(alive == 3);
    CHECK(third.remove());
    CHECK(alive == 2);
    op.finish();
    CHECK(alive == 0);
  }
}

TEST_CASE("a removed observer hears nothing more, also when it removes itself") {
  struct Once : Observer {
    void started(Operation&, const EventView&) override {
      ++calls;
      removed = handle.remove();
    }
    Listener handle;
    int calls = 0;
    bool removed = false;
  } once;
  Op<Request> op{{}};
  once.handle = op.observe(once);
  { Op<Query> query{{}}; }
  { Op<Query> query{{}}; }
  CHECK(once.calls == 1);
  CHECK(once.removed);
}

TEST_CASE("attachments are found by their owner and destroyed with the operation") {
  std::atomic<int> alive{0};
  struct State : Attachment {
    State(std::atomic<int>& a, int n) : life(a), number(n) {}
    Life life;
    int number;
  };
  struct Attaching : Observer {
    Attaching(std::atomic<int>& a, int n) : alive(a), number(n) {}
    void started(Operation& op, const EventView&) override { op.attach(this, *new State(alive, number)); }
    void finished(Operation& op, const EventView&) override { found = static_cast<State*>(op.attachment(this))->number; }
    std::atomic<int>& alive;
    int number, found = 0;
  } first(alive, 1), second(alive, 2);
  Root root;
  root.observe(first);
  root.observe(second);
  RootScope installed(std::move(root));
  {
    Op<Request> op{{}};
    CHECK(alive == 2);
    op.finish();
    CHECK(first.found == 1);
    CHECK(second.found == 2);
    CHECK(alive == 2);
    CHECK(op.attachment(&op) == nullptr);
  }
  CHECK(alive == 0);
  {
    auto handle = start<Request>({});
    Op<Query> child{under(handle), {}};
    handle = {};
    CHECK(alive == 4);
  }
  CHECK(alive == 0);
}
