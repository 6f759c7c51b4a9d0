#include "view/viewer_queues.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

namespace weir::inline v0::detail {

void WriteBatch::add(What what, std::string_view bytes) {
  parts[count] = {const_cast<char*>(bytes.data()), bytes.size()};
  pieces[count++].what = what;
  size += bytes.size();
}

std::size_t WriteBatch::add(What what, const std::shared_ptr<LineBlock>& block, std::size_t line) {
  const std::size_t begin = block->begin_of(line), room = max_bytes - std::min(size, max_bytes - 1);
  std::size_t end_line = block->lines();
  if (block->size() - begin > room) end_line = std::max(block->line_at(begin + room), line + 1);
  pieces[count] = {what, block, line, end_line};
  add(what, {block->bytes() + begin, block->begin_of(end_line) - begin});
  return end_line;
}

void WriteBatch::clear() {
  while (count > 0) pieces[--count].block.reset();
  size = 0;
}

void ViewerQueues::join(Viewer& viewer) {
  viewer.next = log_.end_line();
  viewer.not_logged = not_logged_;
  ++following_;
}

void ViewerQueues::leave(const Viewer& viewer) {
  counters.abandoned += waiting(viewer);
  if (!viewer.once) --following_;
}

void ViewerQueues::add(std::string_view line) {
  counters.queued += following_;
  if (!line.empty() && log_.append(line)) {
    log_.trim_to_bytes(max_bytes_);
  } else {
    counters.dropped += following_;
    ++not_logged_;
  }
}

void ViewerQueues::add_past(Viewer& viewer, std::shared_ptr<LineBlock> past, std::uint64_t lost, bool once) {
  if (once) stop_following(viewer);
  counters.queued += lost + (past ? past->lines() : 0);
  counters.dropped += lost;
  viewer.untold += lost;
  if (!past || past->lines() == 0) return;
  viewer.past = std::move(past);
  drop_oldest(viewer);  // what was queued meanwhile takes its room first: it is newer
}

void ViewerQueues::answer(Viewer& viewer, std::string text) {
  stop_following(viewer);
  viewer.answer = std::move(text);
}

/// But for half a line it has nothing to get then.
void ViewerQueues::stop_following(Viewer& viewer) {
  counters.abandoned += waiting(viewer) - (viewer.half_of ? 1 : 0);
  viewer.past.reset();
  viewer.untold = 0;
  viewer.once = true;
  --following_;
}

std::uint64_t ViewerQueues::waiting(const Viewer& viewer) const {
  const std::uint64_t own = (viewer.half_of ? 1 : 0) + (viewer.past ? viewer.past->lines() - viewer.past_next : 0);
  return viewer.once ? own : own + (log_.end_line() - viewer.next);
}

void ViewerQueues::drop_oldest(Viewer& viewer) {
  if (viewer.sending || viewer.once) return;
  viewer.untold += not_logged_ - std::exchange(viewer.not_logged, not_logged_);
  const std::size_t room = max_bytes_ - std::min(viewer.half.size(), max_bytes_);
  std::uint64_t dropped = 0;
  if (viewer.past) {
    const std::size_t line = std::max(viewer.past_next, viewer.past->line_with(room - std::min(log_.bytes_from(viewer.next), room)));
    dropped += line - viewer.past_next;
    viewer.past_next = line;
    if (line == viewer.past->lines()) viewer.past.reset();
  }
  const std::uint64_t first = std::max(viewer.next, log_.line_with(room));
  dropped += first - viewer.next;
  viewer.next = first;
  viewer.untold += dropped;
  counters.dropped += dropped;
}

void ViewerQueues::fill(Viewer& viewer, WriteBatch& batch) {
  drop_oldest(viewer);
  if (!viewer.half.empty()) batch.add(WriteBatch::What::half, viewer.half);
  if (!viewer.answer.empty()) {
    if (!viewer.answered) batch.add(WriteBatch::What::answer, viewer.answer);
    return;
  }
  batch.told = viewer.untold;
  if (viewer.untold != 0) {
    char* end = std::copy_n("[\"dropped\",", 11, batch.notice.data());
    end = std::to_chars(end, batch.notice.data() + batch.notice.size(), viewer.untold).ptr;
    end = std::copy_n("]\n", 2, end);
    batch.add(WriteBatch::What::notice, {batch.notice.data(), end});
  }
  if (viewer.past) batch.add(WriteBatch::What::past, viewer.past, viewer.past_next);
  if (viewer.once) return;
  for (std::uint64_t line = viewer.next; line < log_.end_line() && !batch.full();) {
    const LineLog::Found found = log_.find(line);
    line += batch.add(WriteBatch::What::log, *found.block, found.line) - found.line;
  }
}

void ViewerQueues::take_sent(Viewer& viewer, const WriteBatch& batch, std::size_t sent) {
  for (std::size_t i = 0; i < batch.count && sent > 0; ++i) {
    const WriteBatch::Piece& piece = batch.pieces[i];
    const std::string_view bytes(static_cast<const char*>(batch.parts[i].iov_base), batch.parts[i].iov_len);
    const bool whole = sent >= bytes.size();
    const std::string_view rest = bytes.substr(std::min(sent, bytes.size()));
    switch (piece.what) {
      case WriteBatch::What::half:
        viewer.half = rest;
        if (whole && std::exchange(viewer.half_of, nullptr)) ++counters.sent;
        break;
      case WriteBatch::What::answer:
        viewer.answered = true;
        viewer.half = rest;
        break;
      case WriteBatch::What::notice:
        viewer.untold -= batch.told;
        if (!whole) {
          viewer.notice = batch.notice;
          viewer.half = {viewer.notice.data() + (rest.data() - batch.notice.data()), rest.size()};
        }
        break;
      case WriteBatch::What::past:
      case WriteBatch::What::log: {
        std::size_t line = piece.end_line;
        if (!whole) {
          const std::size_t offset = piece.block->begin_of(piece.line) + sent;
          line = piece.block->line_at(offset);
          if (piece.block->begin_of(line) < offset) {
            viewer.half = rest.substr(0, piece.block->begin_of(line + 1) - offset);
            viewer.half_of = piece.block;
          }
        }
        counters.sent += line - piece.line;
        const std::size_t gone = line - piece.line + (!whole && viewer.half_of ? 1 : 0);
        if (piece.what == WriteBatch::What::log) {
          viewer.next += gone;
        } else if ((viewer.past_next += gone) == viewer.past->lines()) {
          viewer.past.reset();
        }
      }
    }
    sent -= std::min(sent, bytes.size());
  }
}

}  // namespace weir::inline v0::detail
