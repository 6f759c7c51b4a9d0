#pragma once
// ViewClient: receives completed spans from a ViewServer (ours or the original's).

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"
#include "weir/trace/span.hpp"

namespace weir::inline v0 {

/// Thread-safety: Distinct objects: safe. Shared: unsafe, but for the stop token given to run().
class ViewClient {
 public:
  explicit ViewClient(std::string socket_path);

  /// Called when the server says that it dropped lines for us, with their number. Set before run().
  void on_dropped(std::function<void(std::uint64_t count)> callback);

  /// Connects and calls `on_span` for each span until stop is requested or the server closes the connection, which both
  /// return success. Errors: nothing to connect to. Lines over 1 MiB and lines that do not parse are skipped.
  Result<void> run(const StopToken& stop, const std::function<void(std::string_view trace_id, const Span&)>& on_span);

  std::uint64_t skipped_lines() const noexcept { return skipped_; }

 private:
  std::string socket_path_;
  std::function<void(std::uint64_t)> on_dropped_;
  std::uint64_t skipped_ = 0;
};

}  // namespace weir::inline v0
