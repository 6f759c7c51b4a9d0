#pragma once
// The parts of activities that every program with a tracker shares.

#include <cxxabi.h>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>

#include "weir/activity/detail/activity_record.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/core/logger.hpp"
#include "weir/operation/operation.hpp"

namespace weir::inline v0 {

namespace detail {

inline bool is_over(const ActivityRecord* record) noexcept {
  if (reinterpret_cast<std::uintptr_t>(record) != 1) return false;
  activities.late_reports.fetch_add(1, std::memory_order_relaxed);
  return true;
}

inline void report(ActivityRecord* record, const ActivityError& error) noexcept {
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

// ---- what Activity calls

inline void report_error(ActivityRecord* record, const std::exception& error) noexcept {
  if (is_over(record)) return;
  std::error_code code;
#if defined(__cpp_rtti)
  if (const auto* const with_code = dynamic_cast<const std::system_error*>(&error)) code = with_code->code();
#endif
  report(record, {error.what(), type_of(error), code});
}

inline void report_error(ActivityRecord* record, const std::exception_ptr& error) noexcept {
  if (error == nullptr || is_over(record)) return;
#if defined(__cpp_exceptions)
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& thrown) {
    report_error(record, thrown);
  } catch (...) {
    report(record, {"unknown exception", abi::__cxa_current_exception_type(), {}});
  }
#endif
}

inline void report_error(ActivityRecord* record, std::error_code error) noexcept {
  if (!error || is_over(record)) return;
  std::string text;
  WEIR_TRY { text = error.message(); }
  WEIR_CATCH_ALL {}
  report(record, {text.empty() ? std::string_view(error.category().name()) : text, nullptr, error});
}

inline void report_error(ActivityRecord* record, std::string_view error) noexcept {
  if (error.empty() || is_over(record)) return;
  report(record, {error, nullptr, {}});
}

inline void report_error(ActivityRecord* record, const Error& error) noexcept {
  if (error.message.empty()) return report_error(record, error.code);
  if (is_over(record)) return;
  report(record, {error.message, nullptr, error.code});
}

inline void report_change(ActivityRecord* record, ActivityChange& change) noexcept {
  if (is_over(record)) return;
  record->each([&](Tracking& tracking) { tracking.changed(change); });
}

inline void end_activity(ActivityRecord* record) noexcept { record->end(); }

inline Context inside(const ActivityRecord& record, const Context& outer) noexcept {
  Context context = outer;
  const_cast<ActivityRecord&>(record).each([&](Tracking& tracking) { context = tracking.inside(context); });
  return context;
}

[[gnu::noinline, gnu::cold]] inline void tracker_threw(const std::type_info* tracker) noexcept {
  constexpr std::int64_t pause = 60'000'000'000;  // ns
  activities.exceptions.fetch_add(1, std::memory_order_relaxed);
  const std::int64_t now = std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  std::int64_t next = activities.next_message.load(std::memory_order_relaxed);
  if (now < next || !activities.next_message.compare_exchange_strong(next, now + pause, std::memory_order_relaxed)) return;
  NoCancellation no_cancellation;
  const TypeName type(tracker != nullptr ? tracker->name() : nullptr);
  const auto log = [&](std::string_view what) {
    const Attribute attributes[] = {{"what", what}, {"tracker", type.view()}};
    stderr_logger().log(Logger::Level::warning, "an activity tracker threw an exception, which is dropped", attributes);
  };
#if defined(__cpp_exceptions)
  try {
    throw;
  } catch (const std::exception& exception) {
    log(exception.what());
  } catch (...) {
    log("unknown exception");
  }
#else
  log("unknown exception");
#endif
}

}  // namespace detail

// ---- ActivityStart, ActivityChange

inline detail::ActivityRecord& ActivityStart::record() {
  if (record_ == nullptr) record_ = detail::ActivityRecord::create();
  return *record_;
}

inline std::uint64_t ActivityStart::id() { return record().id(); }

inline void* ActivityStart::allocate(std::size_t size) { return record().allocate(size); }

inline void ActivityStart::add(Tracking& tracking, bool blocks) noexcept { record_->add(tracking, blocks); }

[[gnu::cold]] inline void ActivityStart::threw(const ActivityTracker& tracker) {
  if (!detail::is_unwinding_the_thread()) return detail::tracker_threw(detail::type_of(tracker));
  if (record_ != nullptr) std::exchange(record_, nullptr)->end();
  WEIR_THROW;
}

inline void ActivityStart::pass_to(ActivityTracker& tracker) {
  WEIR_TRY { tracker.started(*this); }
  WEIR_CATCH_ALL { threw(tracker); }
}

inline const Result<std::string>& ActivityChange::json() noexcept {
  if (std::exchange(made_, true)) return json_;
  const auto fails = [this](std::errc code, std::string_view text, std::string_view type = {}) {
    WEIR_TRY { json_ = Error{std::make_error_code(code), std::string(text).append(type)}; }
    WEIR_CATCH_ALL { json_ = Error{std::make_error_code(std::errc::not_enough_memory), {}}; }
  };
  if (kind_ != Kind::json) {
    fails(std::errc::invalid_argument, "it was reported as a value");
    return json_;
  }
  detail::NoCancellation no_cancellation;
#if defined(__cpp_exceptions)
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
#else
  json_ = make_json_(callable_);
#endif
  return json_;
}

// ---- trackers

inline ActivityStats activity_stats() noexcept {
  return {detail::activities.late_reports.load(std::memory_order_relaxed), detail::activities.exceptions.load(std::memory_order_relaxed)};
}

inline NoopTracker& noop_tracker() noexcept {
  alignas(NoopTracker) static std::byte memory[sizeof(NoopTracker)];
  static NoopTracker* const tracker = new (memory) NoopTracker;
  return *tracker;
}

inline Result<ChainedTracker> ChainedTracker::create(std::vector<std::shared_ptr<ActivityTracker>> trackers) {
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

inline void ChainedTracker::started(ActivityStart& start) {
  for (ActivityTracker* tracker : trackers_) start.pass_to(*tracker);
}

}  // namespace weir::inline v0
