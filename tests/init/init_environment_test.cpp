// What the environment says to weir::init, in processes of their own (init_program.cpp).
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"
#include "weir/collect/collector.hpp"
#include "weir/trace/sampler.hpp"

using namespace weir;
using nlohmann::json;
using weir::testing::ScratchDir;

namespace {

using Variables = std::vector<std::pair<std::string, std::string>>;

struct Found {
  json what;
  std::string log;
};

/// Of all that init reads, only `variables` are set, empty ones too.
Found init_with(const Variables& variables, const std::vector<std::string>& arguments = {}) {
  std::vector<std::string> command{"/usr/bin/env"};
  for (const char* const name :
       {"WEIR_DISABLED", "WEIR_SOCKET", "WEIR_CONTROL", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"})
    command.insert(command.end(), {"-u", name});
  for (const auto& [name, value] : variables) command.push_back(name + "=" + value);
  command.push_back(WEIR_INIT_PROGRAM);
  command.insert(command.end(), arguments.begin(), arguments.end());
  testing::Process process(command);
  const int code = process.wait();
  INFO(process.err());
  REQUIRE(code == 0);
  return {json::parse(process.out()), process.err()};
}

}  // namespace

TEST_CASE("without a word from the environment, everything is wired") {
  const Found found = init_with({});
  CHECK(found.what == json{{"session", true},
                           {"service", ""},
                           {"attributes", json::object()},
                           {"telemetry", true},
                           {"root", true},
                           {"sampler", Sampler().to_string()},
                           {"threads", 0},
                           {"count", 10},
                           {"bytes", 100}});
  CHECK(found.log.empty());
}

TEST_CASE("when weir is disabled there is no thread, no socket, no root and no telemetry") {
  const ScratchDir dir;
  Collector collector(dir / "weir.sock");
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  const json nothing{{"session", false},   {"service", ""}, {"attributes", json::object()},
                     {"telemetry", false}, {"root", false}, {"sampler", Sampler().to_string()},
                     {"threads", 0}};
  const std::vector<std::pair<std::string, std::string>> words{{"WEIR_DISABLED", "1"},
                                                               {"WEIR_DISABLED", "true"},
                                                               {"WEIR_DISABLED", "TRUE"},
                                                               {"OTEL_SDK_DISABLED", "true"},
                                                               {"OTEL_SDK_DISABLED", "True"}};
  for (const auto& word : words) {
    CAPTURE(word.first, word.second);
    const Found found = init_with({word, {"WEIR_SOCKET", dir / "weir.sock"}, {"OTEL_RESOURCE_ATTRIBUTES", "?"}}, {"socket"});
    CHECK(found.what == nothing);
    CHECK(found.log.empty());  // not even of variables that make no sense
  }
  CHECK(init_with({{"WEIR_SOCKET", dir / "weir.sock"}}, {"socket"}).what.at("threads") >= 1);  // a sanitizer adds its own
  stop.request_stop();
  serving.join();
  CHECK(collector.stats().connections == 1);  // of the last
  CHECK(collector.stats().store.spans >= 1);
}

TEST_CASE("what does not disable weir leaves it on, and nonsense is told") {
  for (const char* const value : {"", "0", "false", "False"}) {
    const Found found = init_with({{"WEIR_DISABLED", value}, {"OTEL_SDK_DISABLED", value}});
    CAPTURE(value);
    CHECK(found.what.at("session") == true);
    CHECK(found.log.empty());
  }
  const Found found = init_with({{"WEIR_DISABLED", "maybe"}, {"OTEL_SDK_DISABLED", "yes"}});
  CHECK(found.what.at("session") == true);
  CHECK(found.log.find("weir: warning: WEIR_DISABLED=maybe is ignored: it takes true and false, 1 and 0\n") != std::string::npos);
  CHECK(found.log.find("weir: warning: OTEL_SDK_DISABLED=yes is ignored") != std::string::npos);
}

TEST_CASE("a WEIR_SOCKET that is no absolute path of a socket is told once, by its name, and the default is taken") {
  const ScratchDir dir;
  Collector collector(dir / "weir/weir.sock");
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread serving([&] { (void)collector.serve(stop.token()); });
  for (const std::string& wrong : {std::string("weir.sock"), "/" + std::string(107, 'x')}) {
    CAPTURE(wrong);
    const Found found = init_with({{"WEIR_SOCKET", wrong}, {"XDG_RUNTIME_DIR", dir.path()}}, {"socket"});
    CHECK(found.log == "weir: warning: WEIR_SOCKET=" + wrong + " is ignored: it takes an absolute path of at most 107 bytes\n");
  }
  stop.request_stop();
  serving.join();
  CHECK(collector.stats().connections == 2);
}

TEST_CASE("the service's name is the code's, else OTEL_SERVICE_NAME, else the resource attributes'") {
  const std::pair<std::string, std::string> name{"OTEL_SERVICE_NAME", "named"},
      attributes{"OTEL_RESOURCE_ATTRIBUTES", "service.name=resource,a=b"};
  CHECK(init_with({name}).what.at("service") == "named");
  CHECK(init_with({attributes}).what.at("service") == "resource");
  CHECK(init_with({name, attributes}).what.at("service") == "named");
  CHECK(init_with({{"OTEL_SERVICE_NAME", ""}, attributes}).what.at("service") == "resource");
  CHECK(init_with({name, attributes}, {"code"}).what.at("service") == "code");
  CHECK(init_with({name, attributes}).what.at("attributes") == json{{"a", "b"}});  // the name is not among them
}

TEST_CASE("resource attributes are decoded, and those of the code count more") {
  const auto attributes = [](const std::string& text, const std::vector<std::string>& arguments = {}) {
    return init_with({{"OTEL_RESOURCE_ATTRIBUTES", text}}, arguments).what.at("attributes");
  };
  CHECK(attributes(" a = 1 ,\tb=x%20y%2Cz%3D%25,, c=,d%2De=f=g,") == json{{"a", "1"}, {"b", "x y,z=%"}, {"c", ""}, {"d-e", "f=g"}});
  CHECK(attributes("a=1,a=2") == json{{"a", "2"}});
  CHECK(attributes("caf%C3%A9=%E6%97%A5") == json{{"café", "日"}});
  CHECK(attributes("in=environment,other=environment", {"code"}) == json{{"in", "code"}, {"more", "code"}, {"other", "environment"}});
  for (const char* const wrong : {"a", "a=1,b", "a=%", "a=%4", "a=%4g", "=1", "a=1,=2"}) {
    CAPTURE(wrong);
    const Found found = init_with({{"OTEL_RESOURCE_ATTRIBUTES", wrong}, {"OTEL_SERVICE_NAME", "n"}});
    CHECK(found.what.at("attributes") == json::object());
    CHECK(found.what.at("service") == "n");
    CHECK(found.log.find(std::string("weir: warning: OTEL_RESOURCE_ATTRIBUTES=") + wrong + " is ignored") == 0);
  }
}

TEST_CASE("the sampler is the code's, else that of the environment, and what makes no sense there leaves the default") {
  const auto sampler = [](const char* name, const char* argument, const std::vector<std::string>& arguments = {}) {
    return init_with({{"OTEL_TRACES_SAMPLER", name}, {"OTEL_TRACES_SAMPLER_ARG", argument}}, arguments);
  };
  const json by_default = Sampler().to_string();
  CHECK(sampler("", "0.1").what.at("sampler") == by_default);
  CHECK(sampler("always_off", "").what.at("sampler") == Sampler::never().to_string());
  CHECK(sampler("parentbased_traceidratio", "0.25").what.at("sampler") == Sampler::parent_based(Sampler::ratio(0.25)).to_string());
  CHECK(sampler("always_off", "", {"code"}).what.at("sampler") == Sampler::always().to_string());
  const Found unknown = sampler("sometimes", "0.1"), wrong = sampler("traceidratio", "2");
  CHECK(unknown.what.at("sampler") == by_default);
  CHECK(unknown.log.find("weir: warning: OTEL_TRACES_SAMPLER=sometimes is ignored: ") == 0);
  CHECK(wrong.what.at("sampler") == Sampler::ratio(1).to_string());
  CHECK(wrong.log.find("weir: warning: OTEL_TRACES_SAMPLER_ARG=2 is ignored: ") == 0);
}

TEST_CASE("limits are the code's, else those of spans, else the general ones") {
  const std::pair<std::string, std::string> count{"OTEL_ATTRIBUTE_COUNT_LIMIT", "7"}, span_count{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"};
  const std::pair<std::string, std::string> bytes{"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "70"},
      span_bytes{"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "30"};
  const auto limits = [](const Variables& variables, const std::vector<std::string>& arguments = {}) {
    const json what = init_with(variables, arguments).what;
    return std::pair<int, int>(what.at("count"), what.at("bytes"));
  };
  CHECK(limits({count, bytes}) == std::pair(7, 70));
  CHECK(limits({count, span_count, bytes, span_bytes}) == std::pair(3, 30));
  CHECK(limits({count, span_count, bytes, span_bytes}, {"code"}) == std::pair(5, 50));
  CHECK(limits({{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"}}) == std::pair(0, 0));
  for (const char* const wrong : {"-1", "x", "1x", "1.5", "99999999999999999999"}) {
    CAPTURE(wrong);
    const Found found = init_with({{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", wrong}, count, {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", wrong}});
    CHECK(found.what.at("count") == 7);
    CHECK(found.what.at("bytes") == 100);
    CHECK(found.log.find("weir: warning: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=") != std::string::npos);
    CHECK(found.log.find("weir: warning: OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=") != std::string::npos);
  }
  CHECK(init_with({{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "256"}}).log.find("up to 255") != std::string::npos);
}
