#pragma once
// Listener: a listening socket at an Address. Thread-safety: Distinct objects: safe. Shared: unsafe.

#include <optional>

#include "http/address.hpp"
#include "net/unix_socket.hpp"

namespace weir::inline v0::http {

class Listener {
 public:
  /// Sets the port of `address` if it was 0. Errors: as getaddrinfo, bind; for Unix sockets as net::UnixListener::bind.
  static Result<Listener> bind(Address& address);

  Listener() = default;  ///< closed
  explicit operator bool() const noexcept { return fd() >= 0; }
  int fd() const noexcept { return unix_ ? unix_.fd() : tcp_.get(); }
  /// Never blocks. Connections are non-blocking and close-on-exec.
  net::Accepted accept();
  void close() noexcept;

 private:
  net::UnixListener unix_;
  net::Fd tcp_;
};

}  // namespace weir::inline v0::http
