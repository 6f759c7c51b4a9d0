#pragma once
// Framing: where a request ends among the bytes of a connection, before an HTTP library parses it. A request is handed on whole,
// so that a client that is slow, or never ends, costs a buffer and no thread; and of its header lines only those that we use, so
// that nobody can reach the rest of the library.
//
//   bytes ─append()─▶ incomplete ─▶ complete: head(), body()
//                        └────────▶ failed: the status to answer with
//
// Accepted are a body of Content-Length, or a chunked one, which becomes one of Content-Length. One request per connection.

#include <cstddef>
#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0::http {

/// In bytes.
struct RequestLimits {
  std::size_t line = 4096;   ///< the first line
  std::size_t head = 16384;  ///< with all header lines
  std::size_t body = 4u << 20;
};

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class RequestFrame {
 public:
  explicit RequestFrame(RequestLimits limits = {}) : limits_(limits) {}

  /// What came from the connection. Nothing that follows a request is kept.
  void append(std::string_view bytes);

  bool complete() const noexcept { return state_ == State::complete; }
  /// 0, or the status of HTTP to answer with; error() says why.
  int failed() const noexcept { return status_; }
  std::string_view error() const noexcept { return error_; }
  /// Nothing has come.
  bool untouched() const noexcept { return state_ == State::head && buffer_.empty(); }
  /// The client waits for "100 Continue" before it sends its body. True once.
  bool take_expects() noexcept;
  /// Bytes that are kept.
  std::size_t bytes() const noexcept { return buffer_.capacity() + head_.capacity() + body_.capacity(); }

  /// Requires: complete(). The request line and the header lines that are used, with the empty line, for a body of body().size().
  std::string& head() noexcept { return head_; }
  std::string& body() noexcept { return body_; }

 private:
  enum class State { head, body, chunk_size, chunk, chunk_end, trailers, complete, failed };

  void fail(int status, std::string_view error);
  bool step();
  void read_head(std::string_view head);
  bool take_line(std::size_t limit, std::string& line);
  bool take_body(std::size_t size);

  RequestLimits limits_;
  State state_ = State::head;
  std::string buffer_;    // what came, from behind what was understood before
  std::size_t used_ = 0;  // of the buffer, while append() runs
  std::string head_, body_;
  std::size_t searched_ = 0;   // of the buffer, for the end of the head
  std::size_t remaining_ = 0;  // of the body, or of the chunk
  std::size_t trailers_ = 0;   // bytes so far
  bool expects_ = false;
  int status_ = 0;
  std::string_view error_;
};

}  // namespace weir::inline v0::http
