// Roots: installing, swapping, and when an old one's listeners are destroyed.
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// A root whose listeners count: calls, and themselves while they are alive.
struct Counting {
  Root make() {
    Root root;
    root.on_start<Request>([this, life = Life(alive)] { ++starts; });
    root.on_finish<Request>([this, life = Life(alive)] { ++finishes; });
    return root;
  }
  std::atomic<int> alive{0}, starts{0}, finishes{0};
};

/// A thread that does one thing after the other and idles in between.
class Worker {
 public:
  ~Worker() {
    run([this] { over_ = true; });
    thread_.join();
  }
  void run(std::function<void()> job) {
    job_ = std::move(job);
    ready_.store(true, std::memory_order_release);
    ready_.notify_one();
    while (ready_.load(std::memory_order_acquire)) ready_.wait(true);
  }

 private:
  std::function<void()> job_;
  std::atomic<bool> ready_{false};
  bool over_ = false;
  std::thread thread_{[this] {
    while (!over_) {
      ready_.wait(false);
      job_();
      job_ = nullptr;
      ready_.store(false, std::memory_order_release);
      ready_.notify_one();
    }
  }};
};

}  // namespace

TEST_CASE("new parentless operations go under the new root; running ones keep the old one alive and hearing") {
  Counting first, second;
  swap_root(first.make());
  {
    Op<Request> running{{}};
    swap_root(second.make());
    CHECK(first.alive == 2);
    {
      Op<Request> child{{}};  // below the running one: still the old root
      CHECK(first.starts == 2);
    }
    CHECK(second.starts == 0);
    std::thread([] { Op<Request> elsewhere{{}}; }).join();
    CHECK(second.starts == 1);
    running.finish();
    CHECK(first.finishes == 2);
    CHECK(first.alive == 2);  // the operation is there until its scope ends
  }
  CHECK(first.alive == 0);
  { Op<Request> next{{}}; }
  CHECK(second.starts == 2);
  swap_root(Root{});
  CHECK(second.alive == 0);
}

TEST_CASE("swap_root(Root{}): parentless operations have no listeners") {
  Counting counting;
  swap_root(counting.make());
  swap_root(Root{});
  CHECK(counting.alive == 0);
  Op<Request> op{{}};
  CHECK(counting.starts == 0);
}

TEST_CASE("swapping the same root back in works, again and again") {
  Counting counting;
  swap_root(counting.make());
  for (int i = 0; i < 100; ++i) {
    Root kept = swap_root(Root{});
    CHECK(kept);
    { Op<Request> unheard{{}}; }
    CHECK(counting.alive == 2);
    swap_root(std::move(kept));
    { Op<Request> heard{{}}; }
    CHECK(counting.starts == i + 1);
  }
  CHECK(counting.finishes == 100);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

TEST_CASE("a root swapped for itself while its operations run counts them still") {
  Counting counting;
  swap_root(counting.make());
  {
    Op<Request> running{{}};
    Root same = swap_root(Root{});
    swap_root(std::move(same));
    { Op<Request> child{{}}; }
    swap_root(Root{});
    CHECK(counting.alive == 2);
  }
  CHECK(counting.alive == 0);
}

TEST_CASE("a root handle keeps its listeners; registering works before and after it was installed") {
  Counting counting;
  Root root = counting.make();
  { Op<Request> unheard{{}}; }
  CHECK(counting.starts == 0);
  swap_root(std::move(root));
  CHECK_FALSE(root);
  CHECK_FALSE(root.on_start<Request>([] {}).remove());  // an empty handle: nothing happens
  Root back = swap_root(Root{});
  int later = 0;
  back.on_start<Request>([&] { ++later; });
  swap_root(std::move(back));
  { Op<Request> heard{{}}; }
  CHECK(later == 1);
  CHECK(counting.starts == 1);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

TEST_CASE("assigning to a root handle lets go of the root it named") {
  Counting first, second;
  Root a = first.make();
  Root b = second.make();
  a = std::move(b);
  CHECK(first.alive == 0);
  CHECK(second.alive == 2);
  CHECK_FALSE(b);
  a = Root{};
  CHECK(second.alive == 0);
}

TEST_CASE("an operation under an explicit root keeps it alive, installed or not") {
  Counting counting;
  {
    Root root = counting.make();
    Op<Request> op{under(root), {}};
    CHECK(counting.starts == 1);
    CHECK(Operation::current() == nullptr);
    root = Root{};
    CHECK(counting.alive == 2);
    op.finish();
    CHECK(counting.finishes == 1);
  }
  CHECK(counting.alive == 0);
}

TEST_CASE("an idle thread does not delay the end of an old root") {
  Counting first, second;
  Worker worker;
  swap_root(first.make());
  worker.run([] { Op<Request> op{{}}; });
  CHECK(first.finishes == 1);
  swap_root(second.make());
  CHECK(first.alive == 0);
  worker.run([] { Op<Request> op{{}}; });
  CHECK(second.finishes == 1);
  swap_root(Root{});
  CHECK(second.alive == 0);
}

TEST_CASE("an operation running on another thread delays the end of an old root until its scope ends") {
  Counting counting;
  Worker worker;
  std::optional<Op<Request>> running;
  swap_root(counting.make());
  worker.run([&] { running.emplace(Request::Args{}); });
  swap_root(Root{});
  CHECK(counting.alive == 2);
  worker.run([&] { running->finish(); });
  CHECK(counting.alive == 2);
  worker.run([&] { running.reset(); });
  CHECK(counting.alive == 0);
  CHECK(counting.finishes == 1);
}

TEST_CASE("an operation that ends on another thread than it began on delays the end of an old root until then") {
  Counting counting;
  Worker worker;
  std::optional<Op<Request>> moved;
  swap_root(counting.make());
  worker.run([&] {
    moved.emplace(Request::Args{});
    moved->finish();
  });
  SECTION("swapped before it ends") {
    swap_root(Root{});
    CHECK(counting.alive == 2);
    moved.reset();
  }
  SECTION("swapped after it ended") {
    moved.reset();
    CHECK(counting.alive == 2);
    swap_root(Root{});
  }
  SECTION("swapped after it ended on a thread that had used the root too") {
    { Op<Request> mine{{}}; }
    moved.reset();
    CHECK(counting.alive == 2);
    swap_root(Root{});
  }
  CHECK(counting.alive == 0);
}

TEST_CASE("a shared operation delays the end of an old root") {
  Counting counting;
  swap_root(counting.make());
  Handle<Request> handle = start<Request>({});
  swap_root(Root{});
  CHECK(counting.alive == 2);
  SECTION("until its last handle is gone") {
    Handle<Request> copy = handle;
    handle = {};
    CHECK(counting.alive == 2);
    copy = {};
  }
  SECTION("until its last child is gone") {
    Op<Query> child{under(handle), {}};
    handle = {};
    CHECK(counting.alive == 2);
    CHECK(counting.finishes == 0);
  }
  SECTION("also when that happens on another thread") {
    std::thread([moved = std::move(handle)]() mutable { moved = {}; }).join();
  }
  CHECK(counting.alive == 0);
  CHECK(counting.finishes == 1);
}

TEST_CASE("a thread that ends hands its count over") {
  Counting counting;
  swap_root(counting.make());
  Op<Request>* left = nullptr;
  std::thread([&] {
    left = new Op<Request>{{}};
    left->finish();
  }).join();
  swap_root(Root{});
  CHECK(counting.alive == 2);
  delete left;
  CHECK(counting.alive == 0);
}

TEST_CASE("the root may be swapped and dropped inside its own listeners; they live until the operation has ended") {
  Counting counting;
  Root root = counting.make();
  int alive_inside = 0;
  root.on_start<Request>([&, life = Life(counting.alive)] {
    swap_root(Root{});
    alive_inside = counting.alive;
  });
  swap_root(std::move(root));
  {
    Op<Request> op{{}};
    CHECK(alive_inside == 3);
    CHECK(counting.alive == 3);
  }
  CHECK(counting.alive == 0);
  CHECK(counting.finishes == 1);
}

TEST_CASE("the destructor of a root's listener may start operations and swap roots") {
  Counting counting;
  struct Swapping {
    Counting* counting;
    explicit Swapping(Counting* c) : counting(c) {}
    Swapping(Swapping&& other) noexcept : counting(std::exchange(other.counting, nullptr)) {}
    ~Swapping() {
      if (counting == nullptr) return;
      Op<Request> op{{}};
      swap_root(counting->make());
    }
    void operator()() const {}
  };
  Root root;
  root.on_start<Request>(Swapping(&counting));
  swap_root(std::move(root));
  {
    Op<Request> op{{}};
    swap_root(Root{});
    CHECK(counting.alive == 0);
  }
  CHECK(counting.alive == 2);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

TEST_CASE("listeners registered on the root node through an operation are kept by the root") {
  Counting counting;
  swap_root(Root{});
  {
    Op<Request> op{{}};
    op.parent()->on_start<Request>([&, life = Life(counting.alive)] { ++counting.starts; });
  }
  { Op<Request> op{{}}; }
  CHECK(counting.starts == 1);
  CHECK(counting.alive == 1);
  swap_root(Root{});
  CHECK(counting.alive == 0);
}

TEST_CASE("a root left installed by a thread that has ended works on") {
  Counting counting;
  std::thread([&] { swap_root(counting.make()); }).join();
  { Op<Request> op{{}}; }
  CHECK(counting.finishes == 1);
  std::thread([] { swap_root(Root{}); }).join();
  CHECK(counting.alive == 0);
}
