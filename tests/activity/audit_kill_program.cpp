// audit_kill_program PATH: two threads report changes to the audit trail at PATH until somebody kills the process. What is
// acknowledged it prints, one line for each line of the trail: its seq and its checksum.
#include <unistd.h>
#include <cstdio>
#include <random>
#include <string>
#include <thread>

#include "activity/audit_checksum.hpp"
#include "weir/activity/audit_tracker.hpp"

using namespace weir;

namespace {

void print(const AuditAck& ack) {
  std::string text;
  std::uint64_t seq = ack.last_seq - ack.count;
  for (std::string_view rest = ack.lines; !rest.empty();) {
    const std::size_t size = rest.find('\n') + 1;
    text += std::to_string(++seq) + " " + std::to_string(testing::checksum(rest.substr(0, size))) + "\n";
    rest.remove_prefix(size);
  }
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t written = ::write(1, rest.data(), rest.size());
    if (written <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

void report_for_ever(AuditTracker& audit, unsigned seed) {
  std::mt19937 random(seed);
  const std::string text(8000, 'x');
  for (int id = 0;; ++id) {
    audit.start(Context(), "update", "user", {{"text", std::string_view(text).substr(0, random() % (random() % 8 == 0 ? 8000 : 200))}})
        .report_change(id);
    if (random() % 256 == 0) (void)audit.flush(std::chrono::minutes{1});
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  auto audit = AuditTracker::open(arguments[1], {.queue_bytes = 256 << 10, .on_acknowledged = print});
  if (!audit) {
    std::fprintf(stderr, "%s\n", audit.error().message.c_str());
    return 1;
  }
  std::thread other(report_for_ever, std::ref(**audit), std::random_device{}());
  report_for_ever(**audit, std::random_device{}());
}
