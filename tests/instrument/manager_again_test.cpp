#include "support/managed.hpp"

using namespace weir;
using namespace weir::testing;

// ---- executes something else

TEST_CASE("an instrumented process that executes something else is closed and instrumented anew") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.start();
  rig.detector->exec(7, "/bin/sh");
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exec(7, "/bin/app");
  REQUIRE(rig.waits_for("run 7", 2));
  CHECK(rig.is(7, ProcessState::instrumented));
  const auto lines = rig.script->of(7);
  const auto closed = std::find(lines.begin(), lines.end(), "on_run ok");
  REQUIRE(closed != lines.end());
  CHECK(std::count(lines.begin(), closed, "create") == 1);
  CHECK(std::count(closed, lines.end(), "create") == 1);
  CHECK(std::count(lines.begin(), lines.end(), "generic_close") == 1);
  CHECK(std::count(lines.begin(), lines.end(), "generic_create") == 2);
  CHECK_FALSE(rig.script->has("on_exit 7 /bin/sh"));
  CHECK(rig.instrumented() == 1);
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
}

TEST_CASE("an exec of the same executable is nothing new to an instrumented process") {
  Rig rig;
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exec(7);
  rig.detector->other(ProcessEvent::Type::fork, 7);
  rig.detector->other(ProcessEvent::Type::file_open, 7);
  rig.settle();
  CHECK(rig.script->count("details 7") == 1);
  CHECK_FALSE(rig.script->has("close 7"));
}

TEST_CASE("a process that failed is tried again when it executes, generic factories included") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.script->fail("create 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_init 7 error: refused"));
  rig.script->allow("create 7");
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  CHECK(rig.script->count("generic_create 7") == 2);
  CHECK(rig.script->count("generic_close 7") == 1);
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->stats().failed == 1);
}

TEST_CASE("a file that a failed process opens is a reason to try again, but not the generic factories") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.script->fail("load 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_load 7 error: refused"));
  rig.script->allow("load 7");
  rig.detector->other(ProcessEvent::Type::file_open, 7);
  REQUIRE(rig.waits_for("run 7"));
  CHECK(rig.script->count("generic_create 7") == 1);
}

TEST_CASE("what executes while it starts ends as what it executed last") {
  Rig rig;
  const auto gate = rig.script->block("create 7");
  rig.start();
  rig.detector->exec(7, "/bin/a");
  REQUIRE(rig.waits_for("create 7"));
  rig.detector->exec(7, "/bin/b");
  rig.detector->exec(7, "/bin/c");
  rig.settle();
  gate->open();
  REQUIRE(rig.waits_for("run 7"));
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->processes().front().details.executable == "/bin/c");
  CHECK(rig.script->count("details 7") == 2);
  CHECK(rig.script->count("load 7") == 1);
}

// ---- a run that ends

TEST_CASE("a run that ends with an error is reported, not counted any more, closed, and may be tried again") {
  Rig rig;
  rig.script->fail("run 7", "lost the ring");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_run 7 error: lost the ring"));
  CHECK(rig.is(7, ProcessState::ended_run));
  CHECK(rig.instrumented() == 0);
  CHECK(rig.manager->stats().failed == 1);
  CHECK(rig.script->count("close 7") == 1);
  rig.script->allow("run 7");
  rig.manager->request(RetryFailed{});
  REQUIRE(rig.is(7, ProcessState::instrumented));
  CHECK(rig.instrumented() == 1);
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.script->count("on_run 7 ok") == 1);
}

TEST_CASE("a run is over before the exit is reported") {
  Rig rig;
  const auto gate = rig.script->block("ran 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exit(7);
  REQUIRE(rig.waits_for("ran 7"));
  REQUIRE(rig.waits_for("close 7"));
  rig.settle();
  CHECK_FALSE(rig.script->has("on_exit 7 /bin/app"));
  CHECK_FALSE(rig.script->has("on_run 7 ok"));
  gate->open();
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
}

// ---- who a process is

TEST_CASE("a pid that is used again is another process, even when its exit was not told") {
  Rig rig;
  rig.start();
  rig.detector->exec(7, "/bin/app", 100);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exec(7, "/bin/app", 200);
  REQUIRE(rig.waits_for("run 7", 2));
  const auto lines = rig.script->of(7);
  const auto exited = std::find(lines.begin(), lines.end(), "on_exit /bin/app");
  REQUIRE(exited != lines.end());
  CHECK(std::count(lines.begin(), exited, "details") == 1);
  rig.detector->exit(7, 100);  // late
  rig.settle();
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->processes().front().start_time == 200);
  rig.detector->exit(7, 200);
  CHECK(rig.waits_for("on_exit 7 /bin/app", 2));
}

TEST_CASE("an event of who had the pid before is nothing to who has it") {
  Rig rig;
  rig.start();
  rig.detector->exec(7, "/bin/app", 200);
  REQUIRE(rig.is(7, ProcessState::instrumented));
  rig.detector->exec(7, "/bin/b", 100);
  rig.settle();
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->processes().front().start_time == 200);
  CHECK_FALSE(rig.script->has("close 7"));
}

TEST_CASE("what was loaded into another process of that pid is closed, and has failed") {
  const std::string call = GENERATE("load 7", "generic_load 7");
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  const auto gate = rig.script->block(call);
  rig.start();
  rig.detector->exec(7, "/bin/a", 100);
  REQUIRE(rig.waits_for(call));
  const bool told = GENERATE(false, true);
  rig.detector->took(7, 200);
  if (told) rig.detector->exec(7, "/bin/b", 200);
  rig.settle();
  gate->open();
  if (call == "load 7") {
    REQUIRE(rig.waits_for("on_load 7 error: it has ended, and its pid was free for another process"));
    CHECK(rig.script->count("close 7") == 1);
  } else {
    REQUIRE(rig.waits_for("generic_close 7"));
  }
  if (!told) return;
  REQUIRE(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->processes().front().start_time == 200);
}

TEST_CASE("a failure that repeats is logged once, until it is another") {
  Rig rig;
  rig.script->fail("create 7", "first reason");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_init 7 error: first reason"));
  for (std::size_t times = 2; times < 5; ++times) {
    rig.settle();
    rig.manager->request(RetryFailed{});
    REQUIRE(rig.waits_for("on_init 7 error: first reason", times));
  }
  rig.settle();
  CHECK(rig.logger.count("first reason") == 1);
  rig.script->fail("create 7", "second reason");
  rig.manager->request(RetryFailed{});
  REQUIRE(rig.waits_for("on_init 7 error: second reason"));
  CHECK(rig.logger.count("second reason") == 1);
}

TEST_CASE("who took a pid waits until the one before is closed, and is not begun if it exits meanwhile") {
  Rig rig;
  const auto gate = rig.script->block("close 7");
  rig.start();
  rig.detector->exec(7, "/bin/app", 100);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exec(7, "/bin/b", 200);
  REQUIRE(rig.waits_for("close 7"));
  rig.detector->exit(7, 200);
  const bool third = GENERATE(false, true);
  if (third) rig.detector->exec(7, "/bin/c", 300);
  rig.settle();
  CHECK(rig.script->count("details 7") == 1);
  gate->open();
  if (!third) {
    REQUIRE(rig.waits_for("on_exit 7 /bin/app"));
    CHECK(rig.gone(7));
    rig.settle();
    CHECK(rig.script->count("details 7") == 1);
    return;
  }
  REQUIRE(rig.waits_for("run 7", 2));
  CHECK(rig.script->count("details 7") == 2);
  REQUIRE(rig.is(7, ProcessState::instrumented));
  CHECK(rig.manager->processes().front().details.executable == "/bin/c");
}
