#pragma once
// Observers hear start, finish and data of every operation below a node without knowing the types. Bridges to spans,
// metrics and logs are observers and nothing else.
//
//   struct Printer : weir::Observer {
//     void started(weir::Operation& op, const weir::EventView& args) override { std::puts(std::string(op.name()).c_str()); }
//   };
//   root.observe(printer);   // by reference: it must live until the node has finished; or a std::shared_ptr<Observer>

#include <concepts>
#include <cstdint>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>

#include "weir/core/attribute.hpp"
#include "weir/core/context.hpp"
#include "weir/operation/detail/event_type.hpp"

namespace weir::inline v0 {

class Operation;

namespace detail {
struct Dispatch;
}

/// An event seen without its type. A view for the duration of the call. Thread-safety: shared: unsafe.
class EventView {
 public:
  /// The event's type as the compiler spells it.
  std::string_view type_name() const noexcept { return info_.name; }
  /// Wall-clock time in nanoseconds since the Unix epoch. Read when it is first asked for during the call: ask early.
  std::int64_t time() const noexcept;
  /// False for the finish of an operation that ended without a result.
  bool has_value() const noexcept { return event_ != nullptr; }
  /// What this one call is called: title() const of Args, if it has one ("GET /orders/:id"); else empty. `buffer` holds the
  /// text where title() returns a std::string; the result is good for as long as that and the call.
  std::string_view title(std::string& buffer) const {
    return event_ != nullptr && info_.title != nullptr ? info_.title(event_, buffer) : std::string_view{};
  }
  /// Hands the event's attributes to `sink`, if its type has describe(AttributeSink&) const.
  void describe(AttributeSink& sink) const {
    if (event_ != nullptr && info_.describe != nullptr) info_.describe(event_, sink);
  }

 private:
  friend struct detail::Dispatch;
  struct Info {
    std::string_view name;
    detail::Phase phase;
    void (*describe)(const void* event, AttributeSink& sink);
    std::string_view (*title)(const void* event, std::string& buffer);
  };
  template <class Event>
  static void describe_as(const void* event, AttributeSink& sink) {
    static_cast<const Event*>(event)->describe(sink);
  }
  template <class Event>
  static constexpr auto describer() -> void (*)(const void*, AttributeSink&) {
    static_assert(
        requires(const Event& e, AttributeSink& s) { e.describe(s); } || !requires(Event & e, AttributeSink & s) { e.describe(s); },
        "describe(AttributeSink&) must be const");
    if constexpr (requires(const Event& e, AttributeSink& s) { e.describe(s); })
      return &describe_as<Event>;
    else
      return nullptr;
  }
  template <class Event>
  static std::string_view title_as(const void* event, std::string& buffer) {
    using Title = decltype(static_cast<const Event*>(event)->title());
    if constexpr (std::is_same_v<Title, std::string>)
      return buffer = static_cast<const Event*>(event)->title();
    else
      return static_cast<const Event*>(event)->title();
  }
  template <class Event>
  static constexpr auto titler() -> std::string_view (*)(const void*, std::string&) {
    if constexpr (requires(const Event& e) { e.title(); })
      return &title_as<Event>;
    else
      return nullptr;
  }
  template <class Event, detail::Phase P>
  static constexpr Info info_of() {
    return {detail::type_name<Event>(), P, describer<Event>(), titler<Event>()};
  }

  EventView(const Info& event_info, const void* event) : info_(event_info), event_(event) {}

  const Info& info_;
  const void* event_;
  mutable std::int64_t time_ = 0;
};

/// Its functions run inside the instrumented call; what they throw is isolated as with listeners. `result` has no value
/// where the operation ended without one.
/// Thread-safety: they are called from every thread that runs operations, several at once.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void started(Operation& operation, const EventView& args) { (void)operation, (void)args; }
  virtual void finished(Operation& operation, const EventView& result) { (void)operation, (void)result; }
  virtual void data(Operation& operation, const EventView& event) { (void)operation, (void)event; }
};

/// A data event: the call failed. wrap() emits it for exceptions; a bridge marks the span as failed.
struct Failure {
  std::string_view message;
  void describe(AttributeSink& sink) const {
    sink.set("error", true);
    sink.set("error.message", message);
  }
};

template <class P>
concept ObserverPointer = requires(P pointer) {
  { *pointer } -> std::convertible_to<Observer&>;
};

/// State that an observer keeps on an operation (Operation::attach). Destroyed with the operation, which may be later than
/// its finish and on another thread. Up to 1,024 bytes its memory comes from a few blocks that each thread keeps for this, so
/// that observing allocates nothing in the long run. Thread-safety: that of the operation's events.
class Attachment {
 public:
  virtual ~Attachment() = default;
  /// What a context that surrounds the operation is inside it, as far as this observer is concerned.
  virtual Context inside(Context outer) const { return outer; }
  static void* operator new(std::size_t size);
  static void* operator new(std::size_t size, const std::nothrow_t&) noexcept;
  static void operator delete(void* block, std::size_t size) noexcept;
  static void operator delete(void* block, const std::nothrow_t&) noexcept;

 private:
  friend class Operation;
  friend struct detail::Dispatch;
  const void* owner_ = nullptr;
  Attachment* next_ = nullptr;
};

}  // namespace weir::inline v0
