// Activities at the ends of threads and processes: exit_program does it, this looks at how it ends.
#include <string>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "support/process.hpp"

using weir::testing::Process;

namespace {

std::string end_of(const std::string& scenario) {
  Process program({WEIR_EXIT_PROGRAM, scenario});
  const int code = program.wait();
  return code == 0 ? program.err() : "it ended with " + std::to_string(code) + '\n' + program.err();
}

}  // namespace

TEST_CASE("activities work wherever a thread or the process ends") {
  const char* const scenario = GENERATE("static destructors, before and after", "an atexit handler", "inside an activity",
                                        "thread_local destructors", "destructors of thread-specific data", "quick_exit");
  CAPTURE(scenario);
  CHECK(end_of(scenario) == "");
}

#if !defined(WEIR_TESTS_TSAN)  // it does not know the main thread as one that can be joined
TEST_CASE("activities work when main has left and other threads go on") { CHECK(end_of("main leaves by pthread_exit") == ""); }
#endif

TEST_CASE("of what trackers throw the first of a minute is logged, with the tracker's type") {
  CHECK(end_of("trackers that throw") ==
        "weir: warning: an activity tracker threw an exception, which is dropped what=unknown exception tracker=main::Throws\n");
  CHECK(end_of("a tracker that throws at the end") ==
        "weir: warning: an activity tracker threw an exception, which is dropped what=the disk\\x0ais full "
        "tracker=main::LastWords::Following\n");
}
