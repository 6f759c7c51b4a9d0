#include "weir/view/view_server.hpp"

#include <cxxabi.h>
#include <poll.h>
#include <sys/socket.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <iterator>
#include <list>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "net/unix_socket.hpp"
#include "text/json.hpp"
#include "view/line_log.hpp"
#include "view/view_line.hpp"
#include "view/viewer_queues.hpp"

namespace weir::inline v0 {

namespace {

using SteadyClock = std::chrono::steady_clock;
using detail::LineBlock;
using detail::max_view_line;
using detail::WriteBatch;

constexpr std::size_t small_batch = 32u << 10;  // after fewer bytes than that the next ones are waited for
constexpr timespec batch_pause{0, 200'000};     // that long
constexpr std::size_t max_past = 1u << 30;      // bytes of a replay
constexpr std::size_t max_request = 64;         // a first line that is longer is none of ours
constexpr auto accept_pause_min = std::chrono::milliseconds{5};
constexpr auto accept_pause_max = std::chrono::milliseconds{1000};

/// One viewer. The queue is guarded by ViewServer::Impl::mutex, all else is the serving thread's.
struct Client {
  detail::Viewer queue;
  net::Fd fd;
  std::size_t input = 0;  // bytes it has sent us
  bool input_open = true;
  std::string request;                 // its first line, as far as it has come
  bool asked = false;                  // the first line has come, or is too long
  bool blocked = false;                // the last send was not taken in full
  bool waiting = false;                // lines waited when it was last looked at
  SteadyClock::time_point progress{};  // when it last accepted a byte, or the first line came to wait
};

/// The span's line without its children; empty when it is longer than `limit`, or memory is short.
std::string line_of(const Span& span, std::size_t limit) {
  try {
    std::string text;
    if (span.children.empty()) {
      text = to_json(span);
    } else {
      text = to_json(Span{span.id, span.trace_id, span.parent_id, span.name, span.kind, span.start_time, span.end_time, span.attrs, {}});
    }
    text += '\n';
    if (text.size() <= limit) return text;
  } catch (const std::bad_alloc&) {}
  return {};
}

/// ["last",n] and ["last",n,"once"].
struct LastRequest {
  std::size_t traces = 0;  // 0: it is none
  bool once = false;
};
LastRequest last_request(const nlohmann::json& line) {
  const bool once = line.is_array() && line.size() == 3 && line[2] == "once";
  if (!line.is_array() || line.size() != (once ? 3u : 2u) || line[0] != "last" || !line[1].is_number_unsigned()) return {};
  return {line[1].get<std::size_t>(), once};
}
bool asks_for_stats(const nlohmann::json& line) { return line.is_array() && line.size() == 1 && line[0] == "stats"; }

}  // namespace

std::string ViewServerStats::to_json() const {
  return nlohmann::ordered_json{{"broadcast", broadcast},      {"queued", queued},     {"sent", sent},       {"dropped", dropped},
                                {"abandoned", abandoned},      {"clients", clients},   {"replays", replays}, {"inquiries", inquiries},
                                {"stalled", stalled},          {"flooding", flooding}, {"refused", refused}, {"waiting", waiting},
                                {"open_clients", open_clients}}
      .dump();
}

struct ViewServer::Impl {
  Impl(std::string socket_path, ViewServerOptions server_options)
      : path(std::move(socket_path)), options(std::move(server_options)), queues(options.max_queued_bytes) {}

  Logger& logger() const { return options.logger != nullptr ? *options.logger : stderr_logger(); }

  const std::string path;
  const ViewServerOptions options;

  std::function<Replay(std::size_t, std::size_t)> replay_source;
  std::function<std::string()> stats_source;

  mutable std::mutex mutex;
  std::condition_variable serve_ended;
  // Guarded by mutex; the list itself and the clients' own fields are changed by the serving thread alone.
  std::list<Client> clients;
  detail::ViewerQueues queues;
  std::atomic<std::size_t> connected{0};  // clients.size(), for who asks before every span
  bool wake_sent = false;                 // since the serving thread last looked at the queues
  bool serving = false;
  bool closed = false;
  net::UnixListener listener;
  std::optional<net::EventFd> event;  // set by listen(), then constant

  // Belongs to the serving thread.
  WriteBatch batch;
  std::size_t largest_batch = 0;                        // bytes offered to one client in this turn
  std::optional<SteadyClock::time_point> accept_again;  // set: out of descriptors, the listener is not polled until then
  std::chrono::milliseconds accept_pause = accept_pause_min;
  SteadyClock::time_point log_again{};

  bool needs_wake() { return !clients.empty() && !std::exchange(wake_sent, true); }

  enum class Sent { all, blocked, gone };

  /// Sends one batch. The mutex is not held during the system call.
  Sent send_batch(Client& client, SteadyClock::time_point now) {
    {
      std::lock_guard lock(mutex);
      queues.fill(client.queue, batch);
      client.queue.sending = batch.count != 0;
    }
    if (batch.count == 0) {
      client.waiting = client.blocked = false;
      return client.queue.once ? Sent::gone : Sent::all;
    }
    if (!client.waiting) client.waiting = true, client.progress = now;

    msghdr message{};
    message.msg_iov = batch.parts.data();
    message.msg_iovlen = batch.count;
    ssize_t sent;
    do sent = ::sendmsg(client.fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    const int error = sent < 0 ? errno : 0;

    std::lock_guard lock(mutex);
    client.queue.sending = false;
    if (sent > 0) {
      client.progress = now;
      queues.take_sent(client.queue, batch, static_cast<std::size_t>(sent));
    }
    client.blocked = sent < static_cast<ssize_t>(batch.size);
    largest_batch = std::max(largest_batch, batch.size);
    batch.clear();  // with the lock: who appends may use a block again
    if (sent < 0 && error != EAGAIN && error != EWOULDBLOCK && error != ENOBUFS && error != ENOMEM) return Sent::gone;
    if (client.blocked) return Sent::blocked;
    client.waiting = !queues.idle(client.queue);
    if (client.waiting) return Sent::blocked;
    return client.queue.once ? Sent::gone : Sent::all;
  }

  /// Queues the past for a client that asks for it.
  void replay(Client& client, LastRequest request) {
    Replay past;
    const auto ask = [&] { past = replay_source(std::min(request.traces, options.max_replay), options.max_queued_bytes); };
    const bool told = replay_source && guarded(ask, "cannot replay traces to a viewer, the callback of on_replay failed");
    if (!told && !request.once) return;
    std::uint64_t lost = past.left_out;
    std::shared_ptr<LineBlock> block;
    try {
      std::vector<std::string> lines;  // newest first, as many as can fit at all
      std::size_t bytes = 0;
      const std::size_t limit = std::min(options.max_queued_bytes, max_past);
      for (auto span = past.spans.rbegin(); span != past.spans.rend(); ++span) {
        std::string line = bytes <= limit ? line_of(*span, std::min(max_view_line, limit)) : std::string();
        bytes += line.size();
        if (line.empty() || bytes > limit) {
          ++lost;
        } else {
          lines.push_back(std::move(line));
        }
      }
      block = std::make_shared<LineBlock>(std::min(bytes, limit));
      for (auto line = lines.rbegin(); line != lines.rend(); ++line) block->append(*line);
    } catch (const std::bad_alloc&) {
      block.reset();
      lost = past.left_out + past.spans.size();
    }

    std::lock_guard lock(mutex);
    queues.add_past(client.queue, std::move(block), lost, request.once);
    if (told) ++queues.counters.replays;
  }

  /// Queues the counters for a client that asks for them, instead of all that waits for it.
  void answer(Client& client) {
    std::string text;
    const auto ask = [&] {
      const std::string stats = stats_source();
      if (stats.empty() || stats.find('\n') != std::string::npos) throw std::invalid_argument("its text is not one line");
      text = "[\"stats\"," + stats + "]\n";
      if (text.size() > std::min(max_view_line, options.max_queued_bytes)) throw std::length_error("its text is too long");
    };
    if (!guarded(ask, "cannot tell the counters, the callback of on_stats failed")) return;

    std::lock_guard lock(mutex);
    queues.answer(client.queue, std::move(text));
    ++queues.counters.inquiries;
  }

  /// False: it threw, which is logged.
  template <class Call>
  bool guarded(Call call, std::string_view problem) {
    try {
      call();
      return true;
    } catch (abi::__forced_unwind&) {
      throw;
    } catch (const std::exception& thrown) {
      callback_failed(problem, thrown.what());
    } catch (...) {
      callback_failed(problem, "not a std::exception");
    }
    return false;
  }
  void callback_failed(std::string_view problem, std::string_view reason) {
    const auto now = SteadyClock::now();
    if (now < log_again) return;
    log_again = now + std::chrono::minutes{1};
    logger().log(Logger::Level::error, problem, std::array{Attribute{"reason", reason}, Attribute{"socket", path}});
  }

  /// Looks for a request in the first line. Requires: that line has not ended before.
  void take_request(Client& client, std::string_view data) {
    const std::size_t end = data.find('\n');
    const std::string_view piece = data.substr(0, end);
    if (client.request.size() + piece.size() > max_request) {
      client.asked = true;
    } else {
      client.request += piece;
      client.asked = end != std::string_view::npos;
      if (!client.asked) return;
      const auto line = nlohmann::json::parse(client.request, nullptr, false);
      if (const LastRequest last = last_request(line); last.traces > 0) replay(client, last);
      if (asks_for_stats(line) && stats_source) answer(client);
    }
    std::string().swap(client.request);
  }

  /// Reads what the client says, of which only the first line matters. False: it must go.
  bool read_input(Client& client) {
    std::array<char, 4096> buffer;
    const ssize_t size = net::receive_some(client.fd.get(), buffer.data(), buffer.size());
    if (size == -EAGAIN) return true;
    if (size < 0) return false;
    if (size == 0) {
      client.input_open = false;  // it may still be reading: its hang-up shows as POLLHUP
      return true;
    }
    client.input += static_cast<std::size_t>(size);
    if (client.input <= options.max_input) {
      if (!client.asked) take_request(client, {buffer.data(), static_cast<std::size_t>(size)});
      return true;
    }
    std::lock_guard lock(mutex);
    ++queues.counters.flooding;
    return false;
  }

  void accept_clients(SteadyClock::time_point now) {
    for (int i = 0; i < 64; ++i) {  // then the others have their turn
      net::Accepted accepted = listener.accept();
      switch (accepted.status) {
        case net::Accepted::Status::empty: return;
        case net::Accepted::Status::refused: {
          {
            std::lock_guard lock(mutex);
            ++queues.counters.refused;
          }
          if (now >= log_again) {
            log_again = now + std::chrono::minutes{1};
            logger().log(Logger::Level::warning, "refused a viewer of another user",
                         std::array{Attribute{"user", net::describe_user(accepted.peer.uid)}, Attribute{"socket", path}});
          }
          continue;
        }
        case net::Accepted::Status::failed:
        case net::Accepted::Status::exhausted:
          if (now >= log_again) {
            log_again = now + std::chrono::minutes{1};
            logger().log(Logger::Level::error, "cannot accept a viewer, trying again",
                         std::array{Attribute{"reason", std::system_category().message(accepted.error)}, Attribute{"socket", path}});
          }
          accept_again = now + accept_pause;
          accept_pause = std::min(accept_pause * 2, accept_pause_max);
          return;
        case net::Accepted::Status::accepted: break;
      }
      accept_pause = accept_pause_min;
      std::list<Client> made(1);
      made.front().fd = std::move(accepted.peer.fd);
      std::lock_guard lock(mutex);
      if (clients.size() >= options.max_clients) {
        ++queues.counters.refused;
        continue;
      }
      queues.join(made.front().queue);
      ++queues.counters.clients;
      clients.splice(clients.end(), made);
      connected.store(clients.size());
    }
  }

  std::list<Client>::iterator disconnect(std::list<Client>::iterator client) {
    std::list<Client> gone;  // freed, and its descriptor closed, outside the lock
    std::lock_guard lock(mutex);
    queues.leave(client->queue);
    const auto next = std::next(client);
    gone.splice(gone.end(), clients, client);
    connected.store(clients.size());
    accept_again.reset();  // there is a descriptor again
    return next;
  }

  /// What all clients have been sent. Requires: mutex held.
  void let_sent_go() {
    std::uint64_t line = queues.end_line();
    for (const Client& client : clients) line = std::min(line, queues.needs(client.queue));
    queues.trim(line);
  }

  /// When the next client runs into the stall limit or accepting is tried again; -1: nothing to wait for.
  int poll_timeout(SteadyClock::time_point now) const {
    auto next = SteadyClock::time_point::max();
    if (accept_again) next = *accept_again;
    for (const Client& client : clients) {
      if (client.waiting) next = std::min(next, client.progress + options.stall_limit);
    }
    if (next == SteadyClock::time_point::max()) return -1;
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
    return static_cast<int>(std::clamp<std::int64_t>(wait, 0, 60'000));
  }

  void serve_until(const StopToken& stop) {
    std::vector<pollfd> entries;
    for (;;) {
      {
        std::lock_guard lock(mutex);
        wake_sent = false;
        if (closed) break;
        let_sent_go();
      }
      if (stop.stop_requested()) break;

      const auto now = SteadyClock::now();
      largest_batch = 0;
      for (auto client = clients.begin(); client != clients.end();) {
        bool keep = true;
        const bool late = client->waiting && now - client->progress >= options.stall_limit;
        // A stalled client gets a last try: the kernel takes bytes long before it reports the socket writable.
        if (!client->blocked || late) keep = send_batch(*client, now) != Sent::gone;
        if (keep && late && client->waiting && now - client->progress >= options.stall_limit) {
          keep = false;
          std::lock_guard lock(mutex);
          ++queues.counters.stalled;
        }
        client = keep ? std::next(client) : disconnect(client);
      }

      entries.clear();
      entries.push_back({event->fd(), POLLIN, 0});
      if (accept_again && now >= *accept_again) accept_again.reset();
      entries.push_back({accept_again ? -1 : listener.fd(), POLLIN, 0});
      for (const Client& client : clients) {
        const int events = (client.input_open ? POLLIN : 0) | (client.waiting ? POLLOUT : 0);
        entries.push_back({client.fd.get(), static_cast<short>(events), 0});
      }
      // Spans come in bursts. After a small batch the next wake-up waits a moment, so that more go with it.
      const bool pauses = largest_batch > 0 && largest_batch < small_batch;
      if (pauses) entries[0].fd = -1;
      const int ready = pauses ? ::ppoll(entries.data(), entries.size(), &batch_pause, nullptr)
                               : ::poll(entries.data(), entries.size(), poll_timeout(now));
      if (ready < 0) continue;  // EINTR, or out of memory for a moment

      if (entries[0].revents != 0) event->drain();
      std::size_t i = 2;
      for (auto client = clients.begin(); client != clients.end(); ++i) {
        const short events = entries[i].revents;
        bool keep = (events & (POLLHUP | POLLERR | POLLNVAL)) == 0;
        if (keep && (events & POLLIN) != 0) keep = read_input(*client);
        if ((events & POLLOUT) != 0) client->blocked = false;
        client = keep ? std::next(client) : disconnect(client);
      }
      if (entries[1].revents != 0) accept_clients(SteadyClock::now());
    }
  }

  /// Offers everybody what waits for them, then lets go of everything. Requires: nobody else serves.
  void shut() {
    const auto now = SteadyClock::now();
    for (auto client = clients.begin(); client != clients.end(); client = disconnect(client)) {
      while (send_batch(*client, now) == Sent::blocked && !client->blocked) {}
    }
    listener.close();
  }
};

ViewServer::ViewServer(std::string socket_path, ViewServerOptions options)
    : impl_(std::make_unique<Impl>(std::move(socket_path), std::move(options))) {}

ViewServer::~ViewServer() { close(); }

void ViewServer::on_stats(std::function<std::string()> source) { impl_->stats_source = std::move(source); }

void ViewServer::on_replay(std::function<Replay(std::size_t, std::size_t)> source) { impl_->replay_source = std::move(source); }

Result<void> ViewServer::listen() {
  Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  if (impl.closed || impl.listener) {
    return Error{std::make_error_code(std::errc::invalid_argument),
                 "cannot listen on '" + impl.path + "': the view server " + (impl.closed ? "is closed" : "listens already")};
  }
  Result<net::EventFd> event = net::EventFd::create();
  if (!event) return event.error();
  Result<net::UnixListener> listener = net::UnixListener::bind(impl.path, {.allow_uids = impl.options.allow_uids});
  if (!listener) return listener.error();
  impl.event.emplace(std::move(*event));
  impl.listener = std::move(*listener);
  return {};
}

Result<void> ViewServer::serve(const StopToken& stop) {
  Impl& impl = *impl_;
  {
    std::lock_guard lock(impl.mutex);
    if (impl.closed) return {};
    if (!impl.listener || impl.serving) {
      return Error{std::make_error_code(std::errc::invalid_argument),
                   "cannot serve '" + impl.path + "': " + (impl.serving ? "another thread serves it" : "call listen() first")};
    }
    impl.serving = true;
  }
  Result<void> result;
  try {
    StopCallback wake(stop, [&impl] { impl.event->wake(); });
    impl.serve_until(stop);
  } catch (const std::bad_alloc&) {
    result = Error{std::make_error_code(std::errc::not_enough_memory), "stopped serving '" + impl.path + "': out of memory"};
  }
  {
    std::lock_guard lock(impl.mutex);
    impl.closed = true;  // nothing is queued any more
  }
  impl.shut();
  std::lock_guard lock(impl.mutex);
  impl.serving = false;
  impl.serve_ended.notify_all();
  return result;
}

Result<void> ViewServer::start(const StopToken& stop) {
  if (auto bound = listen(); !bound) return bound;
  return serve(stop);
}

void ViewServer::broadcast(const Span& span) {
  Impl& impl = *impl_;
  const bool wanted = conn_count() != 0;  // who comes from here on gets what is broadcast later
  const std::string line = wanted ? line_of(span, std::min(max_view_line, impl.options.max_queued_bytes)) : std::string();
  bool wake = false;
  {
    std::lock_guard lock(impl.mutex);
    if (impl.closed) return;
    ++impl.queues.counters.broadcast;
    if (wanted) impl.queues.add(line);
    wake = wanted && impl.needs_wake();
  }
  if (wake) impl.event->wake();
}

void ViewServer::broadcast_loss(std::string_view service, std::uint64_t spans) {
  if (conn_count() == 0) return;
  std::string line = R"(["lost",{"service":)";
  detail::append_json_string(line, service);
  line += ",\"spans\":" + std::to_string(spans) + "}]\n";
  bool wake = false;
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->closed) return;
    impl_->queues.add(line);
    wake = impl_->needs_wake();
  }
  if (wake) impl_->event->wake();
}

void ViewServer::close() {
  Impl& impl = *impl_;
  std::unique_lock lock(impl.mutex);
  const bool first = !std::exchange(impl.closed, true);
  if (impl.serving) {
    impl.event->wake();
    impl.serve_ended.wait(lock, [&] { return !impl.serving; });
  } else if (first) {
    impl.serving = true;  // nobody else may come in while the lock is open
    lock.unlock();
    impl.shut();
    lock.lock();
    impl.serving = false;
    impl.serve_ended.notify_all();
  }
}

std::size_t ViewServer::conn_count() const { return impl_->connected.load(); }

ViewServerStats ViewServer::stats() const {
  std::lock_guard lock(impl_->mutex);
  for (Client& client : impl_->clients) impl_->queues.drop_oldest(client.queue);
  ViewServerStats stats = impl_->queues.counters;
  stats.open_clients = impl_->clients.size();
  for (const Client& client : impl_->clients) stats.waiting += impl_->queues.waiting(client.queue);
  return stats;
}

const std::string& ViewServer::socket_path() const noexcept { return impl_->path; }

}  // namespace weir::inline v0
