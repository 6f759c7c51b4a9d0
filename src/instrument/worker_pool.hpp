#pragma once
// The threads on which a Manager calls its user's code (private to src).
//
//   queued ─▶ running ─▶ done ─▶ delivered (to the loop, which calls finished())
//      │          └─give_up()─▶ given up: its thread is no worker any more; when the call returns, late() is called there
//      └─give_up(), take_cancellable()─▶ given up

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "instrument/guarded.hpp"
#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0::detail {

/// One call. Thread-safety: each function says who calls it.
class Job {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~Job() = default;
  /// The worker. Throws nothing, but the cancellation of its thread passes: then it is given up when its time is over.
  virtual void work() = 0;
  /// The worker, or whoever has it in the end, instead of delivering it. Likewise.
  virtual void late() = 0;
  /// The loop: the call returned.
  virtual void finished() = 0;
  /// The loop: the call was given up.
  virtual void given_up(Error error) = 0;

  pid_t pid = 0;
  std::string_view step{};   ///< the name of what is called
  bool cancellable = false;  ///< is of no use when the manager stops
  StopSource stop{};

 private:
  friend class WorkerPool;
  enum class State { queued, running, done, given_up };
  struct Worker {
    std::thread thread{};
    bool gone = false;  ///< cancelled in its job
  };
  State state_ = State::queued;
  Clock::time_point began_{};
  std::shared_ptr<Worker> worker_{};
};

/// What a call came to: what it returned, or that it was given up.
template <class T>
struct Outcome {
  Result<T> result;
  bool given_up = false;
};

template <class T>
class CallJob final : public Job {
 public:
  using Work = std::function<Result<T>(const StopToken&)>;
  using Then = std::function<void(Outcome<T>)>;
  /// Of what a call returned after it was given up.
  using Late = std::function<void(Result<T>&)>;

  CallJob(Work work, Then then, Late late) : work_(std::move(work)), then_(std::move(then)), late_(std::move(late)) {}

  void work() override {
    struct Drop {
      ~Drop() { job.drop_work(); }
      CallJob& job;
    } const drop{*this};
    result_.emplace(guarded<T>([this] { return work_(stop.token()); }));
  }
  void late() override {
    (void)guarded<void>([this]() -> Result<void> {
      if (late_) late_(*result_);
      return {};
    });
    (void)guarded<void>([this]() -> Result<void> {
      result_.reset();
      late_ = nullptr;
      return {};
    });
  }
  void finished() override {
    late_ = nullptr;
    Then then = std::exchange(then_, nullptr);
    then({std::move(*result_)});
  }
  void given_up(Error error) override {
    Then then = std::exchange(then_, nullptr);
    then({std::move(error), true});
  }

 private:
  /// What it refers to may be the user's last reference.
  void drop_work() noexcept {
    (void)guarded<void>([this]() -> Result<void> {
      work_ = nullptr;
      return {};
    });
  }

  Work work_;
  Then then_;
  Late late_;
  std::optional<Result<T>> result_;
};

/// Thread-safety: shared: safe, but that join() is the last call.
class WorkerPool : public std::enable_shared_from_this<WorkerPool> {
 public:
  static constexpr std::size_t max_lost = 256;  ///< threads in calls that were given up, beyond which they are not replaced

  /// `deliver` takes a job that is done to the loop; `wake` makes the loop call top_up().
  WorkerPool(std::function<void(std::shared_ptr<Job>)> deliver, std::function<void()> wake)
      : deliver_(std::move(deliver)), wake_(std::move(wake)) {}

  /// Error: no thread can be had. So many threads are started when they have something to do.
  Result<void> start(std::size_t workers);
  void set_workers(std::size_t workers);
  void submit(std::shared_ptr<Job> job);
  /// False: it is done, and on its way.
  bool give_up(Job& job);
  /// Takes those that wait and are cancellable out of the queue.
  std::vector<std::shared_ptr<Job>> take_cancellable();
  struct Running {
    std::shared_ptr<Job> job;
    Job::Clock::time_point began;
  };
  std::vector<Running> running() const;
  bool waits() const;  ///< something is queued
  bool works() const;  ///< something is queued or running
  /// Starts the threads that could not be had before.
  void top_up();
  /// Nothing begins any more. What waited.
  std::deque<std::shared_ptr<Job>> end();
  /// Requires: end() was called, and then what ran was given up.
  void join();

 private:
  using Worker = Job::Worker;
  void top_up_locked();
  static void run(std::shared_ptr<WorkerPool> pool, std::shared_ptr<Worker> me);

  const std::function<void(std::shared_ptr<Job>)> deliver_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<std::shared_ptr<Job>> running_;
  std::vector<std::shared_ptr<Worker>> workers_;
  std::size_t target_ = 0, idle_ = 0, lost_ = 0;
  bool closed_ = false;
};

/// Calls `call` on a thread that nobody waits for.
void call_elsewhere(std::function<void()> call) noexcept;

}  // namespace weir::inline v0::detail
