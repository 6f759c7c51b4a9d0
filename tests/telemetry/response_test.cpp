#include "weir/telemetry/payload.hpp"

#include <string>

#include "support/catch.hpp"
#include "weir/telemetry/transport.hpp"

using namespace weir;
using namespace std::chrono_literals;

namespace {

std::string refusal(std::string_view text) {
  const Result<Response> response = Response::from_json(text);
  return response ? "it was accepted" : response.error().message;
}

std::string keys(std::size_t number) {
  std::string list = "[";
  for (std::size_t i = 0; i < number; ++i) list += i == 0 ? "\"\"" : ",\"\"";
  return list + "]";
}

}  // namespace

TEST_CASE("a response is read with all that it says") {
  const Result<Response> response =
      Response::from_json(R"({"next_update":3600000000000,"stop":true,"error":"é","disable_keys":["a","b:c"],"enable_keys":["d"],"x":{}})");
  REQUIRE(response);
  CHECK(response->next_update == 1h);
  CHECK(response->stop);
  CHECK(response->error == "é");
  CHECK(response->disable_keys == std::vector<std::string>{"a", "b:c"});
  CHECK(response->enable_keys == std::vector<std::string>{"d"});
}

TEST_CASE("a response that says nothing wishes nothing") {
  for (const char* text : {"{}", " { } ", R"({"next_update":null,"stop":null,"error":null,"disable_keys":null,"enable_keys":null})"}) {
    const Result<Response> response = Response::from_json(text);
    REQUIRE(response);
    CHECK(response->next_update == 0ns);
    CHECK_FALSE(response->stop);
    CHECK(response->error.empty());
    CHECK(response->disable_keys.empty());
    CHECK(response->enable_keys.empty());
  }
}

TEST_CASE("a number that no duration can be is no wish") {
  const auto read = [](const std::string& number) { return Response::from_json("{\"next_update\":" + number + "}").value().next_update; };
  CHECK(read("9223372036854775807") == std::chrono::nanoseconds::max());
  CHECK(read("-9223372036854775808") == std::chrono::nanoseconds::min());
  CHECK(read("9223372036854775808") == 0ns);
  CHECK(read("18446744073709551616") == 0ns);
  CHECK(read("-9223372036854775809") == 0ns);
  CHECK(read("3.6e12") == 1h);
  CHECK(read("0.5") == 0ns);
  CHECK(read("1e300") == 0ns);
  CHECK(read("9.3e18") == 0ns);
}

TEST_CASE("what is no response is refused, by name") {
  for (const char* text : {"", "{", "{}x", "nul", "{\"a\":}", "{\"error\":\"\xff\"}", "{'a':1}", "{\"next_update\":1e999}"}) {
    CAPTURE(text);
    CHECK(refusal(text) == "the response is no JSON");
  }
  for (const char* text : {"[]", "null", "1", "\"{}\"", "true"}) {
    CAPTURE(text);
    CHECK(refusal(text) == "the response is no JSON object");
  }
  CHECK(refusal(R"({"next_update":"1h"})") == "the response has a member \"next_update\" that is no number");
  CHECK(refusal(R"({"next_update":true})") == "the response has a member \"next_update\" that is no number");
  CHECK(refusal(R"({"stop":1})") == "the response has a member \"stop\" that is no boolean");
  CHECK(refusal(R"({"stop":"true"})") == "the response has a member \"stop\" that is no boolean");
  CHECK(refusal(R"({"error":{}})") == "the response has a member \"error\" that is no string");
  CHECK(refusal(R"({"disable_keys":"a"})") == "the response has a member \"disable_keys\" that is no list");
  CHECK(refusal(R"({"disable_keys":{"a":1}})") == "the response has a member \"disable_keys\" that is no list");
  CHECK(refusal(R"({"disable_keys":["a",null]})") == "the response has a member \"disable_keys\" that is no list of strings");
  CHECK(refusal(R"({"enable_keys":["a",["b"]]})") == "the response has a member \"enable_keys\" that is no list of strings");
}

TEST_CASE("a response is bounded in bytes, keys and depth") {
  const std::string error(max_answer_bytes - std::string(R"({"error":""})").size(), 'x');
  CHECK(Response::from_json("{\"error\":\"" + error + "\"}"));
  CHECK(refusal("{\"error\":\"x" + error + "\"}") == "the response has 65537 bytes, and at most 65536 are read");

  CHECK(Response::from_json("{\"disable_keys\":" + keys(10'000) + "}").value().disable_keys.size() == 10'000);
  CHECK(refusal("{\"disable_keys\":" + keys(10'001) + "}").find("more than 10000 keys") != std::string::npos);
  CHECK(Response::from_json("{\"disable_keys\":" + keys(6'000) + ",\"enable_keys\":" + keys(4'000) + "}"));
  CHECK(refusal("{\"disable_keys\":" + keys(6'000) + ",\"enable_keys\":" + keys(4'001) + "}").find("more than 10000 keys") !=
        std::string::npos);

  const auto nested = [](std::size_t depth) { return "{\"x\":" + std::string(depth, '[') + std::string(depth, ']') + "}"; };
  CHECK(Response::from_json(nested(15)));
  CHECK(refusal(nested(17)) == "the response is nested deeper than 16");
  CHECK(refusal(nested(30'000)) == "the response is nested deeper than 16");
  CHECK(refusal("{\"x\":" + std::string(60'000, '[')) == "the response is no JSON");
}

TEST_CASE("a response is what it was after it was written and read") {
  Response response;
  CHECK(response.to_json() == "{}");
  response.next_update = 90min;
  response.stop = true;
  response.error = "no \"room\"\n";
  response.disable_keys = {"a", "é"};
  response.enable_keys = {""};
  const Result<Response> again = Response::from_json(response.to_json());
  REQUIRE(again);
  CHECK(again->next_update == response.next_update);
  CHECK(again->stop);
  CHECK(again->error == response.error);
  CHECK(again->disable_keys == response.disable_keys);
  CHECK(again->enable_keys == response.enable_keys);
  response.error = "\xff";
  CHECK(Response::from_json(response.to_json()).value().error == "\xef\xbf\xbd");
}
