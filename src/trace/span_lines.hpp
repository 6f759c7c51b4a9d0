#pragma once
// SpanLines: span records as the JSON lines of docs/wire_format.md, byte for byte as to_json() writes their events, but for the order of
// attributes, which is that of the record. For Batch.
//
// A line is written through a bare pointer. There is room for its texts as they are, because that is how most of them go out; one
// that is not plain is appended with its escapes, and then there is room again for what comes behind it.

#include <cstddef>
#include <cstdint>
#include <forward_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/text_buffer.hpp"
#include "text/time.hpp"
#include "trace/record.hpp"
#include "weir/core/clock.hpp"

namespace weir::inline v0::detail {

/// Names as they stand between the quotes of JSON. What needs no escape lies in the name table; the others are made once.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class JsonNames {
 public:
  static constexpr std::size_t max_made_bytes = 4u << 20;  // then they are made anew

  /// Valid until the next call. Throws std::bad_alloc.
  std::string_view text(std::uint32_t id) {
    if (id < texts_.size() && texts_[id].data() != nullptr) [[likely]]
      return texts_[id];
    return add(id);
  }

 private:
  std::string_view add(std::uint32_t id);

  std::vector<std::string_view> texts_;  // by id; null: not asked for yet
  std::forward_list<std::string> made_;  // which takes no memory while it is empty: a sender is made in the child of a fork, too
  std::size_t made_bytes_ = 0;
};

/// Lines end with '\n'. Throws std::bad_alloc; then part of a line may have been appended.
/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class SpanLines {
 public:
  /// Appends the line of the start.
  void append_start(TextBuffer& out, const SpanRecord& span, const TickScale& scale);
  /// Appends both lines, or the second alone. Returns the size of the second.
  std::size_t append(TextBuffer& out, const RecordView& record, const TickScale& scale, bool start_is_out);

 private:
  struct Ids;
  char* put_start(char* to, const SpanRecord& span, const Ids& ids, std::string_view name, Timestamp time);

  JsonNames names_;
  TimeWriter times_;
};

}  // namespace weir::inline v0::detail
