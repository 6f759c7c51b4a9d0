#include <pthread.h>

#include "support/managed.hpp"
#include "support/sanitizers.hpp"

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

namespace {

constexpr auto soon = 5000ms;  // for calls that hang until the test ends

}  // namespace

// ---- slow and hung calls

TEST_CASE("a slow process does not keep others waiting") {
  Rig rig;
  const auto gate = rig.script->block("create 7");
  rig.options.workers = 2;
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("create 7"));
  for (int event = 0; event < 100; ++event) rig.detector->exec(7, "/bin/" + std::to_string(event));
  for (pid_t pid = 8; pid < 28; ++pid) rig.detector->exec(pid);
  for (pid_t pid = 8; pid < 28; ++pid) REQUIRE(rig.is(pid, ProcessState::instrumented));
  rig.detector->exit(8);
  CHECK(rig.waits_for("on_exit 8 /bin/app"));
  CHECK(rig.script->count("create 7") == 1);  // one process, one call
  gate->open();
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->stats().abandoned == 0);
}

TEST_CASE("calls that hang are named and given up, and the workers that they took are replaced") {
  Rig rig;
  rig.options.workers = 2;
  rig.options.step_timeout = soon;
  const auto create = rig.script->block("create 7");
  const auto load = rig.script->block("load 8");
  rig.start();
  rig.detector->exec(7);
  rig.detector->exec(8);
  REQUIRE(rig.waits_for("on_init 7 error: create did not return within 5000 ms and was given up"));
  REQUIRE(rig.waits_for("on_load 8 error: load did not return within 5000 ms and was given up"));
  CHECK(rig.is(7, ProcessState::failed));
  CHECK(rig.is(8, ProcessState::failed));
  CHECK(rig.manager->stats().abandoned >= 2);
  CHECK(rig.logger.count("error: manager: a call did not return in time and was given up pid=7") >= 1);
  CHECK(rig.logger.count("step=create") >= 1);
  CHECK(rig.logger.count("step=load") >= 1);
  create->open();
  load->open();
  CHECK(rig.waits_for("destroy 7"));  // what came late is destroyed, and closed if it was loaded
  CHECK(rig.waits_for("destroy 8"));
  CHECK_FALSE(rig.script->has("close 7"));
  CHECK(rig.script->count("close 8") == 1);
  CHECK_FALSE(rig.script->has("run 7"));
  CHECK_FALSE(rig.script->has("run 8"));
}

TEST_CASE("a call that is given up hears of it by its stop token") {
  Rig rig;
  rig.options.step_timeout = soon;
  std::atomic<bool> heard{false};
  rig.options.handler.settings = [&heard](const AppDetails&, const Distribution&, const StopToken& stop) -> Result<Settings> {
    heard = eventually([&] { return stop.stop_requested(); });
    return Settings{};
  };
  rig.start();
  rig.detector->exec(7);
  CHECK(eventually([&] { return heard.load(); }));
}

TEST_CASE("a close, a run, a reporter and a configuration that hang are given up, and the exit is reported all the same") {
  Rig rig;
  rig.options.step_timeout = soon;
  const std::string call = GENERATE("close 7", "ran 7", "on_load 7", "on_run 7", "apply 7", "generic_apply 7", "destroy 7");
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  const auto gate = rig.script->block(call);
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  REQUIRE(rig.waits_for("apply 7 level=1"));
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.gone(7));
  CHECK(rig.manager->stats().abandoned >= 1);
  rig.detector->exec(8);
  CHECK(rig.waits_for("on_init 8 ok"));
}

TEST_CASE("an instrumentation that hangs in apply_config is closed by whoever comes out of it") {
  Rig rig;
  rig.options.step_timeout = soon;
  const auto gate = rig.script->block("apply 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  REQUIRE(rig.is(7, ProcessState::failed));
  REQUIRE(rig.waits_for("ran 7"));
  CHECK(rig.instrumented() == 0);
  CHECK_FALSE(rig.script->has("close 7"));
  gate->open();
  CHECK(rig.waits_for("close 7"));
  CHECK(rig.waits_for("destroy 7"));
}

#if defined(WEIR_TESTS_TSAN) || !defined(WEIR_TESTS_SANITIZED)  // UndefinedBehaviorSanitizer takes what is caught for a null reference
TEST_CASE("a call that ends its thread is given up, and other calls go on") {
  Rig rig;
  rig.options.workers = 1;
  rig.options.step_timeout = soon;
  rig.script->on("create 7", []() -> Result<void> { ::pthread_exit(nullptr); });
  rig.script->on("run 8", []() -> Result<void> { ::pthread_exit(nullptr); });
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_init 7 error: create did not return within 5000 ms and was given up"));
  rig.detector->exec(8);
  REQUIRE(rig.waits_for("on_run 8 error: its thread was ended"));
  CHECK(rig.is(8, ProcessState::ended_run));
  CHECK(rig.script->has("close 8"));
}
#endif

// ---- the end

TEST_CASE("when it stops, everything is closed and reported, and the counts are zero") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.script->fail("create 9");
  rig.start();
  for (const pid_t pid : {7, 8, 9}) rig.detector->exec(pid);
  REQUIRE(rig.is(7, ProcessState::instrumented));
  REQUIRE(rig.is(8, ProcessState::instrumented));
  REQUIRE(rig.waits_for("on_init 9 error: refused"));
  CHECK(rig.finish());
  for (const pid_t pid : {7, 8}) {
    const std::string number = std::to_string(pid);
    for (const char* const call : {"close ", "ran ", "destroy ", "generic_close ", "generic_destroy "})
      CHECK(rig.script->count(call + number) == 1);
    CHECK(rig.script->count("on_run " + number + " ok") == 1);
    CHECK(rig.script->count("on_exit " + number + " /bin/app") == 1);
  }
  CHECK(rig.script->count("on_exit 9 /bin/app") == 1);
  CHECK(rig.manager->processes().empty());
  CHECK(rig.manager->stats().instrumented.empty());
  const std::size_t lines = rig.script->lines().size();
  rig.manager->request(Instrument{{7}});
  rig.manager->request(RetryFailed{});
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  CHECK(rig.script->lines().size() == lines);
}

TEST_CASE("more processes than workers are closed at once when it stops") {
  Rig rig;
  rig.options.workers = 1;
  rig.start();
  for (pid_t pid = 1; pid <= 20; ++pid) rig.detector->exec(pid);
  for (pid_t pid = 1; pid <= 20; ++pid) REQUIRE(rig.is(pid, ProcessState::instrumented));
  const auto gate = rig.script->block("close");
  rig.stop.request_stop();
  CHECK(eventually([&] { return gate->waiting() == 20; }));
  gate->open();
  CHECK(rig.finish());
  CHECK(rig.manager->stats().abandoned == 0);
}

TEST_CASE("what waits to be created when it stops is not begun, and nobody is told") {
  Rig rig;
  rig.options.workers = 1;
  const auto details = rig.script->block("details 1");
  const auto gate = rig.script->block("create 1");
  rig.start();
  rig.detector->exec(1);
  REQUIRE(rig.waits_for("details 1"));
  rig.detector->exec(2);
  details->open();
  REQUIRE(rig.waits_for("create 1"));
  REQUIRE(rig.is(2, ProcessState::starting));
  rig.stop.request_stop();
  REQUIRE(rig.gone(2));
  gate->open();
  CHECK(rig.finish());
  CHECK(rig.script->has("on_init 1 ok"));
  CHECK(rig.script->has("on_exit 1 /bin/app"));
  const auto lines = rig.script->of(2);
  CHECK(std::find(lines.begin(), lines.end(), "create") == lines.end());
  CHECK(std::find_if(lines.begin(), lines.end(), [](const std::string& line) { return line.starts_with("on_"); }) == lines.end());
}

TEST_CASE("run() returns although everything hangs, names what does, and reports what it can") {
  const std::string call = GENERATE("details", "settings", "create", "on_init", "load", "on_load", "close", "ran", "on_run", "on_exit",
                                    "generic_create", "generic_load", "generic_close", "generic_ran", "destroy", "read");
  Rig rig;
  rig.options.stop_timeout = 400ms;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  const auto gate = rig.script->block(call);
  rig.start();
  for (pid_t pid = 1; pid <= 6; ++pid) rig.detector->exec(pid);
  rig.manager->request(Instrument{{7}});
  const bool starting = call == "details" || call == "settings" || call == "create" || call == "on_init" || call == "load" ||
                        call == "on_load" || call == "generic_create" || call == "generic_load" || call == "read";
  if (starting) {
    REQUIRE(eventually([&] { return gate->waiting() >= 1; }));
  } else {
    for (pid_t pid = 1; pid <= 6; ++pid) REQUIRE(rig.is(pid, ProcessState::instrumented));
  }
  rig.stop.request_stop();
  REQUIRE(eventually([&] { return rig.returned.load(); }));
  CHECK(rig.finish());
  if (rig.logger.count("no time was left") == 0) {
    CHECK(rig.manager->stats().abandoned >= 1);
    CHECK(rig.logger.count("a call did not return in time and was given up") >= 1);
  }
  CHECK(rig.manager->stats().instrumented.empty());
  CHECK(rig.manager->processes().empty());
  rig.manager.reset();  // what hangs outlives it
}

TEST_CASE("what there was no time to close is closed all the same, once") {
  constexpr pid_t most = 400;  // more than threads begin calls that hang
  Rig rig;
  rig.options.stop_timeout = 2s;
  rig.start();
  for (pid_t pid = 1; pid <= most; ++pid) rig.detector->exec(pid);
  for (pid_t pid = 1; pid <= most; ++pid) REQUIRE(rig.is(pid, ProcessState::instrumented));
  const auto apply = rig.script->block("apply 1");
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  REQUIRE(rig.waits_for("apply 1 level=1"));
  const auto gate = rig.script->block("close");
  CHECK(rig.finish());
  CHECK(rig.logger.count("no time was left") >= 1);
  rig.manager.reset();
  CHECK_FALSE(rig.script->has("close 1"));  // it is still in another call
  apply->open();
  gate->open();
  for (pid_t pid = 1; pid <= most; ++pid) {
    REQUIRE(rig.waits_for("destroy " + std::to_string(pid)));
    CHECK(rig.script->count("close " + std::to_string(pid)) == 1);
  }
}

TEST_CASE("the calls that run when the manager stops hear of it") {
  Rig rig;
  std::atomic<int> begun{0}, heard{0};
  rig.options.handler.settings = [&](const AppDetails&, const Distribution&, const StopToken& stop) -> Result<Settings> {
    ++begun;
    heard += eventually([&] { return stop.stop_requested(); }) ? 1 : 0;
    return Settings{};
  };
  rig.start();
  for (const pid_t pid : {7, 8}) rig.detector->exec(pid);
  REQUIRE(eventually([&] { return begun == 2; }));
  CHECK(rig.finish());
  CHECK(heard == 2);
  CHECK(rig.manager->stats().abandoned == 0);
  CHECK_FALSE(rig.script->has("create 7"));
}

TEST_CASE("a hung close does not keep the others from being reported in the end") {
  Rig rig;
  rig.options.stop_timeout = 20s;
  rig.options.workers = 1;
  const auto gate = rig.script->block("close 3");
  rig.start();
  for (pid_t pid = 1; pid <= 6; ++pid) rig.detector->exec(pid);
  for (pid_t pid = 1; pid <= 6; ++pid) REQUIRE(rig.is(pid, ProcessState::instrumented));
  CHECK(rig.finish());
  for (pid_t pid = 1; pid <= 6; ++pid) CHECK(rig.script->count("on_exit " + std::to_string(pid) + " /bin/app") == 1);
  CHECK(rig.logger.count("given up pid=3") >= 1);
}

TEST_CASE("the detector's error ends the manager and is returned") {
  Rig rig;
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  SECTION("an error") {
    rig.detector->end(Error{std::make_error_code(std::errc::no_buffer_space), "lost for good"});
    rig.loop.join();
    REQUIRE_FALSE(*rig.result);
    CHECK(rig.result->error().message == "lost for good");
    CHECK(rig.logger.count("lost for good") == 1);
  }
  SECTION("none: it ends cleanly") {
    rig.detector->end();
    rig.loop.join();
    CHECK(*rig.result);
  }
  CHECK(rig.script->has("on_exit 7 /bin/app"));
}

TEST_CASE("a detector that does not end is named and left behind") {
  Rig rig;
  rig.options.stop_timeout = 500ms;
  rig.detector->be_deaf();
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exit(7);
  REQUIRE(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.finish());
  CHECK(rig.logger.count("the detector did not end in time") == 1);
  rig.detector->exec(8);  // into nothing
  rig.detector->end();
}

TEST_CASE("a manager runs once, and may be stopped before it has begun") {
  Rig rig;
  rig.stop.request_stop();
  rig.start();
  CHECK(rig.finish());
  const Result<void> again = rig.manager->run(rig.stop.token());
  REQUIRE_FALSE(again);
  CHECK(again.error().code == std::errc::operation_not_permitted);
}

TEST_CASE("events and requests that nobody takes are bounded and counted") {
  Rig rig;
  auto made = AppManager::create(rig.options);
  REQUIRE(made);
  for (int request = 0; request < 65'536 + 5; ++request) made->request(RetryFailed{});
  rig.manager.emplace(*std::move(made));
  rig.loop = std::thread([&] { rig.result = rig.manager->run(rig.stop.token()); });
  CHECK(eventually([&] { return rig.manager->stats().lost_requests == 5; }));
}

TEST_CASE("events beyond what may wait for run()'s thread are lost and counted") {
  class SlowLogger final : public Logger {
   public:
    void log(Level, std::string_view, std::span<const Attribute>) noexcept override { gate.pass(); }
    Gate gate;
  };
  SlowLogger slow;
  Rig rig;
  rig.options.logger = &slow;
  rig.script->fail("details 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(eventually([&] { return slow.gate.waiting() == 1; }));  // run()'s thread is in the log
  for (int event = 0; event < 65'536 + 5; ++event) rig.detector->exec(8);
  slow.gate.open();
  CHECK(eventually([&] { return rig.manager->stats().lost_events == 5; }));
  CHECK(rig.is(8, ProcessState::instrumented));
  CHECK(rig.finish());
}

TEST_CASE("a tracked process that cannot be resolved any more has failed, whether that fails or hangs") {
  const std::string step = GENERATE("details 7", "distribution 7");
  const bool hangs = GENERATE(false, true);
  Rig rig;
  rig.options.step_timeout = soon;
  rig.start();
  rig.detector->exec(7, "/bin/a");
  REQUIRE(rig.is(7, ProcessState::instrumented));
  if (hangs) {
    rig.script->block(step);
  } else {
    rig.script->fail(step);
  }
  rig.detector->exec(7, "/bin/b");
  if (step == "distribution 7" && !hangs) {  // it has none now
    REQUIRE(rig.is(7, ProcessState::uninstrumented));
  } else {
    REQUIRE(rig.is(7, ProcessState::failed));
    CHECK(rig.manager->processes().front().error);
  }
  CHECK(rig.instrumented() == 0);
  rig.detector->exit(7);
  CHECK(rig.gone(7));
}
