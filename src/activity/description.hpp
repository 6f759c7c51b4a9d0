#pragma once
// How activities describe themselves as attributes, whether of spans or of the operations that they become.

#include <cstdint>
#include <string>
#include <string_view>

#include "weir/activity/redaction.hpp"
#include "weir/activity/tracker.hpp"
#include "weir/core/attribute.hpp"

namespace weir::inline v0::detail {

/// `value` without secrets. `buffer` holds what had to be written for that.
inline AttributeValue redacted(const Redactor& redactor, AttributeValue value, std::string& buffer) noexcept {
  if (value.type() != AttributeValue::Type::string || !redactor.redact_text(value.text(), buffer)) return value;
  return std::string_view(buffer);
}

/// Calls `set(Name, AttributeValue)`, which copies, for what an activity begins with.
template <class Set>
void describe_start(std::string_view operation, std::string_view subject, std::uint64_t id, std::string_view request_id,
                    Attributes attributes, const Redactor& redactor, Set&& set) {
  set("operation", operation);
  set("subject", subject);
  set("op_id", id);
  if (!request_id.empty()) set("request_id", request_id);
  std::string buffer;
  for (const Attribute& attribute : attributes) {
    if (redactor.is_sensitive(attribute.key.view()))
      set(attribute.key, Redactor::mark);
    else
      set(attribute.key, redacted(redactor, attribute.value, buffer));
  }
}

/// What `error` is called, for error.type: the type of what was thrown, else the code as "category:value"; empty: neither, or
/// no memory.
std::string error_type(const ActivityError& error) noexcept;

}  // namespace weir::inline v0::detail
