#include "support/managed.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/telemetry.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

double gauge(const Payload& payload) {
  const TelemetryData* const data = payload.find("instrumented_processes:cpp/weir");
  return data != nullptr && std::holds_alternative<TelemetryGauge>(*data) ? std::get<TelemetryGauge>(*data) : -1;
}

}  // namespace

// ---- configuration

TEST_CASE("a configuration goes to every live process of the group, and to those that come") {
  Rig rig;
  rig.script->fail("create 9");
  rig.start();
  for (const pid_t pid : {7, 8, 9}) rig.detector->exec(pid, "/bin/checkout");
  rig.detector->exec(10, "/bin/cart");
  for (const pid_t pid : {7, 8, 10}) REQUIRE(rig.is(pid, ProcessState::instrumented));
  REQUIRE(rig.is(9, ProcessState::failed));
  rig.manager->update_config({{AppGroup{"checkout"}, config_of(1)}, {AppGroup{"nobody's"}, config_of(2)}});
  CHECK(rig.waits_for("apply 7 level=1"));
  CHECK(rig.waits_for("apply 8 level=1"));
  rig.settle();
  CHECK_FALSE(rig.script->has("apply 9 level=1"));
  CHECK_FALSE(rig.script->has("apply 10 level=1"));
  rig.manager->update_config({{AppGroup{"checkout"}, config_of(3)}});
  REQUIRE(rig.waits_for("apply 7 level=3"));
  CHECK(eventually([&] { return text_of(rig.manager->processes().front().config) == "level=3"; }));
  rig.detector->exec(11, "/bin/checkout");
  CHECK(rig.waits_for("create 11 level=3"));
  rig.detector->exec(12, "/bin/cart");
  CHECK(rig.waits_for("create 12"));
  rig.script->allow("create 9");
  rig.manager->request(RetryFailed{});
  CHECK(rig.waits_for("create 9 level=3"));
}

TEST_CASE("a configuration that comes before run() is what processes begin with") {
  Rig rig;
  auto made = AppManager::create(rig.options);
  REQUIRE(made);
  made->update_config({{AppGroup{"other"}, config_of(1)}});
  made->update_config({{AppGroup{"other"}, config_of(2)}});
  rig.manager.emplace(*std::move(made));
  rig.loop = std::thread([&] { rig.result = rig.manager->run(rig.stop.token()); });
  rig.detector->exec(7);
  CHECK(rig.waits_for("create 7 level=2"));
}

TEST_CASE("a configuration that comes while a process is being loaded is applied when it is") {
  Rig rig;
  const auto gate = rig.script->block("load 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("load 7"));
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  rig.settle();
  rig.manager->update_config({{AppGroup{"other"}, config_of(2)}});
  rig.settle();
  CHECK_FALSE(rig.script->has("apply 7 level=1"));
  gate->open();
  CHECK(rig.waits_for("apply 7 level=2"));
  CHECK_FALSE(rig.script->has("apply 7 level=1"));
}

TEST_CASE("configurations that are refused are logged together, counted, and change nothing") {
  Rig rig;
  rig.start();
  for (const pid_t pid : {7, 8}) {
    rig.script->fail("apply " + std::to_string(pid), "no such key " + std::to_string(pid));
    rig.detector->exec(pid);
    REQUIRE(rig.is(pid, ProcessState::instrumented));
  }
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  REQUIRE(eventually([&] { return rig.logger.count("a configuration was refused processes=2") == 1; }));
  CHECK(rig.logger.count("pid 7: no such key 7") == 1);
  CHECK(rig.logger.count("pid 8: no such key 8") == 1);
  CHECK(rig.manager->stats().config_errors == 2);
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->processes().front().config.empty());
}

TEST_CASE("a configuration that comes while one is applied is logged as well when it is refused") {
  Rig rig;
  const auto gate = rig.script->block("apply 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.is(7, ProcessState::instrumented));
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  REQUIRE(rig.waits_for("apply 7 level=1"));
  rig.manager->update_config({{AppGroup{"other"}, config_of(2)}});
  rig.settle();
  rig.script->fail("apply 7", "no such level");
  gate->open();
  REQUIRE(rig.waits_for("apply 7 level=2"));
  CHECK(eventually([&] { return rig.logger.count("a configuration was refused processes=1 errors=pid 7: no such level") == 1; }));
}

TEST_CASE("an update of several groups is one update") {
  Rig rig;
  rig.script->fail("apply", "no such key");
  rig.start();
  rig.detector->exec(7, "/bin/checkout");
  rig.detector->exec(8, "/bin/cart");
  for (const pid_t pid : {7, 8}) REQUIRE(rig.is(pid, ProcessState::instrumented));
  rig.manager->update_config({{AppGroup{"checkout"}, config_of(1)}, {AppGroup{"other"}, config_of(2)}});
  CHECK(eventually([&] { return rig.logger.count("a configuration was refused processes=2") == 1; }));
}

TEST_CASE("a configuration that was refused is shown, and applied again on request") {
  Rig rig;
  rig.script->fail("apply 7", "it is stopped");
  rig.start();
  rig.detector->exec(7);
  rig.detector->exec(8);
  for (const pid_t pid : {7, 8}) REQUIRE(rig.is(pid, ProcessState::instrumented));
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  const auto error = [&] {
    const auto all = rig.manager->processes();
    return all.empty() || !all.front().error ? std::string() : all.front().error->message;
  };
  REQUIRE(eventually([&] { return error() == "it is stopped"; }));
  REQUIRE(rig.waits_for("apply 8 level=1"));
  CHECK(rig.is(7, ProcessState::instrumented));
  rig.script->allow("apply 7");
  rig.manager->request(RetryFailed{cpp_probes});
  rig.settle();
  CHECK(rig.script->count("apply 7 level=1") == 1);
  rig.manager->request(RetryFailed{});
  REQUIRE(rig.waits_for("apply 7 level=1", 2));
  CHECK(eventually([&] { return error().empty(); }));
  CHECK(text_of(rig.manager->processes().front().config) == "level=1");
  CHECK(rig.script->count("apply 8 level=1") == 1);
  CHECK(rig.script->count("create 7") == 1);
}

// ---- requests

TEST_CASE("processes are instrumented on request, and their exits are watched, also when that fails") {
  Rig rig;
  rig.script->fail("create 8");
  rig.script->fail("read 9", "no such process");
  rig.start();
  rig.manager->request(Instrument{{7, 8, 9, 7, 0, -1}});
  REQUIRE(rig.waits_for("run 7"));
  REQUIRE(rig.waits_for("on_init 8 error: refused"));
  REQUIRE(eventually([&] { return rig.logger.count("no such process") == 1; }));
  CHECK(rig.detector->tracked() == std::set<pid_t>{7, 8, 9});
  CHECK(rig.gone(9));
  const std::size_t reads = rig.script->count("read 7");
  rig.manager->request(Instrument{{7}});
  REQUIRE(rig.waits_for("read 7", reads + 1));
  rig.settle();
  CHECK(rig.script->count("details 7") == 1);
  rig.detector->exit(7);
  rig.detector->exit(8);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.waits_for("on_exit 8 /bin/app"));
}

TEST_CASE("a process that exits while it is read for a request is not instrumented") {
  Rig rig;
  const auto gate = rig.script->block("read 7");
  rig.start();
  rig.manager->request(Instrument{{7}});
  REQUIRE(rig.waits_for("read 7"));
  rig.detector->exit(7);
  rig.settle();
  gate->open();
  rig.settle();
  CHECK_FALSE(rig.script->has("details 7"));
  rig.manager->request(Instrument{{7}});
  CHECK(rig.waits_for("run 7"));
}

TEST_CASE("a group that was un-instrumented stays so until one of it is asked for") {
  Rig rig;
  rig.start();
  rig.detector->exec(7);
  rig.detector->exec(8, "/bin/checkout");
  REQUIRE(rig.is(7, ProcessState::instrumented));
  REQUIRE(rig.is(8, ProcessState::instrumented));
  rig.manager->request(Uninstrument{AppGroup{"other"}});
  REQUIRE(rig.is(7, ProcessState::uninstrumented));
  CHECK(rig.script->has("on_run 7 ok"));
  CHECK_FALSE(rig.script->has("on_exit 7 /bin/app"));
  CHECK(rig.instrumented() == 1);
  CHECK_FALSE(rig.script->has("close 8"));

  rig.detector->exec(9);
  REQUIRE(rig.waits_for("process_group 9"));
  rig.detector->exec(7, "/bin/another");
  REQUIRE(rig.waits_for("process_group 7", 2));
  rig.manager->request(RetryFailed{});
  rig.settle();
  CHECK(rig.gone(9));
  CHECK(rig.script->count("create 7") == 1);

  rig.manager->request(Instrument{{9}});
  REQUIRE(rig.is(9, ProcessState::instrumented));
  CHECK(rig.is(7, ProcessState::uninstrumented));
  rig.detector->exec(10);
  CHECK(rig.is(10, ProcessState::instrumented));
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/another"));
}

TEST_CASE("requests for one process are done in their order") {
  Rig rig;
  const auto gate = rig.script->block("create 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("create 7"));
  SECTION("instrument, then un-instrument") {
    rig.manager->request(Instrument{{7}});
    rig.manager->request(Uninstrument{AppGroup{"other"}});
    gate->open();
    REQUIRE(rig.is(7, ProcessState::uninstrumented));
    REQUIRE(rig.waits_for("read 7"));
    rig.settle();
    CHECK(rig.is(7, ProcessState::uninstrumented));
    CHECK(rig.instrumented() == 0);
  }
  SECTION("un-instrument, then instrument") {
    rig.manager->request(Uninstrument{AppGroup{"other"}});
    rig.manager->request(Instrument{{7}});
    gate->open();
    CHECK(rig.is(7, ProcessState::instrumented));
    CHECK(rig.script->count("create 7") == 2);
  }
}

TEST_CASE("who executes something else is in no group until its new one is known") {
  Rig rig;
  rig.start();
  rig.detector->exec(7, "/bin/checkout");
  REQUIRE(rig.is(7, ProcessState::instrumented));
  const auto gate = rig.script->block("details 7");
  rig.detector->exec(7, "/bin/cart");
  REQUIRE(rig.waits_for("details 7", 2));
  SECTION("un-instrumenting the group that it left does not reach it") {
    rig.manager->request(Uninstrument{AppGroup{"checkout"}});
    rig.settle();
    gate->open();
    CHECK(rig.is(7, ProcessState::instrumented));
  }
  SECTION("un-instrumenting the group that it is about to be in does") {
    rig.manager->request(Uninstrument{AppGroup{"other"}});
    rig.settle();
    gate->open();
    CHECK(rig.is(7, ProcessState::uninstrumented));
  }
}

TEST_CASE("a request for a process says nothing of groups that it comes into later") {
  Rig rig;
  rig.start();
  const bool runs = GENERATE(false, true);
  if (runs) {
    rig.detector->exec(7, "/bin/checkout");
    REQUIRE(rig.is(7, ProcessState::instrumented));
  }
  rig.manager->request(Uninstrument{AppGroup{runs ? "other" : "checkout"}});
  const std::size_t reads = rig.script->count("read 7");
  rig.manager->request(Instrument{{7}});
  REQUIRE(rig.waits_for("read 7", reads + 1));
  rig.settle();
  REQUIRE(rig.is(7, ProcessState::instrumented));
  rig.detector->exec(7, runs ? "/bin/cart" : "/bin/checkout");
  CHECK(rig.is(7, ProcessState::uninstrumented));
  rig.settle();
  CHECK(rig.script->count("create 7") == 1);
}

TEST_CASE("un-instrumenting ends generic instrumentations, too, and what failed is not tried again") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.script->fail("create 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_init 7 error: refused"));
  rig.manager->request(Uninstrument{AppGroup{"other"}});
  REQUIRE(rig.is(7, ProcessState::uninstrumented));
  CHECK(rig.script->has("generic_close 7"));
  rig.manager->request(RetryFailed{});
  rig.settle();
  CHECK(rig.script->count("create 7") == 1);
}

TEST_CASE("what failed is tried again on request: all, or those of a distribution") {
  Rig rig;
  rig.options.factories[cpp_probes] = std::make_shared<ScriptedFactory>(rig.script, "probes_");
  rig.script->fail("create");
  rig.script->fail("probes_load");
  rig.start();
  rig.detector->exec(7);
  rig.detector->exec(8, "/bin/probed");
  REQUIRE(rig.waits_for("on_init 7 error: refused"));
  REQUIRE(rig.waits_for("on_load 8 error: refused"));
  rig.settle();
  rig.manager->request(RetryFailed{cpp_probes});
  REQUIRE(rig.waits_for("on_load 8 error: refused", 2));
  CHECK(rig.script->count("create 7") == 1);
  rig.script->allow("create");
  rig.script->allow("probes_load");
  rig.settle();
  rig.manager->request(RetryFailed{});
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.is(8, ProcessState::instrumented));
  CHECK(rig.manager->stats().failed == 2);
}

// ---- metrics

TEST_CASE("metrics: instrumented processes up and down, first failures, lost events and rescans") {
  Telemetry telemetry = Telemetry::create(InstanceId::random()).value();
  {
    Rig rig;
    rig.options.telemetry = &telemetry;
    rig.script->fail("create 9");
    rig.start();
    rig.detector->count({.lost = 3, .rescans = 1});
    for (const pid_t pid : {7, 8, 9}) rig.detector->exec(pid);
    REQUIRE(rig.is(7, ProcessState::instrumented));
    REQUIRE(rig.is(8, ProcessState::instrumented));
    REQUIRE(rig.is(9, ProcessState::failed));
    rig.detector->exec(9);
    REQUIRE(rig.waits_for("on_init 9 error: refused", 2));
    const ManagerStats stats = rig.manager->stats();
    CHECK(stats.instrumented == std::map<Distribution, std::uint64_t>{{cpp_weir, 2}});
    CHECK(stats.failed == 1);
    CHECK(stats.detector.lost == 3);
    CHECK(stats.detector.rescans == 1);
    Payload payload = telemetry.take();
    CHECK(gauge(payload) == 2);
    CHECK(payload.as_int("failed_instrumentations:cpp/weir") == 1);
    telemetry.merge_back(std::move(payload));
    rig.detector->count({.lost = 5, .rescans = 2});  // and then it ends
    REQUIRE(rig.finish());
    CHECK(rig.manager->stats().instrumented.empty());
  }
  const Payload payload = telemetry.take();
  CHECK(gauge(payload) == 0);
  CHECK(payload.as_int("events_lost") == 5);
  CHECK(payload.as_int("rescans") == 2);
  CHECK(payload.as_int("failed_instrumentations:cpp/weir") == 1);
}
