#include "weir/activity/activity.hpp"

#include <cxxabi.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>

#include "activity/record.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/core/logger.hpp"
#include "weir/operation/operation.hpp"

namespace weir::inline v0 {

namespace detail {

namespace {

constexpr std::size_t alignment = alignof(std::max_align_t);
constexpr std::size_t aligned(std::size_t size) noexcept { return (size + alignment - 1) / alignment * alignment; }

bool is_over(const ActivityRecord* record) noexcept {
  if (reinterpret_cast<std::uintptr_t>(record) != 1) return false;
  activities.late_reports.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void report(ActivityRecord* record, const ActivityError& error) noexcept {
  record->each([&](Tracking& tracking) { tracking.failed(error); });
}

}  // namespace

// ---- memory

/// The block of an activity that was just ended is the one that the next gets.
static void put_back(void* block) noexcept {
  ThreadState& thread = thread_state;
  if (thread.spare_block != nullptr || thread_slot == nullptr) return give_block(block, SpareBlock::size);
  thread.spare_block = block;
}

ActivityRecord* ActivityRecord::create() {
  void* memory = std::exchange(thread_state.spare_block, nullptr);
  if (memory == nullptr) memory = take_block(SpareBlock::size);
  if (memory == nullptr) throw std::bad_alloc();
  auto* const record = new (memory) ActivityRecord;
  record->free_ = static_cast<std::byte*>(memory) + aligned(sizeof(ActivityRecord));
  record->end_ = static_cast<std::byte*>(memory) + SpareBlock::size;
  return record;
}

void* ActivityRecord::allocate(std::size_t size) {
  size = aligned(size);
  if (static_cast<std::size_t>(end_ - free_) < size) {
    const std::size_t block_size = std::max(SpareBlock::size, aligned(sizeof(Block)) + size);
    void* const memory = take_block(block_size);
    if (memory == nullptr) throw std::bad_alloc();
    more_ = new (memory) Block{more_, block_size};
    free_ = static_cast<std::byte*>(memory) + aligned(sizeof(Block));
    end_ = static_cast<std::byte*>(memory) + block_size;
  }
  return std::exchange(free_, free_ + size);
}

void ActivityRecord::add(Tracking& tracking) noexcept {
  *last_ = &tracking;
  last_ = &tracking.next_;
}

std::uint64_t ActivityRecord::id() noexcept {
  constexpr std::uint64_t batch = 1024;  // that a thread takes at a time
  if (id_ != 0) return id_;
  ThreadState& thread = thread_state;
  if (thread.next_activity == thread.activities_end) {
    thread.next_activity = activities.next_id.fetch_add(batch, std::memory_order_relaxed);
    thread.activities_end = thread.next_activity + batch;
  }
  return id_ = thread.next_activity++;
}

void ActivityRecord::end() noexcept {
  each([](Tracking& tracking) { tracking.ended(); });
  while (first_ != nullptr) {
    Tracking* const tracking = std::exchange(first_, first_->next_);
    tracking->~Tracking();
  }
  while (more_ != nullptr) {
    Block* const block = std::exchange(more_, more_->next);
    give_block(block, block->size);
  }
  put_back(this);
}

// ---- what Activity calls

void report_error(ActivityRecord* record, const std::exception& error) noexcept {
  if (is_over(record)) return;
  report(record, {error.what(), &typeid(error), {}});
}

void report_error(ActivityRecord* record, const std::exception_ptr& error) noexcept {
  if (error == nullptr || is_over(record)) return;
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& thrown) {
    report(record, {thrown.what(), &typeid(thrown), thrown.code()});
  } catch (const std::exception& thrown) {
    report(record, {thrown.what(), &typeid(thrown), {}});
  } catch (...) {
    report(record, {"unknown exception", abi::__cxa_current_exception_type(), {}});
  }
}

void report_error(ActivityRecord* record, std::error_code error) noexcept {
  if (!error || is_over(record)) return;
  try {
    report(record, {error.message(), nullptr, error});
  } catch (const std::bad_alloc&) {
    report(record, {error.category().name(), nullptr, error});
  }
}

void report_error(ActivityRecord* record, std::string_view error) noexcept {
  if (error.empty() || is_over(record)) return;
  report(record, {error, nullptr, {}});
}

void report_change(ActivityRecord* record, ActivityChange& change) noexcept {
  if (is_over(record)) return;
  record->each([&](Tracking& tracking) { tracking.changed(change); });
}

void end_activity(ActivityRecord* record) noexcept { record->end(); }

Context inside(const ActivityRecord& record, const Context& outer) noexcept {
  Context context = outer;
  const_cast<ActivityRecord&>(record).each([&](Tracking& tracking) { context = tracking.inside(context); });
  return context;
}

void tracker_threw(std::string_view operation) noexcept {
  constexpr std::int64_t pause = 60'000'000'000;  // ns
  activities.exceptions.fetch_add(1, std::memory_order_relaxed);
  const std::int64_t now = std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  std::int64_t next = activities.next_message.load(std::memory_order_relaxed);
  if (now < next || !activities.next_message.compare_exchange_strong(next, now + pause, std::memory_order_relaxed)) return;
  const auto log = [&](std::string_view what) {
    const Attribute attributes[] = {{"what", what}, {"operation", operation}};
    stderr_logger().log(Logger::Level::warning, "an activity tracker threw an exception, which is dropped",
                        std::span(attributes, operation.empty() ? 1 : 2));
  };
  try {
    throw;
  } catch (const std::exception& exception) {
    log(exception.what());
  } catch (...) {
    log("unknown exception");
  }
}

}  // namespace detail

// ---- ActivityStart, ActivityChange

detail::ActivityRecord& ActivityStart::record() {
  if (record_ == nullptr) record_ = detail::ActivityRecord::create();
  return *record_;
}

std::uint64_t ActivityStart::id() { return record().id(); }

void* ActivityStart::allocate(std::size_t size) { return record().allocate(size); }

void ActivityStart::add(Tracking& tracking) noexcept { record_->add(tracking); }

const Result<std::string>& ActivityChange::json() noexcept {
  if (std::exchange(made_, true)) return json_;
  const auto fails = [this](const char* type) {
    try {
      int status = 0;
      char* const name = type != nullptr ? abi::__cxa_demangle(type, nullptr, nullptr, &status) : nullptr;
      std::string message = "the callable threw ";
      message += name != nullptr ? name : "something";
      std::free(name);
      json_ = Error{std::make_error_code(std::errc::bad_message), std::move(message)};
    } catch (const std::bad_alloc&) {
      json_ = Error{std::make_error_code(std::errc::not_enough_memory), {}};
    }
  };
  if (kind_ != Kind::json) {
    json_ = Error{std::make_error_code(std::errc::invalid_argument), "no JSON"};
    return json_;
  }
  try {
    json_ = make_json_(callable_);
  } catch (const std::bad_alloc&) {
    json_ = Error{std::make_error_code(std::errc::not_enough_memory), "out of memory"};
  } catch (const std::exception& thrown) {
    fails(typeid(thrown).name());
  } catch (...) {
    const std::type_info* const type = abi::__cxa_current_exception_type();
    fails(type != nullptr ? type->name() : nullptr);
  }
  return json_;
}

// ---- trackers

ActivityStats activity_stats() noexcept {
  return {detail::activities.late_reports.load(std::memory_order_relaxed), detail::activities.exceptions.load(std::memory_order_relaxed)};
}

NoopTracker& noop_tracker() noexcept {
  alignas(NoopTracker) static std::byte memory[sizeof(NoopTracker)];
  static NoopTracker* const tracker = new (memory) NoopTracker;
  return *tracker;
}

Result<ChainedTracker> ChainedTracker::create(std::vector<std::shared_ptr<ActivityTracker>> trackers) {
  ChainedTracker chain;
  for (std::size_t i = 0; i < trackers.size(); ++i) {
    if (trackers[i] == nullptr) {
      return Error{std::make_error_code(std::errc::invalid_argument), "member " + std::to_string(i + 1) + " of " +
                                                                          std::to_string(trackers.size()) +
                                                                          " of a chain of activity trackers is null; leave it out"};
    }
    chain.trackers_.push_back(trackers[i].get());
  }
  chain.owned_ = std::move(trackers);
  return chain;
}

void ChainedTracker::started(ActivityStart& start) noexcept {
  for (ActivityTracker* tracker : trackers_) {
    try {
      tracker->started(start);
    } catch (...) {
      detail::tracker_threw(start.operation());
    }
  }
}

}  // namespace weir::inline v0
