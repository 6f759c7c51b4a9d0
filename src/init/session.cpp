#include <algorithm>
#include <new>

#include "control/control.hpp"
#include "init/environment.hpp"
#include "weir/bridge/operations_to_metrics.hpp"
#include "weir/bridge/operations_to_spans.hpp"
#include "weir/bridge/tracer_metrics.hpp"
#include "weir/control.hpp"
#include "weir/init.hpp"
#include "weir/operation/operation.hpp"
#include "weir/telemetry/process_metrics.hpp"

namespace weir::inline v0 {

namespace {

using SteadyClock = std::chrono::steady_clock;

/// The one session of the process, while it lives.
class TheOne {
 public:
  TheOne() noexcept : taken_(!detail::session_lives.exchange(true, std::memory_order_acq_rel)) {}
  ~TheOne() {
    if (taken_) detail::session_lives.store(false, std::memory_order_release);
  }
  TheOne(const TheOne&) = delete;
  TheOne& operator=(const TheOne&) = delete;
  explicit operator bool() const noexcept { return taken_; }

 private:
  const bool taken_;
};

void complain(Logger& logger, const Error& error, std::string_view consequence) {
  logger.log(Logger::Level::error, "weir::init: " + error.message + "; " + std::string(consequence));
}

}  // namespace

struct Session::State {
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { end(); }

  void begin(InitOptions options, const detail::Environment& environment);
  void end() noexcept;

  TheOne the_one;
  std::chrono::milliseconds stop_timeout{};
  std::optional<RootScope> root;
  std::uint64_t metrics = 0, spans = 0;  // of telemetry().at_emit
  std::unique_ptr<Emitter> emitter;
  bool tracing = false, control = false;
};

void Session::State::begin(InitOptions options, const detail::Environment& environment) {
  Logger& logger = options.logger != nullptr ? *options.logger : stderr_logger();
  stop_timeout = options.stop_timeout;

  TracerOptions tracing_options;
  tracing_options.service_name = !options.service.empty() ? std::move(options.service) : environment.service;
  tracing_options.resource_attributes = std::move(options.attributes);
  const std::string service = tracing_options.service_name;
  const auto& said = tracing_options.resource_attributes;
  for (const auto& attribute : environment.attributes) {
    if (std::none_of(said.begin(), said.end(), [&](const auto& each) { return each.first == attribute.first; }))
      tracing_options.resource_attributes.push_back(attribute);
  }
  if (options.sampler || environment.sampler)
    tracing_options.sampler = options.sampler ? *std::move(options.sampler) : *environment.sampler;
  const auto choose = [](std::size_t& value, const std::optional<std::size_t>& in_code, const std::optional<std::size_t>& around) {
    value = in_code ? *in_code : around.value_or(value);
  };
  choose(tracing_options.max_attributes, options.max_attributes, environment.max_attributes);
  choose(tracing_options.max_attribute_bytes, options.max_attribute_bytes, environment.max_attribute_bytes);
  tracing_options.stop_timeout = options.stop_timeout;
  tracing_options.clock = options.clock;
  if (options.sender == nullptr) {
    if (options.sending.logger == nullptr) options.sending.logger = &logger;
    options.sender = std::make_shared<SocketSender>(options.socket.empty() ? SocketSender::default_path() : std::move(options.socket),
                                                    std::move(options.sending));
  }
  detail::DefaultTracer::begin(std::move(options.sender), std::move(tracing_options));
  tracing = true;

  if (!telemetry().instance_id().valid()) {
    const InstanceId instance = options.instance.valid() ? options.instance : InstanceId::random();
    if (const auto begun = init_telemetry(instance, std::move(options.telemetry)); !begun)
      complain(logger, begun.error(), "nothing is counted");
  }
  spans = telemetry().at_emit(tracer_metrics(tracer()));
  if (options.transport != nullptr) {
    metrics = telemetry().at_emit(process_metrics);
    emitter = std::make_unique<Emitter>(telemetry(), std::move(options.transport),
                                        options.emitter ? std::move(*options.emitter) : EmitterOptions{});
    if (const auto started = emitter->start(); !started) complain(logger, started.error(), "telemetry is not sent");
  }
  if (options.operations) {
    Root top;
    top.observe(std::make_shared<OperationsToSpans>(tracer()));
    top.observe(std::make_shared<OperationsToMetrics>(telemetry()));
    root.emplace(std::move(top));
  }
  control::set_service(service);
  if (control::wanted(logger) && control_socket().empty()) {
    const auto enabled = enable_control({.logger = options.logger});
    control = enabled.has_value();
    if (!enabled) complain(logger, enabled.error(), "nobody can control this process");
  }
}

/// Spans first: their collector answers at once or not at all, whereas an endpoint of telemetry may be slow.
void Session::State::end() noexcept {
  const auto deadline = SteadyClock::now() + stop_timeout;
  if (std::exchange(control, false)) disable_control();
  root.reset();
  if (std::exchange(tracing, false)) {
    (void)tracer().stop(emitter != nullptr ? stop_timeout / 2 : stop_timeout);
    detail::DefaultTracer::end();
  }
  if (emitter != nullptr) {
    (void)emitter->stop(std::max<std::chrono::nanoseconds>(deadline - SteadyClock::now(), std::chrono::nanoseconds{0}));
    emitter.reset();
  }
  if (spans != 0) telemetry().remove_at_emit(std::exchange(spans, 0));
  if (metrics != 0) telemetry().remove_at_emit(std::exchange(metrics, 0));
}

Session::Session() noexcept = default;
Session::Session(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

FlushResult Session::flush(std::chrono::milliseconds timeout) noexcept {
  return state_ != nullptr ? tracer().flush(timeout) : FlushResult{};
}

SessionStats Session::stats() const {
  if (state_ == nullptr) return {};
  return {tracer().stats(), telemetry().stats(), state_->emitter != nullptr ? state_->emitter->stats() : EmitterStats{}};
}

void Session::end() noexcept { state_.reset(); }

Session init(InitOptions options) {
  Logger& logger = options.logger != nullptr ? *options.logger : stderr_logger();
  std::unique_ptr<Session::State> state;
  try {
    const detail::Environment environment = detail::read_environment(logger);
    if (environment.disabled) return {};
    state = std::make_unique<Session::State>();
    if (state->the_one) {
      state->begin(std::move(options), environment);
      return Session(std::move(state));
    }
    logger.log(Logger::Level::error,
               "weir::init was called while a session lives: this call has changed nothing; keep the first one's result");
  } catch (const std::bad_alloc&) {  // what was wired already is not any more
    logger.log(Logger::Level::error, "weir::init: out of memory; nothing is wired");
  }
  return {};
}

}  // namespace weir::inline v0
