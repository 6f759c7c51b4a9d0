// What was changed, on the disk before anybody is told.
//
//   activities_audit FILE

#include <chrono>
#include <cstdio>
#include <weir/activity/audit_tracker.hpp>

#include "service.hpp"

int main(int count, char** arguments) {
  if (count != 2) return 2;
  auto audit = weir::AuditTracker::open(arguments[1], {.on_acknowledged = [](const weir::AuditAck& ack) {
                                          std::printf("on the disk up to %d\n", static_cast<int>(ack.last_seq));
                                        }});
  if (!audit) {
    std::fprintf(stderr, "%s\n", audit.error().message.c_str());
    return 1;
  }
  Accounts accounts(**audit);
  (void)accounts.withdraw({}, 1, 30);
  (void)accounts.withdraw({}, 2, 30);  // fails: nothing changes
  const weir::AuditFlush flushed = (*audit)->flush(std::chrono::seconds(10));
  return flushed.pending + flushed.dropped == 0 ? 0 : 1;
}
