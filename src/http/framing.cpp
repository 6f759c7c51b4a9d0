#include "http/framing.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "text/ascii.hpp"

namespace weir::inline v0::http {

namespace {

constexpr std::size_t max_chunk_line = 256, max_trailers = 4096;
constexpr std::array<std::string_view, 6> used_headers{"accept", "accept-encoding", "content-encoding", "content-type", "host", "origin"};

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::optional<std::uint64_t> number_of(std::string_view digits, int base) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, base);
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

}  // namespace

void RequestFrame::fail(int status, std::string_view error) {
  state_ = State::failed;
  status_ = status;
  error_ = error;
  used_ = 0;
  std::string().swap(buffer_);
  std::string().swap(body_);
}

bool RequestFrame::take_expects() noexcept { return state_ != State::complete && std::exchange(expects_, false); }

void RequestFrame::append(std::string_view bytes) {
  if (state_ == State::complete || state_ == State::failed) return;
  buffer_.append(bytes);
  while (step()) {}
  if (state_ == State::complete) {
    std::string().swap(buffer_);
  } else {
    buffer_.erase(0, std::exchange(used_, 0));
  }
}

/// False: more bytes are needed, or none.
bool RequestFrame::step() {
  std::string line;
  switch (state_) {
    case State::head: {
      const std::size_t end = buffer_.find("\r\n\r\n", searched_);
      if (end == std::string::npos || end + 4 > limits_.head) {
        if (buffer_.size() > limits_.head || end != std::string::npos) fail(431, "the head of the request is too large");
        searched_ = buffer_.size() < 3 ? 0 : buffer_.size() - 3;
        return false;
      }
      const std::string head = buffer_.substr(0, end + 2);
      used_ = end + 4;
      read_head(head);
      return true;
    }
    case State::body:
      if (!take_body(remaining_)) return false;
      state_ = State::complete;
      return true;
    case State::chunk_size: {
      if (!take_line(max_chunk_line, line)) return false;
      const std::string_view digits = trimmed(std::string_view(line).substr(0, line.find(';')));
      const auto size = number_of(digits, 16);
      if (!size) return fail(400, "a chunk of the body has no size"), false;
      if (*size > limits_.body || body_.size() + *size > limits_.body) return fail(413, "the body is too large"), false;
      remaining_ = static_cast<std::size_t>(*size);
      state_ = remaining_ == 0 ? State::trailers : State::chunk;
      return true;
    }
    case State::chunk:
      if (!take_body(remaining_)) return false;
      state_ = State::chunk_end;
      return true;
    case State::chunk_end:
      if (buffer_.size() - used_ < 2) return false;
      if (buffer_.compare(used_, 2, "\r\n") != 0) return fail(400, "a chunk of the body is longer than its size"), false;
      used_ += 2;
      state_ = State::chunk_size;
      return true;
    case State::trailers:
      if (!take_line(max_trailers - trailers_, line)) return false;
      trailers_ += line.size() + 2;
      if (trailers_ >= max_trailers) return fail(431, "the trailers of the body are too large"), false;
      if (!line.empty()) return true;
      head_ += "Content-Length: " + std::to_string(body_.size()) + "\r\n\r\n";
      state_ = State::complete;
      return true;
    case State::complete:
    case State::failed: break;
  }
  return false;
}

/// `head`: lines, each with its end.
void RequestFrame::read_head(std::string_view head) {
  std::optional<std::uint64_t> length;
  bool chunked = false, first = true;
  while (!head.empty()) {
    const std::string_view line = head.substr(0, head.find("\r\n"));
    head.remove_prefix(line.size() + 2);
    if (std::exchange(first, false)) {
      if (line.size() > limits_.line) return fail(414, "the first line of the request is too long");
      if (line.find_first_of(std::string_view("\0\r\n", 3)) != line.npos) return fail(400, "the first line of the request is malformed");
      head_.append(line).append("\r\n");
      continue;
    }
    const std::size_t colon = line.find(':');
    if (colon == line.npos || colon == 0 || line.find_first_of(std::string_view("\0\r\n", 3)) != line.npos ||
        line.substr(0, colon).find_first_of(" \t") != line.npos) {
      return fail(400, "a header line is malformed");
    }
    const std::string name = detail::lower(line.substr(0, colon));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (name == "content-length") {
      if (length) return fail(400, "Content-Length is there twice");
      length = number_of(value, 10);
      if (!length) return fail(400, "Content-Length is no number");
    } else if (name == "transfer-encoding") {
      if (chunked || detail::lower(value) != "chunked") return fail(501, "of transfer encodings, chunked is known");
      chunked = true;
    } else if (name == "expect") {
      expects_ = detail::lower(value) == "100-continue";
    } else if (std::find(used_headers.begin(), used_headers.end(), name) != used_headers.end()) {
      head_.append(name).append(": ").append(value).append("\r\n");
    }
  }
  if (chunked && length) return fail(400, "the body has a Content-Length and is chunked");
  if (length && *length > limits_.body) return fail(413, "the body is too large");
  if (chunked) {
    state_ = State::chunk_size;
    return;
  }
  remaining_ = static_cast<std::size_t>(length.value_or(0));
  head_ += "Content-Length: " + std::to_string(remaining_) + "\r\n\r\n";
  state_ = State::body;
}

/// A line of at most `limit` bytes, without its end.
bool RequestFrame::take_line(std::size_t limit, std::string& line) {
  const std::string_view rest = std::string_view(buffer_).substr(used_);
  const std::size_t end = rest.substr(0, limit + 2).find("\r\n");
  if (end == rest.npos) {
    if (rest.size() >= limit + 2) fail(400, "a line of the chunked body is too long");
    return false;
  }
  line = rest.substr(0, end);
  used_ += end + 2;
  return true;
}

/// Moves what there is of `size` bytes to the body; true when all of them are there.
bool RequestFrame::take_body(std::size_t size) {
  const std::size_t part = std::min(size, buffer_.size() - used_);
  body_.append(buffer_, used_, part);
  used_ += part;
  remaining_ = size - part;
  return remaining_ == 0;
}

}  // namespace weir::inline v0::http
