#include "weir/telemetry/http_transport.hpp"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <exception>
#include <new>
#include <optional>
#include <string_view>
#include <system_error>

#include "net/unix_socket.hpp"
#include "telemetry/http_target.hpp"

namespace weir::inline v0 {

namespace {

using Milliseconds = std::chrono::milliseconds;
using SteadyTime = std::chrono::steady_clock::time_point;
using detail::HttpTarget;

constexpr std::size_t max_header_bytes = 64 * 1024;
constexpr std::size_t max_retry_after = 128;

/// Once in a process and never taken back: others may use libcurl, too.
bool start_libcurl() noexcept {
  static const bool started = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return started;
}

/// The sockets of one process's connections. libcurl's own would be inherited by programs that the service executes, and the
/// child of a fork, which must not touch libcurl's, would keep them open. Readable at any moment: a fork may come at any.
class Sockets {
 public:
  curl_socket_t open(const curl_sockaddr& address) noexcept {
    const auto slot = find(none);
    if (slot == slots_.end()) return CURL_SOCKET_BAD;
    slot->fd = ::socket(address.family, address.socktype | SOCK_CLOEXEC, address.protocol);
    return slot->fd < 0 ? CURL_SOCKET_BAD : slot->fd.load();
  }
  int close(int fd) noexcept {
    if (const auto slot = find(fd); slot != slots_.end()) slot->fd = none;
    return ::close(fd);
  }
  void close_all() noexcept {
    for (Slot& slot : slots_)
      if (const int fd = slot.fd.exchange(none); fd >= 0) ::close(fd);
  }

 private:
  static constexpr int none = -1;
  struct Slot {
    std::atomic<int> fd{none};
  };
  std::array<Slot, 16> slots_;  // an idle one, and one per family while connecting

  std::array<Slot, 16>::iterator find(int fd) noexcept {
    return std::find_if(slots_.begin(), slots_.end(), [fd](const Slot& slot) { return slot.fd == fd; });
  }
};

}  // namespace

struct HttpTransport::State {
  HttpTarget target;
  std::optional<Error> refused;  // why nothing can be sent
  CURLM* multi = nullptr;        // holds the idle connection
  pid_t owner = 0;               // the process that made it
  Sockets sockets;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { close(); }

  /// False: out of memory or descriptors.
  bool open() noexcept {
    if (multi != nullptr && owner == ::getpid()) return true;
    close();
    if (!start_libcurl()) return false;
    multi = curl_multi_init();
    owner = ::getpid();
    if (multi == nullptr) return false;
    if (curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, 1L) == CURLM_OK && curl_multi_wakeup(multi) == CURLM_OK) return true;
    close();
    return false;
  }
  /// In the child of a fork the parent's handle is left as it is: ending it would speak on the parent's connections.
  void close() noexcept {
    if (multi != nullptr && owner == ::getpid()) curl_multi_cleanup(multi);
    multi = nullptr;
    sockets.close_all();
  }
};

namespace {

/// One request and its answer, as libcurl's callbacks fill it. Pinned.
class Transfer {
 public:
  enum class End { done, stopped, timed_out, failed };

  Transfer(const HttpTarget& target, Sockets& sockets, CURLM* multi)
      : target_(target), sockets_(sockets), multi_(multi), easy_(curl_easy_init()) {
    if (easy_ == nullptr) throw std::bad_alloc();
    answer_.body.reserve(max_answer_bytes);
    answer_.retry_after.reserve(max_retry_after);
  }
  ~Transfer() {
    if (added_) curl_multi_remove_handle(multi_, easy_);
    curl_easy_cleanup(easy_);
    curl_slist_free_all(headers_);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  /// False if libcurl lacks something that the request needs.
  bool prepare(const Update& update) {
    const HttpTransportOptions& options = target_.options;
    body_bytes_ = static_cast<curl_off_t>(update.body.size());
    for (const std::string& line : target_.header_lines) {
      curl_slist* longer = curl_slist_append(headers_, line.c_str());
      if (longer == nullptr) throw std::bad_alloc();
      headers_ = longer;
    }
    set(CURLOPT_URL, (target_.url + std::string(update.instance_id)).c_str());
    set(CURLOPT_PROTOCOLS_STR, target_.tls ? "https" : "http");
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    set(CURLOPT_POST, 1L);
    set(CURLOPT_POSTFIELDS, update.body.empty() ? "" : update.body.data());
    set(CURLOPT_POSTFIELDSIZE_LARGE, body_bytes_);
    set(CURLOPT_HTTPHEADER, headers_);
    set(CURLOPT_USERAGENT, options.user_agent.c_str());
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_QUICK_EXIT, 1L);  // a look-up that hangs is left to itself
    set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout.count()));
    set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    if (target_.never_proxied) set(CURLOPT_PROXY, "");
    if (!options.unix_socket.empty()) set(CURLOPT_UNIX_SOCKET_PATH, options.unix_socket.c_str());
    if (target_.tls) {
      set(CURLOPT_SSL_VERIFYPEER, 1L);
      set(CURLOPT_SSL_VERIFYHOST, 2L);
      set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
      if (!options.ca_file.empty()) {
        set(CURLOPT_CAINFO, options.ca_file.c_str());
        curl_easy_setopt(easy_, CURLOPT_CAPATH, nullptr);  // not all of libcurl's TLS libraries have directories of certificates
      }
    }
    set(CURLOPT_ERRORBUFFER, error_);
    set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_OPENSOCKETFUNCTION, &Transfer::on_open);
    set(CURLOPT_OPENSOCKETDATA, this);
    set(CURLOPT_CLOSESOCKETFUNCTION, &Transfer::on_close);
    set(CURLOPT_CLOSESOCKETDATA, &sockets_);  // the connection may outlive the transfer
    return result_ == CURLE_OK;
  }

  /// Returns when the request is over, or may not go on.
  void run(SteadyTime deadline, const StopToken& stop) {
    if (curl_multi_add_handle(multi_, easy_) != CURLM_OK) throw std::bad_alloc();
    added_ = true;
    const StopCallback wake(stop, [multi = multi_] { curl_multi_wakeup(multi); });
    end_ = wait(deadline, stop);
    for (int rest = 0; const CURLMsg* message = curl_multi_info_read(multi_, &rest);) {
      if (message->msg == CURLMSG_DONE && message->easy_handle == easy_) result_ = message->data.result;
    }
  }

  /// Whether anything of the request can have come to where it is understood. Bytes for a proxy, and those of a handshake, cannot.
  bool may_have_arrived() const noexcept {
    if (sent_bytes() == 0) return false;
    return !target_.tls || !anew_ || again_ || amount(CURLINFO_APPCONNECT_TIME_T) > 0;
  }

  Delivery delivery() {
    if (end_ == End::done) {
      const bool whole = result_ == CURLE_OK || too_long_;
      answer_.status = static_cast<int>(number(CURLINFO_RESPONSE_CODE));
      if (whole && headers_read_ && !(too_long_ && answer_.status / 100 == 2)) {
        const char* type = nullptr;
        curl_easy_getinfo(easy_, CURLINFO_CONTENT_TYPE, &type);
        if (type != nullptr) answer_.content_type = type;
        return Delivery::answered(std::move(answer_));
      }
    }
    return may_have_arrived() ? Delivery::unknown(no_answer()) : Delivery::not_sent(no_connection());
  }

  /// What libcurl says went wrong.
  std::string detail() const {
    if (end_ == End::failed) return "libcurl could not go on";
    return error_[0] != '\0' ? error_ : curl_easy_strerror(result_);
  }

 private:
  End wait(SteadyTime deadline, const StopToken& stop) {
    for (int running = 1;;) {
      if (curl_multi_perform(multi_, &running) != CURLM_OK) return End::failed;
      if (running == 0) return End::done;
      if (stop.stop_requested()) return End::stopped;
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= left.zero()) return End::timed_out;
      const auto milliseconds = std::chrono::ceil<Milliseconds>(left);
      if (curl_multi_poll(multi_, nullptr, 0, static_cast<int>(milliseconds.count()), nullptr) != CURLM_OK) return End::failed;
    }
  }

  template <class T>
  void set(CURLoption option, T value) noexcept {
    const CURLcode code = curl_easy_setopt(easy_, option, value);
    if (result_ == CURLE_OK) result_ = code;
  }
  long number(CURLINFO which) const noexcept {
    long value = 0;
    curl_easy_getinfo(easy_, which, &value);
    return value;
  }
  curl_off_t amount(CURLINFO which) const noexcept {
    curl_off_t value = 0;
    curl_easy_getinfo(easy_, which, &value);
    return value;
  }
  long sent_bytes() const noexcept { return number(CURLINFO_REQUEST_SIZE); }

  static std::size_t on_body(const char* data, std::size_t, std::size_t size, void* self) noexcept {
    Transfer& transfer = *static_cast<Transfer*>(self);
    std::string& body = transfer.answer_.body;
    const std::size_t fits = std::min(size, max_answer_bytes - body.size());
    body.append(data, fits);  // within what was reserved
    transfer.too_long_ = fits < size;
    return fits;
  }
  static std::size_t on_header(const char* data, std::size_t, std::size_t size, void* self) noexcept {
    Transfer& transfer = *static_cast<Transfer*>(self);
    transfer.header_bytes_ += size;
    if (transfer.header_bytes_ > max_header_bytes) return 0;
    if (transfer.headers_read_) return size;  // a trailer
    std::string_view line(data, size);
    line = line.substr(0, line.find_last_not_of("\r\n \t") + 1);
    if (line.starts_with("HTTP/")) transfer.answer_.retry_after.clear();  // what came before was interim
    if (line.empty()) transfer.headers_read_ = transfer.number(CURLINFO_RESPONSE_CODE) >= 200;
    constexpr std::string_view name = "retry-after:";
    if (line.size() > name.size() && curl_strnequal(line.data(), name.data(), name.size()) != 0) {
      line.remove_prefix(line.find_first_not_of(" \t", name.size()));
      transfer.answer_.retry_after.assign(line.substr(0, max_retry_after));
    }
    return size;
  }
  static curl_socket_t on_open(void* self, curlsocktype, curl_sockaddr* address) noexcept {
    Transfer& transfer = *static_cast<Transfer*>(self);
    transfer.anew_ = true;
    transfer.again_ |= transfer.sent_bytes() > 0;
    return transfer.socket_ = transfer.sockets_.open(*address);
  }
  static int on_close(void* sockets, curl_socket_t fd) noexcept { return static_cast<Sockets*>(sockets)->close(fd); }

  bool connected() const noexcept {
    sockaddr_storage peer;
    socklen_t size = sizeof peer;
    return ::getpeername(socket_, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
  }

  Error error(std::errc code, std::string message) const { return {std::make_error_code(code), std::move(message)}; }

  Error no_connection() const {
    const std::string where = fmt::format("cannot reach {}: ", target_.name);
    const std::string_view phase = !anew_ ? "looking up its name" : connected() ? "its TLS handshake" : "connecting";
    if (end_ == End::stopped) return error(std::errc::operation_canceled, fmt::format("{}stopped while {}", where, phase));
    const bool out_of_time = end_ == End::timed_out;
    if (out_of_time || result_ == CURLE_OPERATION_TIMEDOUT) {
      const Milliseconds limit = out_of_time ? target_.options.timeout : std::min(target_.options.timeout, target_.options.connect_timeout);
      return error(std::errc::timed_out, fmt::format("{}{} took longer than {} ms. Check that it runs and that the way to it is open",
                                                     where, phase, limit.count()));
    }
    switch (result_) {
      case CURLE_COULDNT_RESOLVE_HOST:
        return error(std::errc::host_unreachable,
                     fmt::format("{}{}. Check the name in the URL, and this machine's name servers", where, detail()));
      case CURLE_COULDNT_RESOLVE_PROXY:
        return error(std::errc::host_unreachable, fmt::format("{}{}. Check the proxy that the environment names", where, detail()));
      case CURLE_PEER_FAILED_VERIFICATION:
        return error(
            std::errc::permission_denied,
            fmt::format("{}its certificate is not trusted ({}). Set ca_file if an authority of your own has signed it", where, detail()));
      case CURLE_SSL_CACERT_BADFILE:
        return error(std::errc::no_such_file_or_directory,
                     fmt::format("{}there are no certificates to trust ({}). Check ca_file {}", where, detail(), target_.options.ca_file));
      case CURLE_SSL_CONNECT_ERROR:
        return error(std::errc::protocol_error,
                     fmt::format("{}no TLS connection ({}). Check that it speaks TLS at this port", where, detail()));
      default: break;
    }
    if (const long number_of_error = number(CURLINFO_OS_ERRNO); number_of_error != 0 && number_of_error != EINPROGRESS) {
      return system_error(static_cast<int>(number_of_error), fmt::format("cannot reach {}", target_.name),
                          "Check that it runs there and takes connections");
    }
    return error(std::errc::io_error, fmt::format("{}{}. Check that it runs there and takes connections", where, detail()));
  }

  Error no_answer() const {
    const std::string where = fmt::format("no whole answer from {}: ", target_.name);
    const std::string_view phase = headers_read_                                  ? "reading its answer"
                                   : amount(CURLINFO_SIZE_UPLOAD_T) < body_bytes_ ? "sending the update"
                                                                                  : "waiting for its answer";
    if (end_ == End::stopped) return error(std::errc::operation_canceled, fmt::format("{}stopped while {}", where, phase));
    if (end_ == End::timed_out) {
      return error(std::errc::timed_out, fmt::format("{}{} took longer than the {} ms of a try. Check what keeps it", where, phase,
                                                     target_.options.timeout.count()));
    }
    if (too_long_)
      return error(std::errc::message_size, fmt::format("{}the answer is longer than {} KiB. Check that it is a telemetry endpoint", where,
                                                        max_answer_bytes / 1024));
    if (header_bytes_ > max_header_bytes) {
      return error(std::errc::message_size,
                   fmt::format("{}the headers of the answer are longer than {} KiB. Check that it is a telemetry endpoint", where,
                               max_header_bytes / 1024));
    }
    if (end_ == End::done && result_ == CURLE_OK)
      return error(std::errc::protocol_error, fmt::format("{}it ended within its headers. Check what closes the connection", where));
    if (result_ == CURLE_UNSUPPORTED_PROTOCOL || result_ == CURLE_WEIRD_SERVER_REPLY) {
      return error(std::errc::protocol_error, fmt::format("{}{}. Check that it speaks HTTP", where, detail()));
    }
    return error(std::errc::connection_reset, fmt::format("{}{}. Check what closes the connection", where, detail()));
  }

  const HttpTarget& target_;
  Sockets& sockets_;
  CURLM* multi_;
  CURL* easy_;
  curl_slist* headers_ = nullptr;
  bool added_ = false;
  curl_off_t body_bytes_ = 0;

  End end_ = End::done;
  CURLcode result_ = CURLE_OK;
  char error_[CURL_ERROR_SIZE] = "";
  Answer answer_;
  std::size_t header_bytes_ = 0;  // of all that came, interim answers included
  bool headers_read_ = false;     // of the answer itself
  bool too_long_ = false;
  curl_socket_t socket_ = CURL_SOCKET_BAD;  // the last that was opened
  bool anew_ = false;                       // a connection was made for this request
  bool again_ = false;                      // ... after the idle one had taken bytes of it
};

Delivery not_sent(std::errc code, std::string message) { return Delivery::not_sent({std::make_error_code(code), std::move(message)}); }

}  // namespace

HttpTransport::HttpTransport(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}

HttpTransport::HttpTransport(std::string url, HttpTransportOptions options) : state_(std::make_unique<State>()) {
  start_libcurl();  // on the thread that wires the program: what TLS registers to end it is then run after what is made later
  auto target = HttpTarget::check(std::move(url), std::move(options));
  if (target) {
    state_->target = *std::move(target);
  } else {
    state_->refused = std::move(target).error();
    state_->target.name = "(an endpoint that cannot be used)";
  }
}

Result<HttpTransport> HttpTransport::create(std::string url, HttpTransportOptions options) {
  HttpTransport transport(std::move(url), std::move(options));
  State& state = *transport.state_;
  if (state.refused) return *std::move(state.refused);
  if (const std::string& path = state.target.options.ca_file; !path.empty()) {
    const net::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file) return system_error(errno, "cannot read ca_file " + path, "Name a PEM file of certificates");
  }
  return transport;
}

HttpTransport::~HttpTransport() = default;
HttpTransport::HttpTransport(HttpTransport&&) noexcept = default;
HttpTransport& HttpTransport::operator=(HttpTransport&&) noexcept = default;

std::string HttpTransport::endpoint() const { return state_ ? state_->target.name : std::string("(moved from)"); }

Delivery HttpTransport::send(const Update& update, const StopToken& stop) noexcept {
  Delivery::Outcome outcome = Delivery::Outcome::not_sent;
  try {
    if (!state_) return not_sent(std::errc::invalid_argument, "this HttpTransport was moved from. Use the one it was moved to");
    if (state_->refused) return Delivery::not_sent(*state_->refused);
    const HttpTarget& target = state_->target;
    const SteadyTime deadline = std::chrono::steady_clock::now() + target.options.timeout;
    if (!detail::is_plain_id(update.instance_id)) {
      return not_sent(std::errc::invalid_argument, "the id of the instance has more than letters, digits and '-' in it. Use an InstanceId");
    }
    if (stop.stop_requested()) return not_sent(std::errc::operation_canceled, fmt::format("stopped before {} was asked", target.name));
    if (!state_->open()) {
      return not_sent(std::errc::too_many_files_open,
                      "no request can be made: out of memory or descriptors. Raise the limit of open files");
    }
    Transfer transfer(target, state_->sockets, state_->multi);
    if (!transfer.prepare(update)) {
      return not_sent(std::errc::not_supported,
                      fmt::format("cannot reach {}: {}. Use a libcurl with TLS and Unix sockets", target.name, transfer.detail()));
    }
    transfer.run(deadline, stop);
    outcome = transfer.may_have_arrived() ? Delivery::Outcome::unknown : Delivery::Outcome::not_sent;
    return transfer.delivery();
  } catch (const std::exception&) {
    return {outcome, {}, {std::make_error_code(std::errc::not_enough_memory), "out of memory"}};  // short enough to need none
  }
}

namespace {

/// A URL for a request over a Unix socket, where no host is looked up.
std::string local_url(const std::string& path) { return path.starts_with('/') ? "http://localhost" + path : "http://localhost/" + path; }
HttpTransportOptions over(std::string path, HttpTransportOptions options) {
  // Empty would be TCP.
  options.unix_socket = path.empty() ? "(empty)" : std::move(path);
  return options;
}

}  // namespace

UnixSocketTransport::UnixSocketTransport(std::string path, std::string url_path, HttpTransportOptions options)
    : http_(local_url(url_path), over(std::move(path), std::move(options))) {}

Result<UnixSocketTransport> UnixSocketTransport::create(std::string path, std::string url_path, HttpTransportOptions options) {
  auto http = HttpTransport::create(local_url(url_path), over(std::move(path), std::move(options)));
  if (!http) return std::move(http).error();
  return UnixSocketTransport(*std::move(http));
}

}  // namespace weir::inline v0
