#include "http/engine.hpp"

#include <algorithm>
#include <array>

#include "text/json.hpp"

namespace weir::inline v0::http {

namespace {

constexpr std::array<std::pair<int, std::string_view>, 15> reasons{{{200, "OK"},
                                                                    {400, "Bad Request"},
                                                                    {403, "Forbidden"},
                                                                    {404, "Not Found"},
                                                                    {405, "Method Not Allowed"},
                                                                    {408, "Request Timeout"},
                                                                    {411, "Length Required"},
                                                                    {413, "Payload Too Large"},
                                                                    {414, "URI Too Long"},
                                                                    {415, "Unsupported Media Type"},
                                                                    {431, "Request Header Fields Too Large"},
                                                                    {500, "Internal Server Error"},
                                                                    {501, "Not Implemented"},
                                                                    {503, "Service Unavailable"},
                                                                    {505, "HTTP Version Not Supported"}}};

}  // namespace

Response error_response(int status, std::string_view message) {
  Response response{.status = status, .body = "{\"error\":"};
  detail::append_json_string(response.body, message);
  response.body += "}";
  return response;
}

std::string rendered(const Response& response) {
  const auto reason = std::find_if(reasons.begin(), reasons.end(), [&](const auto& entry) { return entry.first == response.status; });
  std::string text = "HTTP/1.1 " + std::to_string(response.status) + " ";
  text.append(reason != reasons.end() ? reason->second : "Error").append("\r\n");
  for (const auto& [name, value] : fixed_headers) text.append(name).append(": ").append(value).append("\r\n");
  for (const auto& [name, value] : response.headers) text.append(name).append(": ").append(value).append("\r\n");
  text += "Content-Type: application/json\r\nConnection: close\r\nContent-Length: " + std::to_string(response.body.size()) + "\r\n\r\n";
  return text + response.body;
}

}  // namespace weir::inline v0::http
