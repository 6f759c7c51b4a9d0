#include "instrument/worker_pool.hpp"

#include <atomic>

#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/managed.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

/// A pool whose jobs that are done are counted, and the loop that it belongs to.
struct Pool {
  std::shared_ptr<std::atomic<int>> done = std::make_shared<std::atomic<int>>(0);
  std::shared_ptr<std::atomic<int>> woken = std::make_shared<std::atomic<int>>(0);
  std::shared_ptr<detail::WorkerPool> pool = std::make_shared<detail::WorkerPool>(
      [counter = done](std::shared_ptr<detail::Job>) { ++*counter; }, [counter = woken] { ++*counter; });

  ~Pool() {
    pool->end();
    for (const auto& running : pool->running()) (void)pool->give_up(*running.job);
    pool->join();
  }
  std::shared_ptr<detail::Job> submit(std::function<Result<void>(const StopToken&)> work, bool cancellable = false) {
    auto job = std::make_shared<detail::CallJob<void>>(
        std::move(work), [](const detail::Outcome<void>&) {}, nullptr);
    job->cancellable = cancellable;
    pool->submit(job);
    return job;
  }
};

Result<void> nothing(const StopToken&) { return {}; }

}  // namespace

TEST_CASE("a job that was given up is not delivered, one that is done cannot be given up") {
  const auto gate = std::make_shared<Gate>();
  Pool pool;
  REQUIRE(pool.pool->start(1));
  const auto hung = pool.submit([gate](const StopToken&) -> Result<void> {
    gate->pass();
    return {};
  });
  REQUIRE(eventually([&] { return gate->waiting() == 1; }));
  const auto behind = pool.submit(nothing);
  const auto never = pool.submit(nothing, true);
  CHECK(pool.pool->take_cancellable().size() == 1);
  CHECK(pool.pool->give_up(*hung));
  REQUIRE(eventually([&] { return *pool.done == 1; }));
  CHECK_FALSE(pool.pool->give_up(*hung));
  CHECK_FALSE(pool.pool->give_up(*behind));
  CHECK_FALSE(pool.pool->give_up(*never));
  gate->open();
  CHECK(eventually([&] { return *pool.woken == 1; }));
  CHECK(*pool.done == 1);
}

TEST_CASE("threads in calls that were given up are replaced as long as there are not too many") {
  constexpr auto most = static_cast<int>(detail::WorkerPool::max_lost);
  const auto gate = std::make_shared<Gate>();
  Pool pool;
  REQUIRE(pool.pool->start(1));
  for (int hung = 1; hung <= most; ++hung) {
    const auto job = pool.submit([gate](const StopToken&) -> Result<void> {
      gate->pass();
      return {};
    });
    REQUIRE(eventually([&] { return gate->waiting() == hung; }));
    REQUIRE(pool.pool->give_up(*job));
  }
  pool.submit(nothing);
  CHECK(pool.pool->waits());
  CHECK(pool.pool->running().empty());
  gate->open();
  REQUIRE(eventually([&] { return *pool.woken >= 1; }));
  pool.pool->top_up();
  CHECK(eventually([&] { return *pool.done == 1; }));
  CHECK(eventually([&] { return *pool.woken == most; }));
}
