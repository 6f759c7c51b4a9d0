// Shared operations: start<T> and Handle.
#include <memory>
#include <thread>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {
struct Link {  // no listener of this binary ever hears these: events must not walk the chain
  struct Args {};
  struct Result {};
};
struct Heard {
  explicit Heard(Log& log) {
    root.on_start<Request>([&log](const Request::Args& args) { log.push_back("start " + std::to_string(args.number)); });
    root.on_finish<Request>([&log](const Request::Result& result) { log.push_back("finish " + std::to_string(result.status)); });
  }
  Root root;
};
}  // namespace

TEST_CASE("a chain of 1,000,000 shared operations is released iteratively") {
  Handle<Link> last = start<Link>({});
  Operation* const first = &*last;
  for (int i = 1; i < 1'000'000; ++i) last = start<Link>(under(last), {});
  CHECK(last->depth() == 999'999);
  CHECK_FALSE(first->finished());
  SECTION("unfinished") {}
  SECTION("finished") {
    for (Operation* op = &*last; op != nullptr; op = op->parent()) static_cast<Op<Link>*>(op)->finish();
  }
  last = {};
}

TEST_CASE("start<T> starts an operation that outlives its scope and is not current") {
  Log log;
  RootScope installed(std::move(Heard(log).root));
  Handle<Request> handle;
  CHECK_FALSE(handle);
  {
    Op<Request> parent{{1}};
    Handle<Request> child = start<Request>({2});
    CHECK(child->parent() == &parent);
    CHECK(Operation::current() == &parent);
    CHECK_FALSE(child->implicit());
    Handle<Request> under_child = start<Request>(under(child), {3}, {"ada"});
    CHECK(under_child->parent() == &*child);
    CHECK((*under_child)->user == "ada");
  }
  handle = start<Request>({4});
  CHECK(handle->depth() == 1);
  CHECK(log == Log{"start 1", "start 2", "start 3", "finish 0", "finish 0", "finish 0", "start 4"});
  handle->finish({5});
  CHECK(log.back() == "finish 5");
}

TEST_CASE("the last reference finishes a shared operation; its children keep it alive") {
  Log log;
  RootScope installed(std::move(Heard(log).root));
  Handle<Request> handle = start<Request>({1});
  Handle<Request> copy = handle;
  handle = {};
  CHECK(log == Log{"start 1"});
  {
    Op<Query> child{under(copy), {}};
    copy = {};
    CHECK(log == Log{"start 1"});
    CHECK_FALSE(child.parent()->finished());
  }
  CHECK(log == Log{"start 1", "finish 0"});
}

TEST_CASE("a finished shared operation is not finished again by its last reference") {
  Log log;
  RootScope installed(std::move(Heard(log).root));
  {
    Handle<Request> handle = start<Request>({1});
    handle->finish({2});
    handle->finish({3});
    handle->emit(Tick{});
    CHECK(handle->finished());
  }
  CHECK(log == Log{"start 1", "finish 2"});
}

TEST_CASE("OperationScope makes a shared operation current where its work runs") {
  Handle<Request> handle = start<Request>({});
  bool right = false;
  std::thread([&right, handle] {
    OperationScope scope(*handle);
    Op<Query> query{{}};
    right = query.parent() == &*handle && Operation::current() == &query;
  }).join();
  CHECK(right);
  CHECK(Operation::current() == nullptr);
}

TEST_CASE("OperationScope takes a handle; an empty one changes nothing") {
  const Handle<Request> shared = start<Request>({});
  const Handle<Request> empty;
  Op<Query> around{{}};
  {
    const OperationScope scope(shared);
    CHECK(Operation::current() == &*shared);
    {
      const OperationScope nothing(empty);
      CHECK(Operation::current() == &*shared);
    }
    CHECK(Operation::current() == &*shared);
  }
  CHECK(Operation::current() == &around);
}

TEST_CASE("under_root() starts work that outlives the operation it was started in") {
  int finishes = 0;
  Root root;
  root.on_finish<Query>([&] { ++finishes; });
  const RootScope installed(std::move(root));
  Handle<Query> job;
  {
    Op<Request> request{{}};
    request.on_finish<Query>([&] { finishes += 100; });
    job = start<Query>(under_root(), {});
    CHECK(job->parent() == request.parent());
    const Op<Query> on_the_stack{under_root(), {}};
    CHECK(on_the_stack.parent() == request.parent());
    CHECK(Operation::current() == &request);
  }
  CHECK(finishes == 1);
  job->finish();
  CHECK(finishes == 2);
}

TEST_CASE("listeners on a shared operation hear, end with its finish, and are destroyed") {
  std::atomic<int> alive{0};
  int heard = 0;
  Handle<Request> handle = start<Request>({});
  handle->on_data<Tick>([&, life = Life(alive)] { ++heard; });
  handle->on_finish<Query>([&, life = Life(alive)] { ++heard; });
  handle->emit(Tick{});
  { Op<Query> query{under(handle), {}}; }
  CHECK(heard == 2);
  handle->finish();
  CHECK(alive == 0);
  { Op<Query> query{under(handle), {}}; }
  CHECK(heard == 2);
}

TEST_CASE("finish listeners of an operation that ends with its last reference may start children under it") {
  Log log;
  RootScope installed(std::move(Heard(log).root));
  Handle<Query> kept;
  SECTION("which end at once") {
    Handle<Request> handle = start<Request>({1});
    handle->on_finish<Request>([](Op<Request>& op) { Op<Query> inner{under(op), {}}; });
    handle = {};
  }
  SECTION("which outlive it and keep it alive") {
    Handle<Request> handle = start<Request>({1}, {"ada"});
    handle->on_finish<Request>([&](Op<Request>& op) { kept = start<Query>(under(op), {}); });
    handle = {};
    CHECK(log == Log{"start 1", "finish 0"});
    CHECK(kept->parent()->finished());
    CHECK((*kept->find<Request>())->user == "ada");
    kept = {};
  }
  CHECK(log == Log{"start 1", "finish 0"});
}

TEST_CASE("a finish listener may let go of the last handle") {
  Log log;
  auto slot = std::make_unique<Handle<Request>>();
  Root root;
  root.on_finish<Request>([&] {
    slot.reset();
    log.push_back("let go");
  });
  RootScope installed(std::move(root));
  *slot = start<Request>({1});
  SECTION("a listener of the root") { (*slot)->finish(); }
  SECTION("a listener of the operation itself") {
    (*slot)->on_finish<Request>([&] { slot.reset(); });
    (*slot)->finish();
  }
  CHECK(log == Log{"let go"});
}

TEST_CASE("a listener may hold a handle to its own operation: the finish releases it") {
  std::atomic<int> alive{0};
  Log log;
  RootScope installed(std::move(Heard(log).root));
  Op<Request>* op = nullptr;
  {
    Handle<Request> handle = start<Request>({1});
    op = &*handle;
    handle->on_data<Tick>([handle, life = Life(alive)] {});
  }
  CHECK(alive == 1);
  CHECK(log == Log{"start 1"});
  op->finish({2});
  CHECK(alive == 0);
  CHECK(log == Log{"start 1", "finish 2"});
}

TEST_CASE("a shared operation may be finished and released on any thread") {
  Log log;
  RootScope installed(std::move(Heard(log).root));
  Handle<Request> handle;
  std::thread([&] { handle = start<Request>({1}); }).join();
  std::thread([moved = std::move(handle)] { moved->finish({7}); }).join();
  CHECK(log == Log{"start 1", "finish 7"});
}
