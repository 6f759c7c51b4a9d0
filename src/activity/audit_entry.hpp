#pragma once
// The text of an audit entry, but for its time and seq, which the writer puts in front: what audit_tracker.hpp says, redacted.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "weir/activity/redaction.hpp"
#include "weir/activity/tracker.hpp"

namespace weir::inline v0::detail {

/// One activity's part of its entries. What it appends begins with the comma behind the seq and ends with the newline.
/// Everything may throw std::bad_alloc. Thread-safety: Distinct objects: safe. Shared: safe to read.
class AuditEntry {
 public:
  static constexpr std::size_t max_bytes = 1000u << 10;  ///< with time and seq it fits a batch of AuditFile
  static constexpr std::size_t max_text_bytes = Redactor::max_json_bytes;

  AuditEntry(const Redactor& redactor, ActivityStart& start);

  /// Both: without the attributes and the data if it were longer than `limit` with them.
  std::string change(const Redactor& redactor, ActivityChange& change, std::size_t limit) const;
  std::string failure(const Redactor& redactor, const ActivityError& error, std::size_t limit) const;

 private:
  std::string head_;         // from "operation" to "attributes"
  std::size_t without_ = 0;  // of head_: where the attributes begin
};

}  // namespace weir::inline v0::detail
