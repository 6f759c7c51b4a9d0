#include "telemetry/http_target.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "net/unix_socket.hpp"
#include "text/ascii.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::chrono::milliseconds longest_try{10'000};

Error invalid(std::string message) { return {std::make_error_code(std::errc::invalid_argument), std::move(message)}; }

bool is_alphanumeric(char c) noexcept { return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z'); }
bool is_token(std::string_view text) noexcept {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return is_alphanumeric(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}
bool has_control(std::string_view text) noexcept {
  return std::any_of(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; });
}
bool is_local(std::string_view host) noexcept {
  return host == "localhost" || host.ends_with(".localhost") || host.starts_with("127.") || host == "[::1]";
}

Result<std::vector<std::string>> check_headers(const HttpTransportOptions& options) {
  std::vector<std::string> lines{"Content-Type: application/json", "Accept: application/json", "Expect:"};
  for (const auto& [name, value] : options.headers) {
    if (!is_token(name))
      return invalid(fmt::format("\"{}\" cannot be the name of a header. Use letters, digits and '-'", has_control(name) ? "…" : name));
    for (const std::string_view ours :
         {"content-type", "accept", "accept-encoding", "expect", "content-length", "transfer-encoding", "connection", "user-agent"}) {
      if (lower(name) == ours) return invalid(fmt::format("the header {} is set by weir. Leave it out of `headers`", name));
    }
    if (has_control(value)) return invalid(fmt::format("the value of the header {} has a control character in it. Take it out", name));
    lines.push_back(value.find_first_not_of(" \t") == std::string::npos ? name + ";" : name + ": " + value);
  }
  if (has_control(options.user_agent)) return invalid("user_agent has a control character in it. Take it out");
  return lines;
}

}  // namespace

Result<HttpTarget> HttpTarget::check(std::string url, HttpTransportOptions options) {
  HttpTarget target;
  const std::string shown = url.find('@') == std::string::npos && !has_control(url) ? url.substr(0, url.find('?')) : "(not shown)";
  const std::string_view start = std::string_view(url).substr(0, url.find("://"));
  target.tls = lower(start) == "https";
  if (start.size() == url.size() || (!target.tls && lower(start) != "http")) {
    return invalid(fmt::format("the endpoint {} is no URL of HTTP. Write http:// or https:// before it", shown));
  }
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parsed(curl_url(), curl_url_cleanup);
  if (!parsed) throw std::bad_alloc();
  const CURLUcode code = url.find('\0') != std::string::npos ? CURLUE_MALFORMED_INPUT
                         : url.substr(start.size(), 4) == ":///"
                             ? CURLUE_NO_HOST
                             : curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), CURLU_NON_SUPPORT_SCHEME);
  if (code != CURLUE_OK) return invalid(fmt::format("the endpoint {} is no URL: {}", shown, curl_url_strerror(code)));
  const auto part = [&](CURLUPart which) -> std::string {
    char* text = nullptr;
    if (curl_url_get(parsed.get(), which, &text, 0) != CURLUE_OK) return {};
    const std::unique_ptr<char, decltype(&curl_free)> owner(text, curl_free);
    return text;
  };
  if (url.find('@') < url.find_first_of("/?#", start.size() + 3)) {
    return invalid("the endpoint's URL holds a user or a password. Send them in a header: {\"Authorization\", \"Basic …\"}");
  }
  if (url.find('#') != std::string::npos) return invalid(fmt::format("the endpoint {} has a fragment ('#'). Leave it out", shown));
  const bool query = url.find('?') != std::string::npos;
  if (url.back() != '/' && !(query && url.back() == '=')) {
    return invalid(fmt::format("the endpoint {} does not end in '/', and the id of the instance is appended to it. Write {}/", shown,
                               query ? "…" : shown));
  }
  target.never_proxied = !options.unix_socket.empty() || is_local(lower(part(CURLUPART_HOST)));

  if (options.timeout <= options.timeout.zero() || options.timeout > longest_try) {
    return invalid(fmt::format("a timeout of {} ms is out of range. Use 1 to {} ms", options.timeout.count(), longest_try.count()));
  }
  if (options.connect_timeout <= options.connect_timeout.zero()) {
    return invalid(fmt::format("a connect_timeout of {} ms is out of range. Use 1 ms or more", options.connect_timeout.count()));
  }
  options.connect_timeout = std::min(options.connect_timeout, longest_try);
  if (options.ca_file.find('\0') != std::string::npos) return invalid("ca_file has a NUL in it");
  if (const std::string& path = options.unix_socket; !path.empty()) {
    if (path.size() > net::max_socket_path) {
      return Error{
          std::make_error_code(std::errc::filename_too_long),
          fmt::format("the path of the socket {} has {} bytes, {} at most. Use a shorter one", path, path.size(), net::max_socket_path)};
    }
    if (path.front() != '/' || path.back() == '/' || path.find('\0') != std::string::npos) {
      return invalid(fmt::format("the path of the socket \"{}\" is not absolute, or no path. Use one that begins with '/'", path));
    }
  }
  auto lines = check_headers(options);
  if (!lines) return std::move(lines).error();
  target.header_lines = *std::move(lines);
  target.name = shown;
  if (!options.unix_socket.empty()) target.name += " at " + options.unix_socket;
  target.url = std::move(url);
  target.options = std::move(options);
  return target;
}

bool is_plain_id(std::string_view id) noexcept {
  return !id.empty() && std::all_of(id.begin(), id.end(), [](char c) { return is_alphanumeric(c) || c == '-' || c == '_'; });
}

}  // namespace weir::inline v0::detail
