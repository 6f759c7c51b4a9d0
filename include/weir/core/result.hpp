#pragma once
// Result<T>: a value or an Error. The part of std::expected that weir uses, under the same names, so that C++23 code can
// replace it. Expected failures (a path that is taken, a line that does not parse) come back as a Result; nothing is thrown.
//
//   weir::Result<void> bound = collector.listen();
//   if (!bound) std::cerr << bound.error().message << '\n';

#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

/// What went wrong: for people `message` (what, where, what to do), for programs `code` (a value of `std::errc` or of the
/// system category where there is one, else empty). Thread-safety: a value.
struct Error {
  std::error_code code;
  std::string message;
};

/// Thread-safety: as for any value. Distinct objects: safe. Shared: safe to read.
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  using error_type = Error;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  /// Requires: has_value(). Anything else is a programming error and aborts.
  T& value() & { return *checked(std::get_if<0>(&state_)); }
  const T& value() const& { return *checked(std::get_if<0>(&state_)); }
  T&& value() && { return std::move(*checked(std::get_if<0>(&state_))); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  template <class U>
  T value_or(U&& fallback) const& {
    return has_value() ? **this : static_cast<T>(std::forward<U>(fallback));
  }

  /// Requires: !has_value().
  Error& error() & { return *checked(std::get_if<1>(&state_)); }
  const Error& error() const& { return *checked(std::get_if<1>(&state_)); }
  Error&& error() && { return std::move(*checked(std::get_if<1>(&state_))); }

 private:
  template <class P>
  static P* checked(P* p) {
    if (p == nullptr) std::abort();
    return p;
  }

  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  using error_type = Error;

  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}

  bool has_value() const noexcept { return !failed_; }
  explicit operator bool() const noexcept { return has_value(); }

  const Error& error() const& {
    if (!failed_) std::abort();
    return error_;
  }
  Error&& error() && {
    if (!failed_) std::abort();
    return std::move(error_);
  }

 private:
  bool failed_ = false;
  Error error_;
};

/// An Error from errno: "<what>: <strerror>", optionally followed by ". <advice>".
inline Error system_error(int errno_value, std::string what, std::string_view advice = {}) {
  const std::error_code code(errno_value, std::system_category());
  what += ": " + code.message();
  if (!advice.empty()) what.append(". ").append(advice);
  return Error{code, std::move(what)};
}

}  // namespace weir::inline v0
