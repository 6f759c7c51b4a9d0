#include "weir/collect/collector.hpp"

#include <cxxabi.h>
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include "collect/serve_loop.hpp"
#include "net/unix_socket.hpp"

namespace weir::inline v0 {

namespace {

/// Calls `callback` without the lock. The first one that throws is kept for the log; what it throws comes out.
template <class Callback, class... Arguments>
void call(detail::Core& core, const char* name, const Callback& callback, const Arguments&... arguments) {
  const auto keep = [&](std::string_view what) {
    if (core.callback_problem.empty()) core.callback_problem = std::string(name) + ": " + detail::excerpt_of(what);
  };
  try {
    const detail::Unlocked unlocked(core.serving);
    callback(arguments...);
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (const std::exception& problem) {
    keep(problem.what());
    throw;
  } catch (...) {
    keep("not a std::exception");
    throw;
  }
}

}  // namespace

struct Collector::Impl {
  Impl(std::string path, CollectorOptions given)
      : socket_path(std::move(path)),
        options(std::move(given)),
        logger(options.logger != nullptr ? *options.logger : stderr_logger()),
        core(options.store) {}

  /// Marks the collector as served for the life of the object.
  class Serving {
   public:
    explicit Serving(Impl& impl) : impl_(impl) {}
    ~Serving() {
      impl_.listener.close();
      std::lock_guard lock(impl_.mutex);
      impl_.state = State::idle;
      impl_.stopped.notify_all();
    }
    Serving(const Serving&) = delete;
    Serving& operator=(const Serving&) = delete;

   private:
    Impl& impl_;
  };

  enum class State { idle, listening, serving };

  const std::string socket_path;
  const CollectorOptions options;
  Logger& logger;
  mutable detail::Core core;

  std::mutex mutex;  // guards state; listener and wake change only while it is not `serving`
  std::condition_variable stopped;
  State state = State::idle;
  net::UnixListener listener;
  std::optional<net::EventFd> wake;
  std::atomic<bool> closing{false};
};

Collector::Collector(std::string socket_path, CollectorOptions options)
    : impl_(std::make_unique<Impl>(std::move(socket_path), std::move(options))) {}

Collector::~Collector() {
  std::unique_lock lock(impl_->mutex);
  impl_->closing = true;
  if (impl_->wake) impl_->wake->wake();
  impl_->stopped.wait(lock, [&] { return impl_->state != Impl::State::serving; });
}

void Collector::on_span_complete(std::function<void(std::string_view trace_id, const Span&)> callback, std::function<bool()> wanted) {
  if (!callback) return impl_->core.store.on_span_complete({});
  impl_->core.store.on_span_complete(
      [core = &impl_->core, callback = std::move(callback)](std::string_view trace_id, const Span& span) {
        call(*core, "on_span_complete", callback, trace_id, span);
      },
      std::move(wanted));
}

void Collector::on_trace_complete(std::function<void(const Trace&)> callback, std::function<bool()> wanted) {
  if (!callback) return impl_->core.store.on_trace_complete({});
  impl_->core.store.on_trace_complete(
      [core = &impl_->core, callback = std::move(callback)](const Trace& trace) { call(*core, "on_trace_complete", callback, trace); },
      std::move(wanted));
}

void Collector::on_trace_changed(std::function<void(const Trace&)> callback) {
  if (!callback) return impl_->core.store.on_trace_changed({});
  impl_->core.store.on_trace_changed(
      [core = &impl_->core, callback = std::move(callback)](const Trace& trace) { call(*core, "on_trace_changed", callback, trace); });
}

void Collector::on_loss(std::function<void(std::string_view service, std::uint64_t spans)> callback) {
  if (!callback) return void(impl_->core.on_loss = {});
  impl_->core.on_loss = [core = &impl_->core, callback = std::move(callback)](std::string_view service, std::uint64_t spans) {
    call(*core, "on_loss", callback, service, spans);
  };
}

Result<void> Collector::restore(const Trace& trace, Timestamp completed) {
  std::lock_guard lock(impl_->mutex);
  if (impl_->state == Impl::State::serving) {
    return Error{std::make_error_code(std::errc::operation_in_progress),
                 "the collector on " + impl_->socket_path + " serves already. Restore traces before"};
  }
  const auto age = std::clamp<std::chrono::nanoseconds>(Timestamp{std::chrono::system_clock::now()} - completed,
                                                        std::chrono::nanoseconds{0}, std::chrono::hours{24 * 3650});
  const auto now = std::chrono::steady_clock::now();
  std::lock_guard locked(impl_->core.mutex);
  try {
    (void)impl_->core.store.restore(trace, now - age, now);
    return {};
  } catch (const std::bad_alloc&) {
    return Error{std::make_error_code(std::errc::not_enough_memory), "no memory for a restored trace"};
  }
}

Result<void> Collector::listen() {
  std::lock_guard lock(impl_->mutex);
  if (impl_->state != Impl::State::idle) {
    return Error{std::make_error_code(std::errc::already_connected), "already listening on " + impl_->socket_path};
  }
  Result<net::EventFd> wake = net::EventFd::create();
  if (!wake) return wake.error();
  net::UnixListenerOptions options;
  options.allow_uids = impl_->options.allow_uids;
  Result<net::UnixListener> bound = net::UnixListener::bind(impl_->socket_path, std::move(options));
  if (!bound) return bound.error();
  impl_->wake = *std::move(wake);
  impl_->listener = *std::move(bound);
  impl_->state = Impl::State::listening;
  return {};
}

Result<void> Collector::serve(const StopToken& stop) {
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->state != Impl::State::listening) {
      return Error{std::make_error_code(std::errc::not_connected), "not listening on " + impl_->socket_path + ". Call listen() first"};
    }
    impl_->state = Impl::State::serving;
  }
  const Impl::Serving serving(*impl_);
  try {
    const StopCallback on_stop(stop, [this] { impl_->wake->wake(); });
    detail::ServeLoop loop(impl_->listener, *impl_->wake, impl_->core, impl_->options, impl_->logger);
    return loop.run([&] { return impl_->closing || stop.stop_requested(); });
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (const std::exception& problem) {
    return Error{std::make_error_code(std::errc::not_enough_memory),
                 "the collector on " + impl_->socket_path + " failed: " + problem.what()};
  }
}

Result<void> Collector::start(const StopToken& stop) {
  Result<void> listening = listen();
  return listening ? serve(stop) : listening;
}

std::map<std::string, std::vector<Span>> Collector::traces() const {
  std::lock_guard lock(impl_->core.mutex);
  return impl_->core.store.traces();
}

Replay Collector::last_traces(std::size_t count, std::size_t max_bytes) const {
  std::lock_guard lock(impl_->core.mutex);
  return impl_->core.store.last_traces(count, max_bytes);
}

CollectorStats Collector::stats() const {
  std::lock_guard lock(impl_->core.mutex);
  CollectorStats stats = impl_->core.stats;
  stats.store = impl_->core.store.stats();
  return stats;
}

const std::string& Collector::socket_path() const noexcept { return impl_->socket_path; }

}  // namespace weir::inline v0
