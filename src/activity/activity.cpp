#include "weir/activity/activity.hpp"

#include <cxxabi.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
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

/// As people write it, for one line of a log. `type` may be nullptr.
class TypeName {
 public:
  explicit TypeName(const char* type) noexcept
      : type_(type), readable_(type != nullptr ? abi::__cxa_demangle(type, nullptr, nullptr, nullptr) : nullptr, std::free) {}
  std::string_view view() const noexcept { return readable_ != nullptr ? readable_.get() : type_ != nullptr ? type_ : "something"; }

 private:
  const char* const type_;
  const std::unique_ptr<char, decltype(&std::free)> readable_;
};

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

void ActivityRecord::add(Tracking& tracking, bool blocks) noexcept {
  blocks_ = blocks_ || blocks;
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
  if (telling_ != 0)
    end_due_ = true;
  else
    finish();
}

void ActivityRecord::finish() noexcept {
  end_due_ = false;
  std::optional<NoCancellation> no_cancellation;
  if (blocks_) no_cancellation.emplace();
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
  const auto* const with_code = dynamic_cast<const std::system_error*>(&error);
  report(record, {error.what(), &typeid(error), with_code != nullptr ? with_code->code() : std::error_code()});
}

void report_error(ActivityRecord* record, const std::exception_ptr& error) noexcept {
  if (error == nullptr || is_over(record)) return;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& thrown) {
    report_error(record, thrown);
  } catch (...) {
    report(record, {"unknown exception", abi::__cxa_current_exception_type(), {}});
  }
}

void report_error(ActivityRecord* record, std::error_code error) noexcept {
  if (!error || is_over(record)) return;
  std::string text;
  try {
    text = error.message();
  } catch (...) {}
  report(record, {text.empty() ? std::string_view(error.category().name()) : text, nullptr, error});
}

void report_error(ActivityRecord* record, std::string_view error) noexcept {
  if (error.empty() || is_over(record)) return;
  report(record, {error, nullptr, {}});
}

void report_error(ActivityRecord* record, const Error& error) noexcept {
  if (error.message.empty()) return report_error(record, error.code);
  if (is_over(record)) return;
  report(record, {error.message, nullptr, error.code});
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

void tracker_threw(const std::type_info& tracker) noexcept {
  constexpr std::int64_t pause = 60'000'000'000;  // ns
  activities.exceptions.fetch_add(1, std::memory_order_relaxed);
  const std::int64_t now = std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  std::int64_t next = activities.next_message.load(std::memory_order_relaxed);
  if (now < next || !activities.next_message.compare_exchange_strong(next, now + pause, std::memory_order_relaxed)) return;
  NoCancellation no_cancellation;
  const TypeName type(tracker.name());
  const auto log = [&](std::string_view what) {
    const Attribute attributes[] = {{"what", what}, {"tracker", type.view()}};
    stderr_logger().log(Logger::Level::warning, "an activity tracker threw an exception, which is dropped", attributes);
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

void ActivityStart::add(Tracking& tracking, bool blocks) noexcept { record_->add(tracking, blocks); }

void ActivityStart::threw(const ActivityTracker& tracker) {
  if (!detail::is_unwinding_the_thread()) return detail::tracker_threw(typeid(tracker));
  if (record_ != nullptr) std::exchange(record_, nullptr)->end();
  throw;
}

void ActivityStart::pass_to(ActivityTracker& tracker) {
  try {
    tracker.started(*this);
  } catch (...) {
    threw(tracker);
  }
}

const Result<std::string>& ActivityChange::json() noexcept {
  if (std::exchange(made_, true)) return json_;
  const auto fails = [this](std::errc code, std::string_view text, std::string_view type = {}) {
    try {
      json_ = Error{std::make_error_code(code), std::string(text).append(type)};
    } catch (const std::bad_alloc&) {
      json_ = Error{std::make_error_code(std::errc::not_enough_memory), {}};
    }
  };
  if (kind_ != Kind::json) {
    fails(std::errc::invalid_argument, "it was reported as a value");
    return json_;
  }
  detail::NoCancellation no_cancellation;
  try {
    json_ = make_json_(callable_);
  } catch (const std::bad_alloc&) {
    fails(std::errc::not_enough_memory, "out of memory");
  } catch (const std::exception& thrown) {
    fails(std::errc::bad_message, "the callable threw ", detail::TypeName(typeid(thrown).name()).view());
  } catch (...) {
    const std::type_info* const type = abi::__cxa_current_exception_type();
    fails(std::errc::bad_message, "the callable threw ", detail::TypeName(type != nullptr ? type->name() : nullptr).view());
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

void ChainedTracker::started(ActivityStart& start) {
  for (ActivityTracker* tracker : trackers_) start.pass_to(*tracker);
}

}  // namespace weir::inline v0
