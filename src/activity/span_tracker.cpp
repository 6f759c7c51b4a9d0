#include "weir/activity/span_tracker.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "activity/description.hpp"

namespace weir::inline v0 {

namespace {

/// "update user", cut where names are cut.
class SpanName {
 public:
  SpanName(std::string_view operation, std::string_view subject) noexcept {
    append(operation);
    append(" ");
    append(subject);
  }
  Name name() const noexcept { return std::string_view(text_, size_); }

 private:
  void append(std::string_view text) noexcept {
    const std::size_t size = std::min(text.size(), sizeof text_ - size_);
    if (size != 0) std::memcpy(text_ + size_, text.data(), size);
    size_ += size;
  }
  std::size_t size_ = 0;
  char text_[detail::NameTable::max_name_bytes + 1];  // one more: it sees that there is something to cut, and where
};

}  // namespace

struct SpanTracker::Following final : Tracking {
  static constexpr bool blocks = false;

  Following(Tracer& tracer, const Redactor& its_redactor, Name name)
      : span(tracer, name), redactor(its_redactor), exceptions(std::uncaught_exceptions()), ambient(true) {}
  Following(Tracer& tracer, const Redactor& its_redactor, Name name, const Context& context)
      : span(tracer, context, name), redactor(its_redactor) {}

  void failed(const ActivityError& error) override {
    if (errors++ != 0 || !span.recording()) return;
    std::string buffer;
    span.fail(redactor.redact_text(error.text, buffer) ? buffer : error.text);
    if (const std::string type = detail::error_type(error); !type.empty()) span.set("error.type", type);
  }

  void changed(ActivityChange& change) override {
    ++changes;
    if (!span.recording()) return;
    std::string buffer;
    span.set("change_id", detail::redacted(redactor, change.id(), buffer));
  }

  void ended() override {
    if (ambient && errors == 0 && std::uncaught_exceptions() > exceptions) span.fail("left by an exception");
    if (errors > 1) span.set("errors", errors);
    if (changes > 1) span.set("changes", changes);
    span.end();
  }

  Context inside(Context outer) const override {
    const Context context = span.context();
    if (!span.recording() && context.sampled()) return outer;  // off, stopped, or no ring
    using Access = detail::ContextAccess;
    return Access::make(Access::position(context), Access::data(outer), Access::operation(outer));
  }

  ScopedSpan span;
  const Redactor& redactor;
  std::uint64_t errors = 0, changes = 0;
  int exceptions = 0;  // in flight when it began
  bool ambient = false;
};

SpanTracker::SpanTracker(Tracer& tracer, SpanTrackerOptions options) : tracer_(&tracer), redactor_(std::move(options.redactor)) {}

void SpanTracker::started(ActivityStart& start) {
  const Context& context = start.context();
  if (!context.sampled()) return;
  const SpanName name(start.operation(), start.subject());
  Following& following = start.current() ? start.follow<Following>(*tracer_, redactor_, name.name())
                                         : start.follow<Following>(*tracer_, redactor_, name.name(), context);
  if (!following.span.recording()) return;
  detail::describe_start(start.operation(), start.subject(), start.id(), context.request_id(), start.attributes(), redactor_,
                         [&span = following.span](Name key, AttributeValue value) { span.set(key, value); });
}

}  // namespace weir::inline v0
