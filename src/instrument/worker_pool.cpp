#include "instrument/worker_pool.hpp"

#include <algorithm>
#include <system_error>

namespace weir::inline v0::detail {

Result<void> WorkerPool::start(std::size_t workers) {
  std::lock_guard lock(mutex_);
  target_ = 1;
  queue_.emplace_back();  // a reason for a thread
  top_up_locked();
  queue_.pop_back();
  target_ = workers;
  if (workers_.empty()) return Error{std::make_error_code(std::errc::resource_unavailable_try_again), "manager: no thread can be had"};
  return {};
}

void WorkerPool::set_workers(std::size_t workers) {
  std::lock_guard lock(mutex_);
  target_ = workers;
  top_up_locked();
}

void WorkerPool::submit(std::shared_ptr<Job> job) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(job));
  top_up_locked();
  ready_.notify_one();
}

bool WorkerPool::give_up(Job& job) {
  std::lock_guard lock(mutex_);
  const auto is_it = [&](const std::shared_ptr<Job>& other) { return other.get() == &job; };
  if (job.state_ == Job::State::queued) {
    job.state_ = Job::State::given_up;
    std::erase_if(queue_, is_it);
    return true;
  }
  if (job.state_ != Job::State::running) return false;
  job.state_ = Job::State::given_up;
  std::erase_if(running_, is_it);
  std::erase(workers_, job.worker_);
  job.worker_->thread.detach();
  if (!job.worker_->gone) ++lost_;
  top_up_locked();
  return true;
}

std::vector<std::shared_ptr<Job>> WorkerPool::take_cancellable() {
  std::lock_guard lock(mutex_);
  const auto rest = std::stable_partition(queue_.begin(), queue_.end(), [](const auto& job) { return !job->cancellable; });
  std::vector<std::shared_ptr<Job>> taken(rest, queue_.end());
  queue_.erase(rest, queue_.end());
  for (const auto& job : taken) job->state_ = Job::State::given_up;
  return taken;
}

std::vector<WorkerPool::Running> WorkerPool::running() const {
  std::lock_guard lock(mutex_);
  std::vector<Running> all;
  all.reserve(running_.size());
  for (const auto& job : running_) all.push_back({job, job->began_});
  return all;
}

bool WorkerPool::waits() const {
  std::lock_guard lock(mutex_);
  return !queue_.empty();
}

bool WorkerPool::works() const {
  std::lock_guard lock(mutex_);
  return !queue_.empty() || !running_.empty();
}

void WorkerPool::top_up() {
  std::lock_guard lock(mutex_);
  top_up_locked();
}

void WorkerPool::top_up_locked() {
  while (!closed_ && idle_ < queue_.size() && workers_.size() < target_ && lost_ < max_lost) {
    const auto worker = std::make_shared<Worker>();
    workers_.push_back(worker);
    try {
      worker->thread = std::thread(&WorkerPool::run, shared_from_this(), worker);
    } catch (const std::system_error&) {
      workers_.pop_back();
      return;
    }
    ++idle_;
  }
}

void WorkerPool::run(std::shared_ptr<WorkerPool> pool, std::shared_ptr<Worker> me) {
  std::unique_lock lock(pool->mutex_);
  for (;;) {
    pool->ready_.wait(lock, [&] { return pool->closed_ || !pool->queue_.empty(); });
    --pool->idle_;
    if (pool->closed_) return;
    std::shared_ptr<Job> job = std::move(pool->queue_.front());
    pool->queue_.pop_front();
    job->state_ = Job::State::running;
    job->began_ = Job::Clock::now();
    job->worker_ = me;
    pool->running_.push_back(job);
    lock.unlock();
    struct Leave {  // also when the thread is cancelled
      ~Leave() {
        if (stays) return;
        std::unique_lock inner(pool.mutex_);
        if (job->state_ != Job::State::given_up) {
          me.gone = true;
          return;
        }
        inner.unlock();
        job.reset();
        inner.lock();
        --pool.lost_;
        inner.unlock();
        pool.wake_();
      }
      WorkerPool& pool;
      Worker& me;
      std::shared_ptr<Job>& job;
      bool stays = false;
    } leave{*pool, *me, job};
    job->work();
    lock.lock();
    if (job->state_ == Job::State::given_up) {
      lock.unlock();
      return job->late();
    }
    leave.stays = true;
    job->worker_.reset();
    job->state_ = Job::State::done;
    std::erase(pool->running_, job);
    ++pool->idle_;
    lock.unlock();
    pool->deliver_(std::move(job));
    lock.lock();
  }
}

std::deque<std::shared_ptr<Job>> WorkerPool::end() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  ready_.notify_all();
  return std::exchange(queue_, {});
}

void WorkerPool::join() {
  std::vector<std::shared_ptr<Worker>> workers;
  {
    std::lock_guard lock(mutex_);
    workers.swap(workers_);
  }
  for (const auto& worker : workers) worker->thread.join();
}

void call_elsewhere(std::function<void()> call) noexcept {
  try {
    std::thread([call = std::move(call)]() mutable {
      (void)guarded<void>([&]() -> Result<void> {
        call();
        return {};
      });
      (void)guarded<void>([&]() -> Result<void> {
        call = nullptr;
        return {};
      });
    }).detach();
  } catch (const std::exception&) {
    // Without a thread, whom this would tell is not told.
  }
}

}  // namespace weir::inline v0::detail
