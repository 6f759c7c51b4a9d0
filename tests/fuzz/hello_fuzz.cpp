// What a service may say on a connection: its hello, native lines and raw bytes after them, events, anything.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "collect/intake.hpp"
#include "net/line_splitter.hpp"

using namespace weir;
using namespace weir::detail;

namespace {

class Silent final : public Logger {
 public:
  void log(Level, std::string_view, std::span<const Attribute>) noexcept override {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Silent silent;
  SpanStore store;
  CollectorStats stats;
  std::mutex mutex;
  std::unique_lock held(mutex);
  const CollectorOptions options;
  std::uint64_t lost = 0;
  const LossCallback on_loss = [&](std::string_view, std::uint64_t spans) { lost += spans; };
  net::BufferBudget budget{1 << 20, 0};
  Intake intake(store, stats, held, on_loss, options, budget, silent);
  Source source{"fuzz"};
  const auto now = TimePoint{};
  net::LineSplitter lines(1 << 16, budget);
  std::string_view rest(reinterpret_cast<const char*>(data), size), line;
  std::uint64_t taken = 0;
  while (!rest.empty()) {
    if (source.native && source.native->wants_raw()) {
      intake.take_raw(rest, source, now);
    } else if (lines.next(rest, line) == net::LineSplitter::Got::line) {
      taken += intake.take(line, rest, source, now);
    }
    if (!source.reply.empty() && source.reply.find("[\"weir\",1,{\"native\":1,\"memory\":") != 0) std::abort();
    source.reply.clear();
  }
  if (source.service.size() > 256 || taken > stats.lines) std::abort();
  intake.ended(source, now);
  if (budget.used > (1 << 16) + 8) std::abort();  // half a line
  store.complete_all(now);
  const TraceStoreStats kept = store.stats();
  if (kept.pending != 0 || kept.open_traces != 0) std::abort();
  return 0;
}
