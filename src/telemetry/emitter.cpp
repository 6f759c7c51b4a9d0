#include "weir/telemetry/emitter.hpp"
#include "weir/telemetry/payload.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <new>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>

#include "telemetry/fork_handler.hpp"
#include "telemetry/sending.hpp"
#include "telemetry/spool.hpp"
#include "weir/core/ids.hpp"

namespace weir::inline v0 {

namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr nanoseconds longest = std::chrono::hours{24 * 365};
constexpr auto time_to_come_back = std::chrono::milliseconds{150}, time_to_log = std::chrono::milliseconds{30};  // after the deadline
constexpr auto complaint_interval = std::chrono::minutes{1};

class SystemPacer final : public Pacer {
 public:
  Timestamp now() noexcept override { return std::chrono::system_clock::now(); }
  bool wait(nanoseconds time, const StopToken& stop) noexcept override try {
    std::mutex mutex;
    std::condition_variable changed;
    bool stopped = false;
    const StopCallback callback(stop, [&] {
      const std::lock_guard lock(mutex);
      stopped = true;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    return !changed.wait_for(lock, time, [&] { return stopped; });
  } catch (const std::bad_alloc&) {  // for the callback
    const auto end = SteadyClock::now() + time;
    while (!stop.stop_requested() && SteadyClock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds{10});
    return !stop.stop_requested();
  }
  double random() noexcept override { return static_cast<double>(detail::split_mix(random_) >> 11) * 0x1p-53; }

 private:
  std::uint64_t random_ = detail::random_seed();
};

/// A thread that takes no signals. Throws std::system_error, std::bad_alloc.
template <class Body>
std::thread start_thread(Body body) {
  struct AllBlocked {
    AllBlocked() noexcept {
      sigset_t all;
      sigfillset(&all);
      ::pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~AllBlocked() { ::pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    sigset_t before;
  } const blocked;
  return std::thread(std::move(body));
}

Error failure(std::errc code, std::string_view why) {
  return {std::make_error_code(code), "the telemetry emitter cannot start: " + std::string(why)};
}

bool is_time(nanoseconds time) noexcept { return time >= nanoseconds{0} && time <= longest; }

Result<void> check(const EmitterOptions& options) {
  const auto nonsense = [](std::string_view why) { return failure(std::errc::invalid_argument, why); };
  if (options.interval <= nanoseconds{0} || options.interval > longest) return nonsense("its interval must be above 0 and at most a year");
  if (!is_time(options.interval_jitter)) return nonsense("its interval_jitter must be from 0 to a year");
  if (!std::all_of(options.pauses.begin(), options.pauses.end(), is_time)) return nonsense("each of its pauses must be from 0 to a year");
  if (!(options.pause_jitter >= 0 && options.pause_jitter <= 10)) return nonsense("its pause_jitter must be from 0 to 10");
  return {};
}

/// A payload that is not delivered yet.
struct Parcel {
  std::string instance_id, update_id, body;
  Payload payload;                    // guarded by State::mutex; not there if it was read from a file
  std::optional<std::uint64_t> file;  // its sequence in the spool
  bool maybe_taken = false;           // by the endpoint, in some try
};

/// From one start() to the next stop(), and longer if the thread does not come back.
struct Run {
  StopSource ending;                     // ends waits
  StopSource deadline;                   // ends tries
  std::unique_ptr<detail::Spool> spool;  // the thread's
  // Guarded by State::mutex.
  bool finished = false;       // the thread is
  bool abandoned = false;      // stop() has returned without the thread, which must not log any more
  bool logging = false;        // the thread is
  bool all_delivered = false;  // by the end
};

}  // namespace

/// What the emitter and its thread share. Its mutex is held across forks: no call of anybody else's code is made under it.
struct Emitter::State final : detail::ForkHandler, std::enable_shared_from_this<State> {
  enum class Phase { idle, starting, running, ended, stopping };

  State(Telemetry buffer, std::unique_ptr<Transport> way, EmitterOptions how)
      : telemetry(std::move(buffer)), transport(std::move(way)), options(std::move(how)), pacer(options.pacer) {
    if (pacer == nullptr) pacer = std::make_shared<SystemPacer>();
    if (options.logger == nullptr) options.logger = &stderr_logger();
    detail::add_fork_handler(*this);
  }
  ~State() { detail::remove_fork_handler(*this); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Result<void> start();
  bool stop(nanoseconds timeout);
  void give_back_what_is_kept() noexcept;

  void before_fork() noexcept override { mutex.lock(); }
  void in_parent() noexcept override { mutex.unlock(); }
  void in_child() noexcept override;

  struct Loop;

  const Telemetry telemetry;
  const std::unique_ptr<Transport> transport;  // the thread's
  EmitterOptions options;                      // does not change
  std::shared_ptr<Pacer> pacer;                // does not change

  mutable std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  Phase phase = Phase::idle;
  std::thread thread;
  std::shared_ptr<Run> run;          // the latest
  std::shared_ptr<Parcel> outgoing;  // on its way, or kept
  EmitterStats stats;
  bool last_result = true;  // of stop()

 private:
  Result<void> open_and_run();
};

/// What the thread does. Made and used on it.
struct Emitter::State::Loop {
  Loop(State& of, Run& in) noexcept : state(of), run(in) {}

  void go() noexcept;

 private:
  enum class Sent { delivered, failed, interrupted };

  nanoseconds cycle(bool last) noexcept;
  bool send_waiting(bool last);
  std::shared_ptr<Parcel> next();
  bool take(bool slot_is_free, bool last);
  Sent send(const std::shared_ptr<Parcel>& parcel, bool last);
  void delivered(const std::shared_ptr<Parcel>& parcel, Response response);
  void settle(const std::shared_ptr<Parcel>& parcel, bool taken) noexcept;
  void give_up_what_is_on_its_way() noexcept;
  void spool(Parcel& parcel);
  void update_spooled() noexcept;
  void end(std::string why);
  void finish() noexcept;

  void complain(std::string_view why);
  void recover();
  void log(Logger::Level level, std::initializer_list<std::string_view> parts) noexcept;

  bool forked() const noexcept { return generation != detail::fork_generation(); }
  bool abandoned() const noexcept {
    const std::lock_guard lock(state.mutex);
    return run.abandoned;
  }
  bool stopping() const { return run.ending.stop_requested(); }
  bool late() const { return run.deadline.stop_requested(); }

  State& state;
  Run& run;
  const unsigned generation = detail::fork_generation();
  bool ended = false;               // by the server
  std::optional<nanoseconds> wish;  // of this cycle's last answer
  nanoseconds busy{0};              // how long this cycle's last answer asks to be left alone
  bool failing = false;             // and told
  bool spool_failing = false;       // and told
  std::optional<Timestamp> last_complaint;
};

// ---- on any thread

Result<void> Emitter::State::start() {
  std::thread previous;
  Phase before;
  {
    const std::lock_guard lock(mutex);
    if (phase != Phase::idle && phase != Phase::ended) return failure(std::errc::operation_in_progress, "it is running; stop it first");
    if (run != nullptr && !run->finished) {
      return failure(std::errc::device_or_resource_busy,
                     "its transport or a collector of its buffer has not come back since it was stopped; try again later");
    }
    before = std::exchange(phase, Phase::starting);
    previous = std::move(thread);
  }
  if (previous.joinable()) previous.join();  // the server has ended it
  Result<void> result;
  try {
    result = open_and_run();
  } catch (const std::system_error& error) {
    result = failure(std::errc::resource_unavailable_try_again, std::string("no thread: ") + error.what());
  } catch (const std::bad_alloc&) {
    result = Error{std::make_error_code(std::errc::not_enough_memory), {}};
  }
  const std::lock_guard lock(mutex);
  if (!result) phase = before;
  changed.notify_all();
  return result;
}

Result<void> Emitter::State::open_and_run() {
  if (!telemetry.instance_id().valid()) {
    return failure(std::errc::invalid_argument, "its buffer has no instance id; make one with Telemetry::create, or call init_telemetry");
  }
  if (Result<void> checked = check(options); !checked) return checked;
  if (transport == nullptr) return failure(std::errc::invalid_argument, "it has no transport");
  const auto next = std::make_shared<Run>();
  if (!options.spool_directory.empty()) {
    Result<std::unique_ptr<detail::Spool>> opened = detail::Spool::open(options.spool_directory, options.max_spool_bytes);
    if (!opened) return std::move(opened).error();
    next->spool = std::move(opened).value();
  }
  const std::lock_guard lock(mutex);
  thread = start_thread([state = shared_from_this(), next] { Loop(*state, *next).go(); });
  run = next;
  phase = Phase::running;
  stats.ended.clear();
  stats.spooled = run->spool != nullptr ? run->spool->size() : 0;
  return {};
}

bool Emitter::State::stop(nanoseconds timeout) {
  const auto deadline = SteadyClock::now() + std::clamp(timeout, nanoseconds{0}, longest);
  std::unique_lock lock(mutex);
  if (thread.get_id() == std::this_thread::get_id()) return false;
  changed.wait(lock, [&] { return phase != Phase::starting; });
  if (phase == Phase::stopping) {
    const std::shared_ptr<Run> others = run;
    changed.wait(lock, [&] { return phase != Phase::stopping || run != others; });
    return last_result;
  }
  if (phase == Phase::idle) return last_result;

  phase = Phase::stopping;
  const std::shared_ptr<Run> mine = run;
  lock.unlock();
  mine->ending.request_stop();
  lock.lock();
  const auto finished = [&] { return mine->finished; };
  if (!changed.wait_until(lock, deadline, finished)) {
    lock.unlock();
    mine->deadline.request_stop();
    lock.lock();
    changed.wait_until(lock, deadline + time_to_come_back, finished);
  }
  std::thread ours = std::move(thread);
  if (mine->finished) {
    lock.unlock();
    ours.join();
    lock.lock();
  } else {
    mine->abandoned = true;
    changed.wait_until(lock, deadline + time_to_come_back + time_to_log, [&] { return !mine->logging; });
    ours.detach();
  }
  last_result = mine->finished && mine->all_delivered;
  phase = Phase::idle;
  changed.notify_all();
  return last_result;
}

void Emitter::State::give_back_what_is_kept() noexcept {
  std::unique_lock lock(mutex);
  const std::shared_ptr<Parcel> kept = std::move(outgoing);
  stats.kept = 0;
  if (kept == nullptr || kept->file) return;
  Payload payload = std::move(kept->payload);
  lock.unlock();
  telemetry.merge_back(std::move(payload));
}

/// As if it had never been started. What the thread used is left as it is: nobody knows what it was doing.
void Emitter::State::in_child() noexcept {
  new (&thread) std::thread;
  new (&run) std::shared_ptr<Run>;
  new (&outgoing) std::shared_ptr<Parcel>;
  new (&changed) std::condition_variable;
  new (&stats) EmitterStats;
  phase = Phase::idle;
  last_result = true;
  mutex.unlock();
}

// ---- on the thread

void Emitter::State::Loop::go() noexcept {
#ifdef __linux__
  ::pthread_setname_np(::pthread_self(), "weir-telemetry");
#endif
  while (!ended) {
    const nanoseconds time = cycle(false);
    if (forked()) return;
    if (ended || stopping() || !state.pacer->wait(time, run.ending.token())) break;
  }
  if (!ended && !abandoned()) cycle(true);
  if (forked()) return;
  give_up_what_is_on_its_way();
  finish();
}

/// Sends what waits, then what the buffer holds. Returns the time until the next.
nanoseconds Emitter::State::Loop::cycle(bool last) noexcept {
  wish.reset();
  busy = nanoseconds{0};
  bool all_delivered = false;
  try {
    all_delivered = send_waiting(last);
    if (forked()) return {};
    // What cannot be sent now is safer in the spool than in the buffer.
    const bool to_be_sent = all_delivered && !(last && late());
    const bool to_be_spooled = run.spool != nullptr && run.spool->has_room(1);
    if (!ended && (last || !stopping()) && (to_be_sent || to_be_spooled)) {
      all_delivered = take(to_be_sent, last) ? to_be_sent && send_waiting(last) : to_be_sent;
    } else if (!ended) {
      all_delivered = false;
    }
  } catch (const std::exception&) {  // no memory
    all_delivered = false;
    if (!forked()) log(Logger::Level::error, {"no memory for a telemetry update; what the buffer holds waits for the next"});
  }
  if (forked()) return {};
  if (last || !stopping()) give_up_what_is_on_its_way();  // a cycle that was interrupted is followed by the last
  {
    const std::lock_guard lock(state.mutex);
    run.all_delivered = all_delivered && state.outgoing == nullptr;
  }
  if (last || ended) return {};
  const nanoseconds time = wish ? *wish : state.options.interval + detail::part_of(state.options.interval_jitter, state.pacer->random());
  return std::max(time, busy);
}

/// The oldest first, until one is not delivered. True: all are.
bool Emitter::State::Loop::send_waiting(bool last) {
  while (const std::shared_ptr<Parcel> parcel = next()) {
    if (send(parcel, last) != Sent::delivered) return false;
    if (ended) break;
  }
  const std::lock_guard lock(state.mutex);
  return state.outgoing == nullptr && (run.spool == nullptr || run.spool->size() == 0);
}

/// What is to be sent next; nullptr: nothing waits.
std::shared_ptr<Parcel> Emitter::State::Loop::next() {
  {
    const std::lock_guard lock(state.mutex);
    if (state.outgoing != nullptr || run.abandoned) return state.outgoing;
  }
  while (run.spool != nullptr) {
    Result<std::optional<detail::Spool::Stored>> stored = run.spool->oldest();
    if (!stored) {
      update_spooled();
      log(Logger::Level::warning, {stored.error().message});
      continue;
    }
    if (!*stored) break;
    const auto parcel = std::make_shared<Parcel>();
    parcel->instance_id = std::move((*stored)->instance_id);
    parcel->update_id = std::move((*stored)->update_id);
    parcel->body = std::move((*stored)->body);
    parcel->file = (*stored)->sequence;
    const std::lock_guard lock(state.mutex);
    return state.outgoing = parcel;
  }
  return nullptr;
}

/// Empties the buffer, and keeps what was in it where it can be kept. True: there is something new to be sent.
bool Emitter::State::Loop::take(bool slot_is_free, bool last) {
  const auto parcel = std::make_shared<Parcel>();
  parcel->payload = state.telemetry.take();
  if (forked()) return false;
  const bool empty = parcel->payload.empty();
  if (empty && (last || !slot_is_free)) return false;
  try {
    parcel->instance_id = parcel->payload.instance_id.to_string();
    parcel->update_id = parcel->payload.update_id;
    parcel->body = parcel->payload.to_json();
    if (run.spool != nullptr && !empty) spool(*parcel);
  } catch (const std::exception&) {
    if (!parcel->file) state.telemetry.merge_back(std::move(parcel->payload));
    throw;
  }
  const bool spooled = parcel->file.has_value();
  std::unique_lock lock(state.mutex);
  if (slot_is_free && !run.abandoned) {
    state.outgoing = parcel;
    return true;
  }
  if (!spooled) ++state.stats.merged_back;
  lock.unlock();
  if (!spooled) state.telemetry.merge_back(std::move(parcel->payload));
  return spooled;
}

/// Unless the spool cannot take it.
void Emitter::State::Loop::spool(Parcel& parcel) {
  Result<std::uint64_t> added = run.spool->add(parcel.update_id, parcel.body);
  update_spooled();
  if (added) {
    parcel.file = *added;
    if (std::exchange(spool_failing, false)) log(Logger::Level::info, {"the telemetry spool takes payloads again"});
  } else if (!std::exchange(spool_failing, true)) {
    log(Logger::Level::warning, {added.error().message, "; payloads wait in memory"});
  }
}

/// Makes the tries of one update.
Emitter::State::Loop::Sent Emitter::State::Loop::send(const std::shared_ptr<Parcel>& parcel, bool last) {
  const Update update{parcel->instance_id, parcel->update_id, parcel->body};
  detail::Tries tries(last ? std::span<const nanoseconds>() : state.options.pauses, state.options.pause_jitter);
  for (;;) {
    if (last ? late() : stopping()) return Sent::interrupted;
    const Delivery delivery = state.transport->send(update, run.deadline.token());
    if (forked()) return Sent::interrupted;
    detail::Verdict verdict = detail::judge(delivery, state.pacer->now());
    const bool taken = verdict.kind == detail::Verdict::Kind::taken;
    parcel->maybe_taken = parcel->maybe_taken || verdict.kind == detail::Verdict::Kind::unclear;
    {
      const std::lock_guard lock(state.mutex);
      ++state.stats.tries;
      state.stats.failed_tries += taken ? 0 : 1;
    }
    if (taken) {
      delivered(parcel, std::move(verdict.response));
      return Sent::delivered;
    }
    if (verdict.kind == detail::Verdict::Kind::ended) {
      settle(parcel, false);
      end(verdict.why);
      return Sent::failed;
    }
    const std::optional<nanoseconds> pause = tries.after(verdict, state.pacer->random());
    if (!verdict.busy || !pause) complain(verdict.why);
    if (!pause) {
      busy = verdict.wait.value_or(nanoseconds{0});
      settle(parcel, false);
      return Sent::failed;
    }
    if (stopping() || !state.pacer->wait(*pause, run.ending.token())) return Sent::interrupted;
  }
}

void Emitter::State::Loop::delivered(const std::shared_ptr<Parcel>& parcel, Response response) {
  settle(parcel, true);
  if (abandoned()) return;
  recover();
  wish = detail::wish_of(response);
  state.telemetry.apply(response);
  if (response.stop) end(response.error.empty() ? "it asked to stop" : "it asked to stop: " + detail::shortened(response.error));
}

/// After its last try of this cycle.
void Emitter::State::Loop::settle(const std::shared_ptr<Parcel>& parcel, bool taken) noexcept {
  Payload back;
  {
    const std::lock_guard lock(state.mutex);
    state.stats.updates += taken ? 1 : 0;
    if (state.outgoing == parcel) {  // and not given back already
      const bool nothing_lost = taken || parcel->file || parcel->payload.empty();
      const bool keep = !nothing_lost && parcel->maybe_taken;
      if (!nothing_lost && !keep) {
        back = std::move(parcel->payload);
        ++state.stats.merged_back;
      }
      if (!keep) state.outgoing.reset();
      state.stats.kept = keep ? 1 : 0;
    }
  }
  if (!back.empty()) state.telemetry.merge_back(std::move(back));
  if (!taken || !parcel->file || run.spool == nullptr) return;
  const Result<void> removed = run.spool->remove(*parcel->file);
  update_spooled();
  if (!removed) log(Logger::Level::warning, {removed.error().message, "; it may be sent again after a restart"});
}

void Emitter::State::Loop::give_up_what_is_on_its_way() noexcept {
  std::shared_ptr<Parcel> parcel;
  {
    const std::lock_guard lock(state.mutex);
    parcel = state.outgoing;
  }
  if (parcel != nullptr) settle(parcel, false);
}

void Emitter::State::Loop::update_spooled() noexcept {
  const std::lock_guard lock(state.mutex);
  if (!run.abandoned) state.stats.spooled = run.spool->size();
}

void Emitter::State::Loop::end(std::string why) {
  ended = true;
  {
    const std::lock_guard lock(state.mutex);
    state.stats.ended = why;
  }
  log(Logger::Level::warning, {"the telemetry endpoint ", state.transport->endpoint(), " has ended the updates: ", why});
}

void Emitter::State::Loop::finish() noexcept {
  run.spool.reset();
  const std::lock_guard lock(state.mutex);
  run.finished = true;
  if (ended && state.phase == Phase::running) state.phase = Phase::ended;
  state.changed.notify_all();
}

/// Once until it works again, and no more than once a minute.
void Emitter::State::Loop::complain(std::string_view why) {
  if (failing || late()) return;  // whom the deadline of stop() has cut short has not failed
  const Timestamp now = state.pacer->now();
  if (last_complaint && now >= *last_complaint && now - *last_complaint < complaint_interval) return;
  last_complaint = now;
  failing = true;
  log(Logger::Level::warning, {"lost the telemetry endpoint ", state.transport->endpoint(), ": ", why, "; what it should have is kept"});
}

void Emitter::State::Loop::recover() {
  if (std::exchange(failing, false)) log(Logger::Level::info, {"recovered the telemetry endpoint ", state.transport->endpoint()});
}

void Emitter::State::Loop::log(Logger::Level level, std::initializer_list<std::string_view> parts) noexcept {
  std::string message;
  try {
    for (const std::string_view part : parts) message += part;
  } catch (const std::bad_alloc&) {  // a part of it is better than nothing
  }
  {
    const std::lock_guard lock(state.mutex);
    if (run.abandoned) return;
    run.logging = true;
  }
  state.options.logger->log(level, message);
  if (forked()) return;
  const std::lock_guard lock(state.mutex);
  run.logging = false;
  state.changed.notify_all();
}

// ---- the emitter

Emitter::Emitter(Telemetry telemetry, std::unique_ptr<Transport> transport, EmitterOptions options)
    : state_(std::make_shared<State>(std::move(telemetry), std::move(transport), std::move(options))) {}

Emitter::~Emitter() {
  stop();
  state_->give_back_what_is_kept();
}

Result<void> Emitter::start() { return state_->start(); }
bool Emitter::stop(std::chrono::nanoseconds timeout) { return state_->stop(timeout); }

EmitterStats Emitter::stats() const {
  const std::lock_guard lock(state_->mutex);
  EmitterStats stats = state_->stats;
  stats.running = state_->phase == State::Phase::running || (state_->phase == State::Phase::stopping && stats.ended.empty());
  return stats;
}

}  // namespace weir::inline v0
