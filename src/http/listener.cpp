#include "http/listener.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

namespace weir::inline v0::http {

namespace {

constexpr int backlog = 128;

std::uint16_t port_of(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

Result<net::Fd> bind_tcp(const Address& address) {
  const std::string doing = "cannot listen on " + address.to_string();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &list);
  if (error != 0) {
    return Error{std::make_error_code(std::errc::address_not_available),
                 doing + ": " + ::gai_strerror(error) + ". Write an address of this machine, as 127.0.0.1:4318"};
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  Error last = system_error(EADDRNOTAVAIL, doing);
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    net::Fd fd(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    // A connection of an earlier server, still closing, does not keep the port.
    if (fd && ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        ::bind(fd.get(), entry->ai_addr, entry->ai_addrlen) == 0 && ::listen(fd.get(), backlog) == 0) {
      return fd;
    }
    const int failed = errno;
    last = system_error(failed, doing,
                        failed == EADDRINUSE      ? "Another process listens there; stop it, or choose another port"
                        : failed == EADDRNOTAVAIL ? "Write an address of this machine, as 127.0.0.1:4318"
                        : failed == EACCES        ? "Choose a port from 1024 on"
                                                  : "");
  }
  return last;
}

}  // namespace

Result<Listener> Listener::bind(Address& address) {
  Listener listener;
  if (!address.path.empty()) {
    Result<net::UnixListener> bound = net::UnixListener::bind(address.path);
    if (!bound) return bound.error();
    listener.unix_ = std::move(*bound);
    return listener;
  }
  Result<net::Fd> bound = bind_tcp(address);
  if (!bound) return bound.error();
  listener.tcp_ = std::move(*bound);
  address.port = port_of(listener.tcp_.get());
  return listener;
}

net::Accepted Listener::accept() {
  if (unix_) return unix_.accept();
  net::Accepted accepted;
  for (;;) {
    accepted.peer.fd = net::Fd(::accept4(tcp_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (accepted.peer.fd) {
      accepted.status = net::Accepted::Status::accepted;
      return accepted;
    }
    accepted.error = errno;
    switch (errno) {
      case EAGAIN: accepted.status = net::Accepted::Status::empty; return accepted;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM: accepted.status = net::Accepted::Status::exhausted; return accepted;
      case EBADF:
      case EINVAL:
      case ENOTSOCK: accepted.status = net::Accepted::Status::failed; return accepted;
      default: continue;  // interrupted, or the connection went before we came
    }
  }
}

void Listener::close() noexcept {
  unix_.close();
  tcp_.reset();
}

}  // namespace weir::inline v0::http
