#include "weir/activity/redaction.hpp"

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "activity/sha256.hpp"
#include "support/catch.hpp"

using namespace std::string_literals;
using weir::Redactor;
using weir::RedactorOptions;

namespace {

const Redactor redactor;

std::string text(std::string_view from) { return redactor.redact_text(from); }
std::string json(std::string_view from) {
  const weir::Result<std::string> result = redactor.redact_json(from);
  return result ? *result : "error: " + result.error().message;
}

std::string nested(std::size_t depth, const std::string& inner) { return std::string(depth, '[') + inner + std::string(depth, ']'); }

}  // namespace

TEST_CASE("names that say secret are sensitive, in any case and with '-', ' ' or nothing between their words") {
  for (const char* name : {"password",
                           "passwd",
                           "passphrase",
                           "pass_phrase",
                           "secret",
                           "credential",
                           "authorization",
                           "private_key",
                           "api_key",
                           "access_key",
                           "signing_key",
                           "session_id",
                           "jwt",
                           "bearer",
                           "token",
                           "PASSWORD",
                           "Authorization",
                           "X-Api-Key",
                           "api key",
                           "apikey",
                           "apiKey",
                           "APIKEY",
                           "accesskey",
                           "AccessKeyId",
                           "privatekey",
                           "PrivateKey",
                           "signingkey",
                           "signing-key",
                           "sessionid",
                           "sessionId",
                           "Session ID",
                           "JSESSIONID",
                           "db_pwd",
                           "user-pwd",
                           "userPwd",
                           "dbpwd",
                           "userpassword2",
                           "my.secret.value",
                           "client_secret",
                           "credentials",
                           "access_token",
                           "refreshToken",
                           "tokens",
                           "token_id",
                           "csrf-token",
                           "bearer_value",
                           "id_jwt",
                           "Proxy-Authorization",
                           "AWS_SECRET_ACCESS_KEY",
                           "x-auth-token",
                           "ppassword",
                           "toktoken",
                           "session_session_id"}) {
    CAPTURE(name);
    CHECK(redactor.is_sensitive(name));
  }
}

TEST_CASE("other names are not sensitive") {
  for (const char* name : {"",
                           "user",
                           "user_id",
                           "pass",
                           "passed",
                           "key",
                           "public_key",
                           "session",
                           "keyboard",
                           "pwd",
                           "PWD",
                           "oldpwd",
                           "cwd",
                           "to_ken",
                           "api__key",
                           "primary_key",
                           "author",
                           "tok",
                           "passwor",
                           "_",
                           "api.key",
                           "gr\xc3\xb6\xc3\x9f"
                           "e",
                           "\xff\xfe"}) {
    CAPTURE(name);
    CHECK_FALSE(redactor.is_sensitive(name));
  }
}

TEST_CASE("what counts tokens is no secret, unless something else in the name is") {
  for (const char* name :
       {"max_tokens", "token_count", "prompt_tokens", "total_tokens", "completion_tokens", "input-tokens", "Output Tokens", "maxTokens",
        "totalTokens", "maxOutputTokens", "tokenCount", "gen_ai.usage.input_tokens", "prompt_tokens_details", "max_completion_tokens",
        "tokens_per_second", "token_limit", "cache_read_input_tokens"}) {
    CAPTURE(name);
    CHECK_FALSE(redactor.is_sensitive(name));
  }
  for (const char* name : {"access_token_max_tokens", "max_tokens_token", "token_country", "mytoken_count", "max_tokens_secret",
                           "secret_token_count", "max_tokensx", "api_key_token_count", "total_token"}) {
    CAPTURE(name);
    CHECK(redactor.is_sensitive(name));
  }
}

TEST_CASE("the lists can be replaced and extended") {
  RedactorOptions extended;
  extended.sensitive_names.push_back("Credit Card");
  extended.sensitive_names.push_back("");
  extended.accounting_names.push_back("token-ring");
  const Redactor more(extended);
  CHECK(more.is_sensitive("credit_card_number"));
  CHECK(more.is_sensitive("creditCard"));
  CHECK(more.is_sensitive("password"));
  CHECK_FALSE(more.is_sensitive("token_ring"));
  CHECK_FALSE(more.is_sensitive("credit"));

  RedactorOptions replaced;
  replaced.sensitive_names = {"she", "hers", "his", "e"};
  replaced.accounting_names = {"the"};
  const Redactor other(replaced);
  CHECK(other.is_sensitive("xhisx"));
  CHECK(other.is_sensitive("ushers"));
  CHECK(other.is_sensitive("me"));
  CHECK_FALSE(other.is_sensitive("the"));
  CHECK(other.is_sensitive("the_me"));
  CHECK_FALSE(other.is_sensitive("password"));
  CHECK(other.redact_text("password=1 me=2") == "password=1 me=[REDACTED]");

  replaced.sensitive_names.clear();
  CHECK_FALSE(Redactor(replaced).is_sensitive("password"));
}

TEST_CASE("a random name is sensitive when a plain search says so") {
  std::mt19937 random(1);
  RedactorOptions options;
  options.sensitive_names = {"ab", "bab", "aab_a", "bbb", "abbaab"};
  options.accounting_names.clear();
  const Redactor small(options);
  for (int i = 0; i < 20'000; ++i) {
    std::string name;
    for (std::size_t size = random() % 9; size > 0; --size) name += "ab_c"[random() % 4];
    bool expected = false;
    for (const char* entry : {"ab", "bab", "aab_a", "aaba", "bbb", "abbaab"}) expected |= name.find(entry) != name.npos;
    CAPTURE(name);
    REQUIRE(small.is_sensitive(name) == expected);
  }
}

TEST_CASE("a secret in text is replaced and what is around it stays") {
  const std::pair<const char*, const char*> cases[] = {
      // Bearer
      {"got Bearer abc.def-_~+/==, retry", "got Bearer [REDACTED], retry"},
      {"bearer  x1", "bearer  [REDACTED]"},
      {"header 'Authorization: Bearer abc123' refused", "header 'Authorization: [REDACTED]' refused"},
      // JWTs
      {"bad eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln.", "bad [REDACTED]."},
      {"(eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.)", "([REDACTED])"},
      {"eyJh.a.b.c.d end", "[REDACTED] end"},
      {"eyJa.eyJb.c", "[REDACTED]"},
      // private keys
      {"x -----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY----- y",
       "x -----BEGIN RSA PRIVATE KEY-----[REDACTED]-----END RSA PRIVATE KEY----- y"},
      {"-----BEGIN PRIVATE KEY-----\\nMIIE", "-----BEGIN PRIVATE KEY-----[REDACTED]"},
      {"-----BEGIN PGP PRIVATE KEY BLOCK-----\nx", "-----BEGIN PGP PRIVATE KEY BLOCK-----[REDACTED]"},
      // keys and values
      {"password=hunter2", "password=[REDACTED]"},
      {"a=1 DB_PASSWORD=hunter2 b=2", "a=1 DB_PASSWORD=[REDACTED] b=2"},
      {"user=bob;password=a,b;host=h", "user=bob;password=[REDACTED];host=h"},
      {"https://h/p?token=abc&x=1", "https://h/p?token=[REDACTED]&x=1"},
      {"token = abc", "token = [REDACTED]"},
      {"password: hunter2, retry", "password: [REDACTED], retry"},
      {"API key: abc", "API key: [REDACTED]"},
      {"the private key: abc", "the private key: [REDACTED]"},
      {"password => abc", "password => [REDACTED]"},
      {"{\"password\": \"hun\\\"ter2\", \"a\": 1}", "{\"password\": \"[REDACTED]\", \"a\": 1}"},
      {"{'password' : 'hunter2'}", "{'password' : '[REDACTED]'}"},
      {"{\"api key\":\"x y\"}", "{\"api key\":\"[REDACTED]\"}"},
      {"{\"pin\":1,\"token\":12}", "{\"pin\":1,\"token\":[REDACTED]}"},
      {"\"{\\\"secret\\\":\\\"a\\\\\\\"b\\\",\\\"c\\\":1}\"", "\"{\\\"secret\\\":\\\"[REDACTED]\\\",\\\"c\\\":1}\""},
      {"\"secret\": {\"a\": [\"}\", 1]}, \"b\": 2", "\"secret\": [REDACTED], \"b\": 2"},
      {"\"secret\":\n  \"abc\"", "\"secret\":\n  \"[REDACTED]\""},
      {"password=\"never closed and more", "password=\"[REDACTED]"},
      {"secret={never closed, and more", "secret=[REDACTED]"},
      {"password=[x]y z", "password=[REDACTED] z"},
      {"Authorization: Basic dXNlcjpwYXNz next", "Authorization: [REDACTED] next"},
      {"Authorization: Digest username=\"u\", response=\"r\"\nHost: h", "Authorization: [REDACTED]\nHost: h"},
      {"curl -H \"X-Auth-Token: abc\" u", "curl -H \"X-Auth-Token: [REDACTED]\" u"},
      // URLs
      {"redis://:hunter2@host:1/0", "redis://:[REDACTED]@host:1/0"},
      {"postgres://bob:p@ss:w@host/db failed", "postgres://bob:[REDACTED]@host/db failed"},
      {"https://token:x@host/", "https://token:[REDACTED]@host/"},
      {"https://eyJa.b.c:x@host/", "https://[REDACTED]:[REDACTED]@host/"},
      // several
      {"password=a password=b Bearer c", "password=[REDACTED] password=[REDACTED] Bearer [REDACTED]"},
  };
  for (const auto& [from, to] : cases) {
    CAPTURE(from);
    CHECK(text(from) == to);
    CHECK(text(to) == to);
    std::string out = "before";
    CHECK(redactor.redact_text(from, out));
    CHECK(out == to);
  }
}

TEST_CASE("text without a secret is left alone") {
  for (const char* from : {"",
                           "plain",
                           "the bearer token is missing",
                           "bearer",
                           "forbearer abc",
                           "eyJ",
                           "eyJhbGciOiJIUzI1NiJ9",
                           "eyJa.b",
                           "xeyJa.b.c",
                           "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
                           "-----BEGIN ",
                           "-----BEGIN PRIVATE KEY-----",
                           "max tokens: 5",
                           "max_tokens=5, token_count=7",
                           "\"total_tokens\": 12",
                           "user: bob",
                           "http://host:80/a@b",
                           "http://user@host/",
                           "12:30:11 a=b",
                           "password",
                           "password=",
                           "password:",
                           "password: \nnext",
                           "token user: bob",
                           "password=\"\"",
                           "password=[REDACTED]",
                           "= : :// \"\":",
                           "\xff\xfe\x80:="}) {
    CAPTURE(from);
    std::string out = "before";
    CHECK_FALSE(redactor.redact_text(from, out));
    CHECK(out == "before");
    CHECK(text(from) == from);
  }
}

TEST_CASE("hostile text takes time in proportion to its size") {  // else this does not end
  for (const char* part : {":",
                           "=",
                           "\":",
                           "' :",
                           "eyJ",
                           "eyJa.",
                           "eyJa.b",
                           "-----BEGIN ",
                           "-----BEGIN PRIVATE KEY",
                           "bearer ",
                           "a://",
                           "://a@",
                           "a b:",
                           "\\\":",
                           "password=",
                           "password=,",
                           "password=\"",
                           "password=[",
                           "password: basic ",
                           "token count: ",
                           "x@",
                           "\"\\",
                           "    :",
                           "tokentoken"}) {
    CAPTURE(part);
    std::string from;
    while (from.size() < 1u << 20) from += part;
    const std::string once = text(from);
    CHECK(once.size() <= 8 * from.size());
    redactor.is_sensitive(from);
  }
}

TEST_CASE("redacting random text again changes nothing") {
  std::mt19937 random(2);
  const char* const parts[] = {
      "password",  "token",      "max",      "api",      "key", "=", ":", ": ", " ", ",",   ";",  "&",
      "\"",        "'",          "\\",       "[",        "]",   "{", "}", "(",  ")", "://", "@",  "/",
      "Bearer ",   "Basic ",     "Digest ",  "eyJa.b.c", "eyJ", ".", "a", "b1", "_", "-",   "\n", "-----BEGIN PRIVATE KEY-----",
      "-----END ", "[REDACTED]", "\xc3\xa9", "\x80",     ">"};
  for (int i = 0; i < 200'000; ++i) {
    std::string from;
    for (std::size_t size = random() % 12; size > 0; --size) from += parts[random() % std::size(parts)];
    const std::string once = text(from);
    CAPTURE(from, once);
    REQUIRE(text(once) == once);
  }
}

TEST_CASE("in JSON the keys stay, and what is behind a sensitive one becomes the mark") {
  CHECK(json(R"( { "b" : 1 , "password" : "x" , "a" : [ true , false , null ] } )") ==
        R"({"b":1,"password":"[REDACTED]","a":[true,false,null]})");
  CHECK(json(R"({"secret":{"a":[1,{"b":2}]},"c":3})") == R"({"secret":"[REDACTED]","c":3})");
  CHECK(json(R"({"tokens":[1,[2],{}],"c":[]})") == R"({"tokens":"[REDACTED]","c":[]})");
  CHECK(json(R"({"token":1,"jwt":null,"secret":true,"bearer":1.5,"max_tokens":7})") ==
        R"({"token":"[REDACTED]","jwt":"[REDACTED]","secret":"[REDACTED]","bearer":"[REDACTED]","max_tokens":7})");
  CHECK(json(R"([{"password":"x"},[{"api key":"y"},"z"]])") == R"([{"password":"[REDACTED]"},[{"api key":"[REDACTED]"},"z"]])");
  CHECK(json(R"({"pass\u0077ord":"x"})") == R"({"password":"[REDACTED]"})");
  CHECK(json(R"({"a":1,"a":2,"token":"x","token":"y"})") == R"({"a":1,"a":2,"token":"[REDACTED]","token":"[REDACTED]"})");
  CHECK(json(R"({"error":"password=abc refused","u":"a://b:c@d"})") ==
        R"({"error":"password=[REDACTED] refused","u":"a://b:[REDACTED]@d"})");
  CHECK(json(R"("Bearer abc")") == R"("Bearer [REDACTED]")");
  CHECK(json(R"({"body":"{\"password\":\"abc\"}"})") == R"({"body":"{\"password\":\"[REDACTED]\"}"})");
  CHECK(json("{}") == "{}");
  CHECK(json("[]") == "[]");
}

TEST_CASE("numbers and strings of JSON are as they were") {
  for (const char* same : {"0", "-0", "-1", "18446744073709551615", "-9223372036854775808", "123456789012345678901234567890", "1.10", "1E5",
                           "-2.50e-007", "0.1000000000000000055511151231257827", R"("\"\\/ \n\r\t\u0001\u001f")",
                           "\"gr\xc3\xb6\xc3\x9f"
                           "e\"",
                           R"({"\"\n":1})"}) {
    CHECK(json(same) == same);
  }
  CHECK(json(R"("\u00e9\ud83d\ude00\/\b")") == "\"\xc3\xa9\xf0\x9f\x98\x80/\\u0008\"");
}

TEST_CASE("bytes that are not UTF-8 become U+FFFD") {
  CHECK(json("{\"a\":\"x\xff\x80y\xc3\",\"password\":\"\xff\"}") ==
        "{\"a\":\"x\xef\xbf\xbd\xef\xbf\xbdy\xef\xbf\xbd\",\"password\":\"[REDACTED]\"}");
}

TEST_CASE("nesting beyond 64 containers is redacted whole") {
  CHECK(json(nested(64, "1")) == nested(64, "1"));
  CHECK(json(nested(65, "1")) == nested(64, "\"[REDACTED]\""));
  CHECK(json(nested(63, "{\"a\":{\"b\":1},\"c\":2}")) == nested(63, "{\"a\":\"[REDACTED]\",\"c\":2}"));
  CHECK(json(nested(64, "{},[[]],3")) == nested(64, "\"[REDACTED]\",\"[REDACTED]\",3"));
  CHECK(json(nested(1'000'000, "")) == nested(64, "\"[REDACTED]\""));
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  CHECK(json(objects + "1" + std::string(1'000'000, '}')).size() < 600);
  CHECK_FALSE(redactor.redact_json(objects));
}

TEST_CASE("what is not JSON is an error that says where and repeats nothing of it") {
  const std::pair<std::string, const char*> cases[] = {{"", "1"},
                                                       {"{", "2"},
                                                       {"{\"a\":hunter2}", "6"},
                                                       {"{\"a\" 1}", "6"},
                                                       {"[1,]", "4"},
                                                       {"[1] hunter2", "5"},
                                                       {"'hunter2'", "1"},
                                                       {"\"hunter2", "9"},
                                                       {"{\"password\":\"hunter2", "21"},
                                                       {"01", "2"},
                                                       {"NaN", "1"},
                                                       {"[1}", "3"},
                                                       {"\"a\nb\"", "3"},
                                                       {"{\"a\":1}\0hunter2"s, "8"},
                                                       {"[1]//hunter2", "4"}};
  for (const auto& [from, position] : cases) {
    CAPTURE(from);
    const weir::Result<std::string> result = redactor.redact_json(from);
    REQUIRE_FALSE(result);
    CHECK(result.error().code == std::errc::bad_message);
    CHECK(result.error().message == "not JSON: unexpected text or end at byte "s + position);
    CHECK_FALSE(redactor.truncate_json(from));
  }
}

namespace {

/// A random document in which every sensitive key and every pattern holds `secret`.
std::string random_document(std::mt19937& random, const std::string& secret, int depth) {
  const char* const patterns[] = {"Bearer ", "password=", "a, api key: ", "\\\"token\\\":\\\"", "x://u:", "secret={"};
  const char* const keys[] = {"password", "Api-Key", "se\\u0063ret", "x_token", "pwd_jwt"};
  const char* const scalars[] = {"1", "-2.5e3", "true", "null", "\"text\"", "\"\\u00e9\\n\"", "12345678901234567890123"};
  const unsigned choice = random() % 10;
  if (depth == 0 || choice < 3) {
    if (random() % 2 == 0) return scalars[random() % std::size(scalars)];
    const std::string pattern = patterns[random() % std::size(patterns)];
    return "\"" + pattern + secret +
           (pattern.find("://") != pattern.npos ? "@host"
            : pattern.find('{') != pattern.npos ? "}"
                                                : " end") +
           "\"";
  }
  std::string out(1, choice < 6 ? '[' : '{');
  for (unsigned i = random() % 4; i > 0; --i) {
    if (out.size() > 1) out += ',';
    if (choice < 6) {
      out += random_document(random, secret, depth - 1);
    } else if (random() % 2 == 0) {
      out += "\""s + keys[random() % std::size(keys)] + "\":";
      out += random() % 2 == 0 ? "\"" + secret + "\"" : "[\"" + secret + "\"," + random_document(random, secret, depth - 1) + "]";
    } else {
      out += "\"k" + std::to_string(random() % 3) + "\" : " + random_document(random, secret, depth - 1);
    }
  }
  return out + (choice < 6 ? "]" : "}");
}

}  // namespace

TEST_CASE("no planted secret gets through, the result parses, and a second time changes nothing") {
  std::mt19937 random(3);
  const std::string secret = "hUnTeR2";
  int planted = 0;
  for (int i = 0; i < 5'000; ++i) {
    const std::string from = random_document(random, secret, 6);
    planted += from.find(secret) != from.npos;
    CAPTURE(from);
    const weir::Result<std::string> once = redactor.redact_json(from);
    REQUIRE(once);
    REQUIRE(once->find(secret) == once->npos);
    REQUIRE(nlohmann::json::accept(*once));
    REQUIRE(json(*once) == *once);
  }
  CHECK(planted > 1'000);
}

TEST_CASE("JSON above 32 KiB becomes a summary, after redaction") {
  const auto list = [](std::size_t size) { return "[\"" + std::string(size - 4, 'x') + "\"]"; };
  CHECK(*redactor.truncate_json(list(Redactor::max_json_bytes)) == list(Redactor::max_json_bytes));

  const std::string over = list(Redactor::max_json_bytes + 1);
  CHECK(*redactor.truncate_json(over) == "{\"truncated\":true,\"original_size\":32769,\"sha256\":\"" + weir::detail::sha256_hex(over) +
                                             "\",\"preview\":\"[\\\"" + std::string(4094, 'x') + "\"}");

  SECTION("what is redacted does not count, nor show") {
    CHECK(*redactor.truncate_json("{\"password\":" + over + "}") == "{\"password\":\"[REDACTED]\"}");
    const std::string from = "{\"password\":\"hunter2\",\"a\":" + over + "}";
    const nlohmann::json summary = nlohmann::json::parse(*redactor.truncate_json(from));
    CHECK(summary["preview"].get<std::string>().starts_with("{\"password\":\"[REDACTED]\",\"a\":[\"xx"));
    CHECK(summary["sha256"] == weir::detail::sha256_hex(json(from)));
    CHECK(summary["original_size"] == json(from).size());
  }
  SECTION("the preview ends between two characters") {
    const std::pair<const char*, std::size_t> characters[] = {{"\xc3\xa9", 2}, {"\xe2\x82\xac", 3}, {"\xf0\x9f\x98\x80", 4}};
    for (const auto& [character, size] : characters) {
      for (std::size_t before = 0; before < 4; ++before) {
        std::string from = "[\"" + std::string(before, 'x');
        while (from.size() <= Redactor::max_json_bytes) from += character;
        const weir::Result<std::string> result = redactor.truncate_json(from + "\"]");
        const std::string preview = nlohmann::json::parse(*result)["preview"];
        CHECK(preview == from.substr(0, preview.size()));
        CHECK(preview.size() <= Redactor::max_preview_bytes);
        CHECK(preview.size() > Redactor::max_preview_bytes - size);
        CHECK((preview.size() - 2 - before) % size == 0);
      }
    }
  }
}

TEST_CASE("copies share the lists, and threads share one redactor") {
  static_assert(std::is_nothrow_copy_constructible_v<Redactor>);
  const Redactor copy = redactor;
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int& count : wrong) {
    threads.emplace_back([&count, &copy] {
      for (int i = 0; i < 2'000; ++i) {
        count += !copy.is_sensitive("password") + copy.is_sensitive("user");
        count += copy.redact_text("token=abc") != "token=[REDACTED]";
        count += *copy.redact_json("{\"token\":1}") != "{\"token\":\"[REDACTED]\"}";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}
