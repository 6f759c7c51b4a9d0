#include "weir/instrument/manager.hpp"

#include <stdexcept>

#include "support/managed.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

using Lines = std::vector<std::string>;

/// How a process begins when all goes well, up to its run.
const Lines whole_start{"details", "distribution", "config_group", "process_group",   "settings",
                        "create",  "on_init ok",   "load",         "on_load ok probe"};

/// The first `lines.size()` calls of a process. (run() is called by a thread of its own.)
Lines head(const Rig& rig, pid_t pid, std::size_t count) {
  Lines lines = rig.script->of(pid);
  std::erase(lines, "run");
  lines.resize(std::min(lines.size(), count));
  return lines;
}

std::string error_of(AppManager::Options options) {
  const auto made = AppManager::create(std::move(options));
  REQUIRE_FALSE(made);
  CHECK(made.error().code == std::errc::invalid_argument);
  return made.error().message;
}

}  // namespace

// ---- construction

TEST_CASE("a manager that lacks a part is not made, and the error names it") {
  Rig rig;
  const auto without = [&](auto remove) {
    AppManager::Options options = rig.options;
    remove(options);
    return error_of(std::move(options));
  };
  CHECK(without([](auto& options) { options.handler = {}; }).find("no handler") != std::string::npos);
  CHECK(without([](auto& options) { options.handler.reporter = nullptr; }).find("no reporter") != std::string::npos);
  CHECK(without([](auto& options) { options.handler.process_details = nullptr; }).find("no process_details") != std::string::npos);
  CHECK(without([](auto& options) { options.handler.settings = nullptr; }).find("no settings") != std::string::npos);
  CHECK(without([](auto& options) { options.detector = nullptr; }).find("no detector") != std::string::npos);
  CHECK(without([](auto& options) { options.factories[cpp_probes] = nullptr; }).find("cpp/uprobes") != std::string::npos);
  CHECK(without([](auto& options) { options.generic_factories = {nullptr}; }).find("generic factory") != std::string::npos);
  CHECK(without([](auto& options) { options.workers = 0; }).find("workers") != std::string::npos);
  CHECK(without([](auto& options) { options.step_timeout = std::chrono::milliseconds(0); }).find("timeout") != std::string::npos);
  CHECK(AppManager::create(rig.options));
}

TEST_CASE("codes of why a process is not instrumented have a category and texts") {
  const std::error_code code = InstrumentErrc::language_mismatch;
  CHECK(code.category().name() == std::string("weir.instrument"));
  CHECK_FALSE(code.message().empty());
  CHECK(code != InstrumentErrc::not_applicable);
}

// ---- the path of a process

TEST_CASE("exec, fork and file_open take the same path, step by step, to a run") {
  const auto type = GENERATE(ProcessEvent::Type::exec, ProcessEvent::Type::fork, ProcessEvent::Type::file_open);
  Rig rig;
  rig.start();
  rig.detector->other(type, 7);
  REQUIRE(rig.waits_for("run 7"));
  CHECK(head(rig, 7, whole_start.size()) == whole_start);
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK(rig.instrumented() == 1);
  const auto rows = rig.manager->processes();
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].details.executable == "/bin/app");
  CHECK(rows[0].distribution == cpp_weir);
  CHECK(rows[0].start_time == 1);
  CHECK(rows[0].status.contains("probe"));
  CHECK_FALSE(rows[0].error);
}

TEST_CASE("an exit closes, ends the run, reports and forgets") {
  Rig rig;
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exit(7);
  REQUIRE(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.gone(7));
  CHECK(rig.instrumented() == 0);
  Lines lines = rig.script->of(7);
  lines.erase(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(whole_start.size()));
  CHECK(std::find(lines.begin(), lines.end(), "ran") < std::find(lines.begin(), lines.end(), "destroy"));
  CHECK(std::erase(lines, "ran") == 1);  // before or after the close
  CHECK(lines == Lines{"run", "close", "destroy", "on_run ok", "on_exit /bin/app"});
  rig.detector->exec(7, "/bin/app", 2);
  CHECK(rig.waits_for("run 7", 2));
}

TEST_CASE("the exit of a process that nobody knows is nothing") {
  Rig rig;
  rig.start();
  rig.detector->exit(7);
  rig.settle();
  CHECK(rig.script->of(7).empty());
  CHECK(rig.logger.count("pid=7") == 0);
}

TEST_CASE("an error in resolving is logged, and nothing is tracked") {
  const std::string step = GENERATE("details", "config_group", "process_group");
  Rig rig;
  rig.script->fail(step, "no such thing");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(eventually([&] { return rig.logger.count("no such thing") == 1; }));
  CHECK(rig.gone(7));
  rig.detector->exit(7);
  rig.settle();
  CHECK_FALSE(rig.script->has("create 7"));
  CHECK_FALSE(rig.script->has("on_exit 7"));
}

TEST_CASE("what the user's code throws is an error of that step") {
  Rig rig;
  rig.script->on("create 7", []() -> Result<void> { throw std::runtime_error("thrown here"); });
  rig.script->on("create 8", []() -> Result<void> { throw 3; });
  rig.script->on("on_load 9", []() -> Result<void> { throw std::runtime_error("reporter's"); });
  rig.start();
  for (const pid_t pid : {7, 8, 9}) rig.detector->exec(pid);
  CHECK(rig.waits_for("on_init 7 error: it threw: thrown here"));
  CHECK(rig.waits_for("on_init 8 error: it threw"));
  CHECK(rig.waits_for("run 9"));
}

TEST_CASE("a reporter's error is only logged") {
  Rig rig;
  for (const char* const call : {"on_init", "on_load", "on_run", "on_exit"}) rig.script->fail(call, "reporter is ill");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  CHECK(rig.is(7, ProcessState::instrumented));
  rig.detector->exit(7);
  CHECK(rig.gone(7));
  CHECK(rig.script->has("on_exit 7 /bin/app"));
  CHECK(rig.logger.count("reporter is ill") == 4);
}

TEST_CASE("without settings, instrumentation goes on with defaults") {
  Rig rig;
  rig.script->fail("settings", "no settings today");
  rig.start();
  rig.detector->exec(7);
  CHECK(rig.waits_for("run 7"));
  CHECK(rig.logger.count("no settings today") == 1);
}

TEST_CASE("a process whose create fails is tracked, reported once, and gets its exit") {
  Rig rig;
  rig.script->fail("create");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.is(7, ProcessState::failed));
  REQUIRE(rig.waits_for("on_init 7 error: refused"));
  CHECK(rig.instrumented() == 0);
  CHECK(rig.manager->stats().failed == 1);
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.gone(7));
  CHECK(rig.script->of(7) == Lines{"details", "distribution", "config_group", "process_group", "settings", "create",
                                   "on_init error: refused", "on_exit /bin/app"});
}

TEST_CASE("a process whose load fails is tracked, and close is not called") {
  Rig rig;
  rig.script->fail("load");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("on_load 7 error: refused"));
  CHECK(rig.is(7, ProcessState::failed));
  const auto rows = rig.manager->processes();
  REQUIRE(rows.size() == 1);
  REQUIRE(rows[0].error);
  CHECK(rows[0].error->message == "refused");
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.script->has("on_init 7 ok"));
  CHECK(rig.script->has("destroy 7"));
  CHECK_FALSE(rig.script->has("close 7"));
  CHECK_FALSE(rig.script->has("run 7"));
  CHECK_FALSE(rig.script->has("on_run 7 ok"));
}

TEST_CASE("an error of close stops nothing, and is in on_run") {
  Rig rig;
  rig.script->fail("close", "stuck lid");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.script->has("on_run 7 error: stuck lid"));
  CHECK(rig.logger.count("stuck lid") == 1);
}

TEST_CASE("a factory that returns nothing has failed") {
  class Empty final : public Factory {
    Result<std::unique_ptr<Instrumentation>> create(pid_t, const Settings&) override { return std::unique_ptr<Instrumentation>(); }
  };
  Rig rig;
  rig.options.factories = {{cpp_weir, std::make_shared<Empty>()}};
  rig.start();
  rig.detector->exec(7);
  CHECK(rig.waits_for("on_init 7 error: create() returned nothing"));
}

TEST_CASE("an exit in the middle of the start lets it finish, and then closes it") {
  Rig rig;
  const auto gate = rig.script->block("load 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("load 7"));
  rig.detector->exit(7);
  rig.settle();
  CHECK_FALSE(rig.script->has("on_exit 7 /bin/app"));
  gate->open();
  REQUIRE(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.script->count("close 7") == 1);
  CHECK(rig.script->has("on_run 7 ok"));
}

TEST_CASE("a process that exits before anything was created is never reported") {
  Rig rig;
  const auto gate = rig.script->block("details 7");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("details 7"));
  rig.detector->exit(7);
  rig.settle();
  gate->open();
  rig.settle();
  CHECK(rig.gone(7));
  CHECK(rig.script->of(7) == Lines{"details"});
}

// ---- distributions

TEST_CASE("a distribution without a factory is passed over in silence") {
  Rig rig;
  rig.start();
  rig.detector->exec(7, "/bin/probed");
  REQUIRE(rig.waits_for("process_group 7"));
  rig.settle();
  CHECK(rig.gone(7));
  CHECK_FALSE(rig.script->has("settings 7"));
  CHECK(rig.logger.count("pid=7") == 0);
}

TEST_CASE("a language mismatch is logged at debug, other errors of the distribution as warnings") {
  Rig rig;
  rig.script->on("distribution 7", []() -> Result<void> { return Error{InstrumentErrc::language_mismatch, "it is Go"}; });
  rig.script->fail("distribution 8", "who knows");
  rig.start();
  rig.detector->exec(7);
  rig.detector->exec(8);
  REQUIRE(eventually([&] { return rig.logger.count("it is Go") == 1 && rig.logger.count("who knows") == 1; }));
  CHECK(rig.logger.count("debug: manager: a process has no distribution pid=7") == 1);
  CHECK(rig.logger.count("warning: manager: a process has no distribution pid=8") == 1);
  CHECK_FALSE(rig.script->has("create 7"));
  CHECK_FALSE(rig.script->has("config_group 7"));
}

TEST_CASE("without callables for distributions and groups, generic factories still work") {
  Rig rig;
  rig.options.handler.distribution = nullptr;
  rig.options.handler.config_group = nullptr;
  rig.options.handler.process_group = nullptr;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.start();
  rig.manager->update_config({{AppGroup{"other"}, config_of(1)}});
  rig.manager->request(Uninstrument{AppGroup{"other"}});
  rig.manager->request(RetryFailed{});
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("generic_run 7"));
  CHECK(rig.is(7, ProcessState::generic));
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
}

// ---- generic factories

TEST_CASE("generic factories come before the distribution's, are configured alike, and are not reported") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.start();
  rig.manager->update_config({{AppGroup{"other"}, config_of(3)}});
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("run 7"));
  REQUIRE(rig.waits_for("generic_run 7"));
  Lines lines = rig.script->of(7);
  std::erase(lines, "generic_run");
  std::erase(lines, "run");
  CHECK(lines == Lines{"details", "distribution", "config_group", "process_group", "settings", "generic_create level=3", "generic_load",
                       "create level=3", "on_init ok", "load", "on_load ok probe"});
  CHECK(rig.instrumented() == 1);
  rig.manager->update_config({{AppGroup{"other"}, config_of(4)}});
  CHECK(rig.waits_for("apply 7 level=4"));
  CHECK(rig.waits_for("generic_apply 7 level=4"));
  rig.detector->exit(7);
  REQUIRE(rig.waits_for("on_exit 7 /bin/app"));
  lines = rig.script->of(7);
  CHECK(std::find(lines.begin(), lines.end(), "close") < std::find(lines.begin(), lines.end(), "generic_close"));
  CHECK(std::find(lines.begin(), lines.end(), "generic_ran") < std::find(lines.begin(), lines.end(), "on_exit /bin/app"));
  CHECK(rig.script->count("on_run 7 ok") == 1);
}

TEST_CASE("a process with only generic instrumentations is tracked and not counted") {
  Rig rig;
  rig.options.factories.clear();
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.is(7, ProcessState::generic));
  CHECK(rig.manager->stats().instrumented.empty());
  rig.detector->exec(7);  // it was seen already
  rig.settle();
  CHECK(rig.script->count("generic_create 7") == 1);
  rig.detector->exit(7);
  CHECK(rig.waits_for("on_exit 7 /bin/app"));
  CHECK(rig.script->has("generic_close 7"));
  CHECK_FALSE(rig.script->has("on_init 7 ok"));
}

TEST_CASE("failures of generic factories are logged, but for not_applicable, and nothing else becomes of them") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "first_"),
                                   std::make_shared<ScriptedFactory>(rig.script, "second_"),
                                   std::make_shared<ScriptedFactory>(rig.script, "third_")};
  rig.script->fail("first_create", "cannot create it");
  rig.script->fail("second_load", "cannot load it");
  rig.script->on("third_create", []() -> Result<void> { return Error{InstrumentErrc::not_applicable, "not mine"}; });
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.is(7, ProcessState::instrumented));
  CHECK(rig.logger.count("cannot create it") == 1);
  CHECK(rig.logger.count("cannot load it") == 1);
  CHECK(rig.logger.count("not mine") == 0);
  CHECK(rig.manager->stats().failed == 0);
  CHECK_FALSE(rig.script->has("second_close 7"));
  rig.manager->request(RetryFailed{});
  rig.settle();
  CHECK(rig.script->count("first_create 7") == 1);
}

TEST_CASE("generic factories that all pass are asked once for a process") {
  Rig rig;
  rig.options.factories.clear();
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.script->on("generic_create", []() -> Result<void> { return Error{InstrumentErrc::not_applicable, "not mine"}; });
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("generic_create 7"));
  rig.detector->other(ProcessEvent::Type::file_open, 7);
  rig.settle();
  CHECK(rig.script->count("generic_create 7") == 1);
  CHECK(rig.gone(7));
  rig.detector->exit(7);
  rig.settle();
  CHECK_FALSE(rig.script->has("on_exit 7 /bin/app"));
}

TEST_CASE("not_applicable of a distribution's factory is a failure") {
  Rig rig;
  rig.script->on("create", []() -> Result<void> { return Error{InstrumentErrc::not_applicable, "not mine"}; });
  rig.start();
  rig.detector->exec(7);
  CHECK(rig.waits_for("on_init 7 error: not mine"));
  CHECK(rig.is(7, ProcessState::failed));
}

TEST_CASE("a generic instrumentation whose run fails is logged and closed, and not reported") {
  Rig rig;
  rig.options.generic_factories = {std::make_shared<ScriptedFactory>(rig.script, "generic_")};
  rig.script->fail("generic_run", "ran dry");
  rig.start();
  rig.detector->exec(7);
  REQUIRE(rig.waits_for("generic_close 7"));
  CHECK(eventually([&] { return rig.logger.count("ran dry") == 1; }));
  CHECK(rig.is(7, ProcessState::instrumented));
  CHECK_FALSE(rig.script->has("on_run 7 error: ran dry"));
}
