#include "weir/activity/audit_tracker.hpp"

#include <algorithm>
#include <filesystem>
#include <new>
#include <utility>

#include "activity/audit_entry.hpp"
#include "activity/audit_writer.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/operation/detail/slot.hpp"

namespace weir::inline v0 {

namespace {

constexpr std::size_t min_queue_bytes = 64u << 10;

detail::AuditWriter::SteadyTime deadline_after(std::chrono::nanoseconds timeout) {
  constexpr std::chrono::nanoseconds longest = std::chrono::hours{24 * 365};
  return std::chrono::steady_clock::now() + std::clamp(timeout, std::chrono::nanoseconds{0}, longest);
}

}  // namespace

struct AuditTracker::Impl {
  std::shared_ptr<detail::AuditWriter> writer;
  Impl* next = nullptr;

  /// Of parents, in the child of a fork. Their writers are never destroyed: that would wait for threads that are not there.
  static inline constinit Impl* left = nullptr;
};

/// One activity. Its entry is made at the start, where the attributes are.
class AuditTracker::Following final : public Tracking {
 public:
  Following(detail::AuditWriter& writer, ActivityStart& start) : writer_(writer), entry_(writer.options().redactor, start) {}

  void changed(ActivityChange& change) override {
    add([&] { return entry_.change(writer_.options().redactor, change, writer_.max_entry_bytes()); });
  }
  void failed(const ActivityError& error) override {
    if (!writer_.options().failures) return;
    add([&] { return entry_.failure(writer_.options().redactor, error, writer_.max_entry_bytes()); });
  }

 private:
  template <class Make>
  void add(Make make) noexcept {
    const detail::NoCancellation no_cancellation;
    const Timestamp time = writer_.now();
    try {
      writer_.add(time, make());
    } catch (const std::bad_alloc&) {
      writer_.drop(detail::AuditWriter::Drop::no_memory);
    }
  }

  detail::AuditWriter& writer_;
  const detail::AuditEntry entry_;
};

Result<std::unique_ptr<AuditTracker>> AuditTracker::open(const std::string& path, AuditTrackerOptions options) {
  const detail::NoCancellation no_cancellation;
  if (options.queue_bytes < min_queue_bytes) {
    return Error{std::make_error_code(std::errc::invalid_argument), "AuditTrackerOptions::queue_bytes is " +
                                                                        std::to_string(options.queue_bytes) + "; it must be at least " +
                                                                        std::to_string(min_queue_bytes)};
  }
  Result<std::unique_ptr<detail::AuditFile>> file = detail::AuditFile::open(path, options.mode);
  if (!file) return std::move(file).error();
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);  // reopen() after a chdir
  if (error) return Error{error, "cannot make the path of the audit trail " + path + " absolute: " + error.message()};
  auto impl = std::make_unique<Impl>();
  impl->writer = std::make_shared<detail::AuditWriter>(absolute.string(), std::move(options), std::move(*file));
  if (Result<void> started = detail::AuditWriter::start(impl->writer); !started) return std::move(started).error();
  return std::unique_ptr<AuditTracker>(new AuditTracker(std::move(impl)));
}

AuditTracker::AuditTracker(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

AuditTracker::~AuditTracker() {
  close(impl_->writer->options().close_timeout);
  if (!impl_->writer->in_child()) return;
  impl_->next = Impl::left;
  Impl::left = impl_.release();
}

void AuditTracker::started(ActivityStart& start) { start.follow<Following>(*impl_->writer, start); }

AuditFlush AuditTracker::flush(std::chrono::nanoseconds timeout) noexcept { return impl_->writer->flush(deadline_after(timeout)); }
Result<void> AuditTracker::reopen(std::chrono::nanoseconds timeout) { return impl_->writer->reopen(deadline_after(timeout)); }
AuditFlush AuditTracker::close(std::chrono::nanoseconds timeout) noexcept { return impl_->writer->close(deadline_after(timeout)); }
AuditStats AuditTracker::stats() const noexcept { return impl_->writer->stats(); }

}  // namespace weir::inline v0
