// Activities as log lines.
//
//   activities_log            text, to stdout
//   activities_log FILE       JSON, appended to a file by a thread of its own

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <weir/activity/log_tracker.hpp>

#include "service.hpp"

void use(weir::ActivityTracker& tracker) {
  const weir::Context request = weir::Context().with_request_id("r-17");
  Accounts accounts(tracker);
  (void)accounts.withdraw(request, 1, 30);
  (void)accounts.withdraw(request, 2, 30);

  weir::Activity activity = tracker.start(request, "log in", "user", {{"name", "ada"}, {"password", "hunter2"}});
  activity.report_error(std::runtime_error("refused: token=abc123\nsee the manual"));
}

void log_to_stdout() {
  weir::LogTracker log{[](const weir::LogLine& line) { std::fwrite(line.text.data(), 1, line.text.size(), stdout); }};
  use(log);
}

int log_to_file(const char* path) {
  auto file = weir::FileSink::open(path);
  if (!file) {
    std::fprintf(stderr, "%s\n", file.error().message.c_str());
    return 1;
  }
  weir::LogTracker log{*std::move(file), {.format = weir::LogFormat::json, .asynchronous = true}};
  use(log);
  const bool written = log.flush();  // the destructor does the same, and exit()
  const weir::LogStats stats = log.stats();
  return written && stats.lost_full + stats.lost_by_sink == 0 ? 0 : 1;
}

int main(int count, char** arguments) {
  if (count > 1) return log_to_file(arguments[1]);
  log_to_stdout();
}
