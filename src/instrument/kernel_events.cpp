#include "instrument/kernel_events.hpp"

#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "net/fd.hpp"
#include "weir/core/ids.hpp"

namespace weir::inline v0::instrument {

namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::string_view backend = "kernel events";
constexpr auto acknowledgement_time = std::chrono::seconds{1};
constexpr std::size_t batch = 64, max_batches = 64;  // of one read()
constexpr std::size_t max_message = 256;             // an event has 76 bytes

/// What follows the connector's header. (Kernel headers differ in how they name it.)
struct Event {
  std::uint32_t what, cpu;
  std::uint64_t time;
  std::array<std::int32_t, 8> data;  // by `what`
};
constexpr std::size_t smallest_event = offsetof(Event, data) + sizeof(std::int32_t);
constexpr std::uint32_t acknowledged = 0, forked = 1, executed = 2;

struct Message {
  std::uint32_t sequence, ack;
  Event event;
};

/// Calls `take` with each event of a datagram.
template <class Take>
void each_message(const char* data, std::size_t size, Take take) {
  while (size >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    std::memcpy(&header, data, sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > size) return;
    cn_msg connector;
    const std::size_t length = header.nlmsg_len - NLMSG_HDRLEN;
    if (header.nlmsg_type >= NLMSG_DONE && length >= sizeof connector + smallest_event) {
      std::memcpy(&connector, data + NLMSG_HDRLEN, sizeof connector);
      if (connector.id.idx == CN_IDX_PROC && connector.id.val == CN_VAL_PROC) {
        Message message{connector.seq, connector.ack, {}};
        const std::size_t given = std::min<std::size_t>(length - sizeof connector, connector.len);
        if (given >= smallest_event) {
          std::memcpy(&message.event, data + NLMSG_HDRLEN + sizeof connector, std::min(given, sizeof message.event));
          take(message);
        }
      }
    }
    const std::size_t step = std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), size);
    data += step;
    size -= step;
  }
}

class KernelEvents final : public RawSource {
 public:
  explicit KernelEvents(std::size_t receive_buffer) : receive_buffer_(receive_buffer) {}
  ~KernelEvents() override { detach(); }

  std::string_view name() const noexcept override { return backend; }
  int fd() const noexcept override { return socket_.get(); }
  std::uint64_t lost() const noexcept override { return std::max(dropped_, skipped_); }  // two counts of the same

  Result<void> attach() override {
    socket_ = net::Fd(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR));
    if (!socket_) return failed("its socket", "This kernel has no proc connector (CONFIG_PROC_EVENTS), or a sandbox forbids it");
    const int size = static_cast<int>(receive_buffer_);
    if (::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0)
      (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = CN_IDX_PROC;
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return failed("bind", errno == EPERM ? "Before Linux 6.6 it needs CAP_NET_ADMIN" : "");
    request_ = static_cast<std::uint32_t>(detail::random_seed());
    if (!say(PROC_CN_MCAST_LISTEN)) return failed("asking for events", "");
    listening_ = true;
    Result<void> answer = await_acknowledgement();
    if (!answer) {
      detach();
      return answer;
    }
    known_drops_ = drops();
    dropped_ = skipped_ = 0;
    expected_.clear();
    return {};
  }

  Result<void> read(const std::function<void(const RawEvent&)>& take) override {
    const Result<void> done = receive([&](const Message& message) { take_message(message, take); });
    const std::uint32_t now = drops();
    dropped_ += now - known_drops_;  // it wraps
    known_drops_ = now;
    return done;
  }

  void detach() noexcept override {
    if (socket_ && listening_) (void)say(PROC_CN_MCAST_IGNORE);  // else older kernels go on making events for nobody
    listening_ = false;
    socket_.reset();
  }

 private:
  static Error failed(std::string_view what, std::string_view advice) {
    return system_error(errno, std::string(backend) + ": " + std::string(what), advice);
  }

  bool say(std::uint32_t operation) const noexcept {
    alignas(NLMSG_ALIGNTO) std::array<char, NLMSG_SPACE(sizeof(cn_msg) + sizeof operation)> data{};
    nlmsghdr header{};
    header.nlmsg_len = NLMSG_LENGTH(sizeof(cn_msg) + sizeof operation);
    header.nlmsg_type = NLMSG_DONE;
    cn_msg connector{};
    connector.id = {CN_IDX_PROC, CN_VAL_PROC};
    connector.ack = request_;
    connector.len = sizeof operation;
    std::memcpy(data.data(), &header, sizeof header);
    std::memcpy(data.data() + NLMSG_HDRLEN, &connector, sizeof connector);
    std::memcpy(data.data() + NLMSG_HDRLEN + sizeof connector, &operation, sizeof operation);
    return net::uninterrupted([&] { return ::send(socket_.get(), data.data(), header.nlmsg_len, MSG_NOSIGNAL); }) >= 0;
  }

  Result<void> await_acknowledgement() {
    const auto end = SteadyClock::now() + acknowledgement_time;
    std::optional<std::int32_t> answer;
    for (;;) {
      // What comes before the acknowledgement is nobody's yet: what runs is looked at after this.
      Result<void> done = receive([&](const Message& message) {
        if (message.event.what == acknowledged && message.ack == request_ + 1) answer = message.event.data[0];
      });
      if (!done) return done;
      if (answer) {
        if (*answer == 0) return {};
        errno = *answer;
        return failed("the kernel does not tell us", *answer == EPERM ? "Before Linux 6.6 it needs CAP_NET_ADMIN" : "");
      }
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - SteadyClock::now());
      if (left.count() <= 0) break;
      pollfd entry{socket_.get(), POLLIN, 0};
      (void)net::uninterrupted([&] { return ::poll(&entry, 1, static_cast<int>(left.count())); });
    }
    return Error{
        std::make_error_code(std::errc::operation_not_supported),
        std::string(backend) +
            ": the kernel does not acknowledge that we listen. It does so only in the first pid namespace and the first user namespace"};
  }

  /// Everything that is there, up to a limit.
  template <class Take>
  Result<void> receive(Take take) {
    std::array<std::array<char, max_message>, batch> data;
    std::array<sockaddr_nl, batch> senders;
    std::array<iovec, batch> parts;
    std::array<mmsghdr, batch> messages;
    for (std::size_t round = 0; round < max_batches;) {
      for (std::size_t i = 0; i < batch; ++i) {
        parts[i] = {data[i].data(), data[i].size()};
        messages[i] = {};
        messages[i].msg_hdr.msg_name = &senders[i];
        messages[i].msg_hdr.msg_namelen = sizeof senders[i];
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
      }
      const int count = net::uninterrupted([&] { return ::recvmmsg(socket_.get(), messages.data(), batch, MSG_DONTWAIT, nullptr); });
      if (count < 0 && errno == ENOBUFS) continue;  // some were lost; what is there can be read
      if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
      if (count < 0) return failed("reading", "");
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        if (senders[i].nl_pid == 0 && (messages[i].msg_hdr.msg_flags & MSG_TRUNC) == 0)
          each_message(data[i].data(), messages[i].msg_len, take);
      }
      if (static_cast<std::size_t>(count) < batch) return {};
      ++round;
    }
    return {};
  }

  void take_message(const Message& message, const std::function<void(const RawEvent&)>& take) {
    const Event& event = message.event;
    check_sequence(event.cpu, message.sequence);                   // others' acknowledgements have a number, too
    if (event.what == forked && event.data[2] == event.data[3]) {  // a process, no thread
      take({.type = RawEvent::Type::fork, .pid = event.data[3], .parent = event.data[1], .file = {}});
    } else if (event.what == executed) {
      take({.type = RawEvent::Type::exec, .pid = event.data[1], .parent = 0, .file = {}});
    }
  }

  /// Each processor counts its events. One that comes late, after its successor, was taken for lost.
  void check_sequence(std::uint32_t cpu, std::uint32_t sequence) {
    const auto [found, is_new] = expected_.try_emplace(cpu, sequence + 1);
    if (is_new) return;
    const auto ahead = static_cast<std::int32_t>(sequence - found->second);
    if (ahead >= 0) {
      skipped_ += static_cast<std::uint32_t>(ahead);
      found->second = sequence + 1;
    } else if (skipped_ != 0) {
      --skipped_;
    }
  }

  /// Of the socket, since it was made.
  std::uint32_t drops() const noexcept {
    std::array<std::uint32_t, SK_MEMINFO_VARS> memory{};
    socklen_t size = sizeof memory;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_MEMINFO, memory.data(), &size) != 0) return known_drops_;
    return memory[SK_MEMINFO_DROPS];
  }

  std::size_t receive_buffer_;
  net::Fd socket_;
  bool listening_ = false;
  std::uint32_t request_ = 0;  // acknowledgements go to all who listen; its successor says that it is ours
  std::uint32_t known_drops_ = 0;
  std::uint64_t dropped_ = 0, skipped_ = 0;
  std::unordered_map<std::uint32_t, std::uint32_t> expected_;  // by processor
};

}  // namespace

std::unique_ptr<RawSource> make_kernel_events(std::size_t receive_buffer) { return std::make_unique<KernelEvents>(receive_buffer); }

}  // namespace weir::inline v0::instrument
