// Processes that end while operations are in use: every way to end, every place from which operations may be used then. What
// they use of something destroyed shows in a sanitizer's report, which the exit status may hide: these are looked for.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/scratch_dir.hpp"

using namespace weir::testing;

namespace {

std::string with_log_path(const char* variable, const std::string& path) {
  const char* given = std::getenv(variable);
  return std::string(given != nullptr ? given : "") + ":log_path=" + path;
}

/// What sanitizers have written to files in `dir`.
std::string reports(const std::string& dir) {
  std::ostringstream text;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) text << std::ifstream(entry.path()).rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("operations may be used until the process has ended, however it ends") {
  const std::string scenario =
      GENERATE("main returns", "a static root scope", "inside an operation", "inside a listener",
               "inside a listener, with an atexit handler", "an atexit handler", "static destructors, before and after",
               "static operations", "thread_local destructors", "quick_exit", "detached threads", "detached threads, and another one exits",
               "detached threads, swapping", "detached threads and a static root scope", "main ends by pthread_exit");
  INFO(scenario);
#if defined(__SANITIZE_THREAD__)  // it does not survive its main thread
  if (scenario == "main ends by pthread_exit") return;
#endif
  const ScratchDir dir;
  Process program({WEIR_EXIT_PROGRAM, scenario}, {{"ASAN_OPTIONS", with_log_path("ASAN_OPTIONS", dir / "report")},
                                                  {"TSAN_OPTIONS", with_log_path("TSAN_OPTIONS", dir / "report")}});
  const int status = program.wait();
  CHECK(status == 0);
  CHECK(program.err() == "");
  CHECK(reports(dir / "") == "");
}
