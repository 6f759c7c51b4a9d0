#include "weir/core/stop.hpp"

#include <atomic>
#include <thread>

#include "support/catch.hpp"

using weir::StopCallback;
using weir::StopSource;
using weir::StopToken;

TEST_CASE("a token sees the request of its source, the default one never") {
  StopSource source;
  const StopToken token = source.token();
  CHECK(token.stop_possible());
  CHECK_FALSE(token.stop_requested());
  CHECK(source.request_stop());
  CHECK_FALSE(source.request_stop());
  CHECK(token.stop_requested());
  CHECK_FALSE(StopToken{}.stop_requested());
  CHECK_FALSE(StopToken{}.stop_possible());
}

TEST_CASE("callbacks run once, at once when it is too late, not at all when they are gone") {
  StopSource source;
  int early = 0, gone = 0, late = 0;
  StopCallback first(source.token(), [&] { ++early; });
  {
    StopCallback removed(source.token(), [&] { ++gone; });
  }
  source.request_stop();
  source.request_stop();
  StopCallback last(source.token(), [&] { ++late; });
  CHECK(early == 1);
  CHECK(gone == 0);
  CHECK(late == 1);
}

TEST_CASE("a callback may destroy itself") {
  StopSource source;
  std::unique_ptr<StopCallback> callback;
  callback = std::make_unique<StopCallback>(source.token(), [&] { callback.reset(); });
  source.request_stop();
  CHECK(callback == nullptr);
}

TEST_CASE("destruction waits for a callback that runs on another thread") {
  for (int round = 0; round < 200; ++round) {
    StopSource source;
    std::atomic<bool> alive{true}, wrong{false};
    auto callback = std::make_unique<StopCallback>(source.token(), [&] {
      std::this_thread::yield();
      wrong = !alive;
    });
    std::thread other([&] { source.request_stop(); });
    callback.reset();
    alive = false;
    other.join();
    CHECK_FALSE(wrong);
  }
}
