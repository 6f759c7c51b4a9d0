#include "weir/collect/telemetry_server.hpp"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "http/http_server.hpp"
#include "text/json.hpp"
#include "text/time.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

namespace {

constexpr std::size_t max_path = 512;
constexpr std::size_t default_limit = 1000, max_limit = 10'000;

class JsonWriter {
 public:
  JsonWriter& raw(std::string_view text) {
    text_.append(text);
    return *this;
  }
  /// Begins a member; the value follows.
  JsonWriter& name(std::string_view name) {
    separate();
    detail::append_json_string(text_, name);
    return raw(":");
  }
  void member(std::string_view key, std::string_view value) {
    name(key);
    detail::append_json_string(text_, value);
  }
  void member(std::string_view key, Timestamp time) {
    name(key).raw("\"");
    detail::append_time(text_, time);
    raw("\"");
  }
  void member(std::string_view key, std::uint64_t number) {
    name(key);
    detail::append_integer(text_, number);
  }
  void member(std::string_view key, bool value) { name(key).raw(value ? "true" : "false"); }
  void member(std::string_view key, const TelemetryNumber& number) {
    name(key);
    char digits[40];
    std::visit(
        [&](auto value) {
          raw({digits, static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, value).ptr - digits)});
        },
        number);
  }
  void element(std::string_view text) {
    separate();
    detail::append_json_string(text_, text);
  }
  /// Before what follows another element or member.
  void separate() {
    if (!text_.empty() && text_.back() != '{' && text_.back() != '[') raw(",");
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

void write(JsonWriter& json, const TelemetryInstance& instance, Timestamp now) {
  json.member("instance_id", instance.id.to_string());
  json.member("first_seen", instance.first_seen);
  json.member("last_seen", instance.last_seen);
  json.member("expect_next", instance.expect_next);
  json.member("late", instance.expect_next < now);
  json.member("updates", instance.updates);
  json.member("kept", instance.kept);
  json.member("bytes", instance.bytes);
}

http::Response ok(JsonWriter& json) { return {.status = 200, .body = json.take()}; }

http::Response unreadable(const Error& error, Logger& logger) {
  logger.log(Logger::Level::warning, error.message);
  http::Response response = http::error_response(503, "the telemetry database cannot be read now. Try again later");
  response.headers.emplace_back("Retry-After", "60");
  return response;
}

}  // namespace

struct TelemetryServer::Impl final : http::Handler {
  TelemetryStore& store;
  TelemetryPolicyFile* policy;
  TelemetryServerOptions options;
  Logger& logger;
  std::string address;
  std::optional<http::HttpServer> server;  // once the address is known to be one

  Impl(std::string where, TelemetryStore& keeps, TelemetryPolicyFile* steers, TelemetryServerOptions given)
      : store(keeps),
        policy(steers),
        options(std::move(given)),
        logger(options.logger != nullptr ? *options.logger : stderr_logger()),
        address(std::move(where)) {}

  Timestamp now() const noexcept {
    if (options.clock != nullptr) return options.clock->now();
    return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
  }

  /// What stands between two slashes: "v1", "instances", "<id>", "series".
  static std::vector<std::string_view> parts_of(std::string_view path) {
    std::vector<std::string_view> parts;
    while (path.starts_with('/')) {
      path.remove_prefix(1);
      parts.push_back(path.substr(0, path.find('/')));
      path.remove_prefix(parts.back().size());
    }
    return parts;
  }

  std::optional<http::Response> begin(const http::Request& request) override {
    if (request.path.size() > max_path) return http::error_response(414, "the path is too long");
    const std::vector<std::string_view> parts = parts_of(request.path);
    const bool update = parts.size() == 3 && parts[0] == "v1" && parts[1] == "update";
    const bool about =
        parts.size() >= 2 && parts.size() <= 4 && parts[0] == "v1" && parts[1] == "instances" && (parts.size() < 4 || parts[3] == "series");
    const bool listing = request.path == "/v1/processes" && options.processes;
    const bool home = request.path == "/";
    if (!update && !about && !listing && !home) return http::error_response(404, "there is nothing here; GET / says what there is");
    if (request.method != (update ? "POST" : "GET")) {
      http::Response response = http::error_response(405, update ? "an update is sent with POST" : "this is read with GET");
      response.headers.emplace_back("Allow", update ? "POST" : "GET");
      return response;
    }
    if (home) return list_of_contents();
    if (listing) return processes();
    if (about && parts.size() == 2) return instances(request);
    const InstanceId id = InstanceId::parse(parts[2]);
    if (!id.valid()) return http::error_response(400, "the instance id in the path is no UUID");
    if (update) {
      if (request.content_type != "application/json") return http::error_response(415, "an update is application/json");
      return std::nullopt;
    }
    return parts.size() == 3 ? instance(id) : series(id, request);
  }

  http::Response finish(const http::Request& request) override {
    const InstanceId id = InstanceId::parse(parts_of(request.path)[2]);
    const weir::Response wish = policy != nullptr ? policy->response(id) : TelemetryPolicy().response(id);
    TelemetryAnswer answer = store.receive(id, request.body, wish, now());
    http::Response response{.status = answer.status, .body = std::move(answer.body)};
    if (answer.retry_after.count() > 0) response.headers.emplace_back("Retry-After", std::to_string(answer.retry_after.count()));
    return response;
  }

  http::Response list_of_contents() const {
    std::string body =
        R"({"weir":"telemetry","endpoints":["POST /v1/update/{id}","GET /v1/instances?limit=&offset=","GET /v1/instances/{id}",)"
        R"("GET /v1/instances/{id}/series?key=&since=&limit=")";
    if (options.processes) body += R"(,"GET /v1/processes")";
    return {.status = 200, .body = body + "]}"};
  }

  http::Response processes() const {
    Result<std::string> answer = options.processes();
    if (!answer) return http::error_response(503, answer.error().message);
    return {.status = 200, .body = std::move(*answer)};
  }

  /// A parameter that is a whole number up to `most`; nothing if it is something else.
  static std::optional<std::size_t> number_of(const http::Request& request, const char* name, std::size_t otherwise, std::size_t least,
                                              std::size_t most) {
    const std::string* const text = request.parameter(name);
    if (text == nullptr) return otherwise;
    std::size_t number = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
    if (text->empty() || error != std::errc{} || end != text->data() + text->size() || number < least || number > most) return std::nullopt;
    return number;
  }
  static std::optional<std::size_t> limit_of(const http::Request& request) {
    return number_of(request, "limit", default_limit, 1, max_limit);
  }
  static http::Response wrong_limit() {
    return http::error_response(400, "limit should be a number from 1 to " + std::to_string(max_limit));
  }

  http::Response instances(const http::Request& request) const {
    const auto limit = limit_of(request);
    if (!limit) return wrong_limit();
    const auto offset = number_of(request, "offset", 0, 0, 1u << 30);
    if (!offset) return http::error_response(400, "offset should be a number from 0 on");
    const auto all = store.instances(*limit + 1, *offset);
    if (!all) return unreadable(all.error(), logger);
    const Timestamp time = now();
    JsonWriter json;
    json.raw("{").name("instances").raw("[");
    for (std::size_t i = 0; i < std::min(*limit, all->size()); ++i) {
      json.separate();
      json.raw("{");
      write(json, (*all)[i], time);
      json.raw("}");
    }
    json.raw("]").member("more", all->size() > *limit);
    json.raw("}");
    return ok(json);
  }

  static http::Response unknown_instance() { return http::error_response(404, "no instance with this id is known"); }

  http::Response instance(const InstanceId& id) const {
    const auto found = store.instance(id);
    if (!found) return unreadable(found.error(), logger);
    if (!*found) return unknown_instance();
    const auto keys = store.keys(id, default_limit + 1);
    if (!keys) return unreadable(keys.error(), logger);
    const auto last = store.last_update(id);
    if (!last) return unreadable(last.error(), logger);
    JsonWriter json;
    json.raw("{");
    write(json, **found, now());
    json.name("keys").raw("[");
    for (std::size_t i = 0; i < std::min(default_limit, keys->size()); ++i) json.element((*keys)[i]);
    json.raw("]").member("more_keys", keys->size() > default_limit);
    json.name("last_update").raw(last->empty() ? "null" : *last).raw("}");
    return ok(json);
  }

  http::Response series(const InstanceId& id, const http::Request& request) const {
    const std::string* const key = request.parameter("key");
    if (key == nullptr || key->empty()) return http::error_response(400, "key is missing; GET /v1/instances/{id} says which there are");
    const auto limit = limit_of(request);
    if (!limit) return wrong_limit();
    std::optional<Timestamp> since;
    if (const std::string* const text = request.parameter("since")) {
      const auto time = parse_time(*text);
      if (!time) return http::error_response(400, "since should be a time, as 2026-01-02T15:04:05Z");
      since = *time;
    }
    const auto found = store.instance(id);
    if (!found) return unreadable(found.error(), logger);
    if (!*found) return unknown_instance();
    const auto series = store.series(id, *key, since, *limit);
    if (!series) return unreadable(series.error(), logger);
    JsonWriter json;
    json.raw("{").member("instance_id", id.to_string());
    json.member("key", *key);
    json.name("points").raw("[");
    for (const TelemetryPoint& point : series->points) {
      json.separate();
      json.raw("{").member("time", point.time);
      json.member("value", point.number);
      json.raw("}");
    }
    json.raw("]").member("more", series->more);
    json.raw("}");
    return ok(json);
  }
};

TelemetryServer::TelemetryServer(std::string address, TelemetryStore& store, TelemetryPolicyFile* policy, TelemetryServerOptions options)
    : impl_(std::make_unique<Impl>(std::move(address), store, policy, std::move(options))) {}

TelemetryServer::~TelemetryServer() = default;

Result<void> TelemetryServer::check_address(const std::string& address) {
  if (auto parsed = http::Address::parse(address); !parsed) return parsed.error();
  return {};
}

Result<void> TelemetryServer::listen() {
  Impl& impl = *impl_;
  if (impl.server)
    return Error{std::make_error_code(std::errc::invalid_argument), "cannot listen on " + address() + ": it was tried already"};
  auto address = http::Address::parse(impl.address);
  if (!address) return address.error();
  http::ServerOptions options;
  options.limits.body = impl.options.max_body;
  options.max_connections = impl.options.max_connections;
  options.max_buffered = impl.options.max_buffered;
  options.threads = impl.options.threads;
  options.request_time = impl.options.request_time;
  options.answer_time = impl.options.answer_time;
  options.logger = &impl.logger;
  impl.server.emplace(std::move(*address), impl, options);
  return impl.server->listen();
}

Result<void> TelemetryServer::serve(const StopToken& stop) {
  if (!impl_->server)
    return Error{std::make_error_code(std::errc::invalid_argument), "cannot serve " + address() + ": call listen() first"};
  return impl_->server->serve(stop);
}

std::string TelemetryServer::address() const { return impl_->server ? impl_->server->address().to_string() : impl_->address; }

TelemetryServerStats TelemetryServer::stats() const {
  TelemetryServerStats stats{.store = impl_->store.stats()};
  if (!impl_->server) return stats;
  const http::ServerStats http = impl_->server->stats();
  stats.connections = http.connections;
  stats.requests = http.requests;
  stats.refused_hosts = http.refused_hosts;
  stats.refused_requests = http.refused_requests;
  stats.timed_out = http.timed_out;
  stats.dropped = http.dropped;
  stats.listener_pauses = http.listener_pauses;
  stats.open_connections = http.open_connections;
  return stats;
}

std::string TelemetryServerStats::to_json() const {
  JsonWriter json;
  json.raw("{");
  json.member("connections", connections);
  json.member("requests", requests);
  json.member("refused_hosts", refused_hosts);
  json.member("refused_requests", refused_requests);
  json.member("timed_out", timed_out);
  json.member("dropped", dropped);
  json.member("listener_pauses", listener_pauses);
  json.member("open_connections", std::uint64_t{open_connections});
  std::string text = store.to_json();
  text.pop_back();
  return text + ",\"http\":" + json.take() + "}}";
}

}  // namespace weir::inline v0
