#include "http/address.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include "text/ascii.hpp"

namespace weir::inline v0::http {

namespace {

std::optional<std::uint16_t> port_of(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return port;
}

bool host_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

std::string bracketed(const std::string& host) { return host.find(':') == std::string::npos ? host : "[" + host + "]"; }

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  Address address;
  if (text.starts_with("unix:")) {
    address.path = text.substr(5);
    if (!address.path.empty()) return address;
  } else if (const auto port = port_of(text)) {
    address.host = "127.0.0.1";
    address.port = *port;
    return address;
  } else if (const std::size_t colon = text.rfind(':'); colon != text.npos) {
    std::string_view host = text.substr(0, colon);
    const auto given = port_of(text.substr(colon + 1));
    const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (brackets) host = host.substr(1, host.size() - 2);
    const bool valid =
        !host.empty() && std::all_of(host.begin(), host.end(), [&](char c) { return host_character(c) || (brackets && c == ':'); });
    if (given && valid) {
      address.host = detail::lower(host);
      address.port = *given;
      return address;
    }
  }
  return Error{std::make_error_code(std::errc::invalid_argument),
               "'" + std::string(text) + "' is no address: write it as 4318, 127.0.0.1:4318, [::1]:4318 or unix:/run/weir/http.sock"};
}

std::string Address::to_string() const { return path.empty() ? bracketed(host) + ":" + std::to_string(port) : "unix:" + path; }

bool names_host(const Address& address, std::string_view host) {
  const std::string given = detail::lower(host);
  // The port stands behind the last colon, unless that is one of an IPv6 address.
  const std::size_t colon = given.rfind(':');
  const bool with_port = colon != std::string::npos && (given.front() != '[' || given[colon - 1] == ']');
  const std::string name = with_port ? given.substr(0, colon) : given;
  if (with_port) {
    const auto port = port_of(std::string_view(given).substr(colon + 1));
    if (!port || (address.path.empty() && *port != address.port)) return false;
  } else if (address.path.empty() && address.port != 80) {
    return false;
  }
  return name == "127.0.0.1" || name == "[::1]" || name == "localhost" || (!address.host.empty() && name == bracketed(address.host));
}

bool names_origin(const Address& address, std::string_view origin) {
  constexpr std::string_view scheme = "http://";
  return origin.starts_with(scheme) && names_host(address, origin.substr(scheme.size()));
}

}  // namespace weir::inline v0::http
