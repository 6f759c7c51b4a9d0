#include "activity/audit_writer.hpp"

#include <pthread.h>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "activity/audit_entry.hpp"
#include "text/json.hpp"
#include "text/time.hpp"
#include "weir/operation/detail/slot.hpp"

namespace weir::inline v0::detail {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::size_t kept_bytes = 64u << 10;  // of buffers, when there is nothing to write
constexpr std::size_t max_line_start = 128;    // its time and seq, and the line of what is missing before it

void append_line_start(std::string& out, Timestamp time, std::uint64_t seq) {
  out += R"({"time":")";
  append_time(out, time);
  out += R"(","seq":)";
  append_integer(out, static_cast<std::int64_t>(seq));
}

}  // namespace

AuditWriter::AuditWriter(std::string path, AuditTrackerOptions options, std::unique_ptr<AuditFile> file)
    : path_(std::move(path)), options_(std::move(options)), file_(std::move(file)), last_seq_(file_->last_seq()) {
  tell_what_was_cut();
}

Result<void> AuditWriter::start(const std::shared_ptr<AuditWriter>& writer) {
  sigset_t all, previous;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &previous);  // signals are the program's
  Result<void> result;
  try {
    std::lock_guard lock(writer->mutex_);
    writer->thread_ = std::thread([writer] { writer->run(); });
  } catch (const std::system_error& thrown) {
    result = Error{thrown.code(), "cannot start the thread that writes the audit trail " + writer->path_ + ": " + thrown.what()};
  }
  ::pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  return result;
}

std::size_t AuditWriter::max_entry_bytes() const noexcept { return std::min(AuditEntry::max_bytes, options_.queue_bytes - sizeof(Record)); }

Timestamp AuditWriter::now() const noexcept {
  return options_.clock != nullptr ? options_.clock->now() : Timestamp{std::chrono::system_clock::now()};
}

// ---- any thread

void AuditWriter::add(Timestamp time, std::string text) noexcept {
  if (in_child()) return drop(Drop::full);
  if (text.size() > max_entry_bytes()) return drop(Drop::too_large);
  Drop reason = Drop::full;
  {
    std::lock_guard lock(mutex_);
    const std::size_t cost = text.size() + sizeof(Record);
    if (closing_) {
      ++stats_.dropped_late;
      return;
    }
    if (bytes_ + cost <= options_.queue_bytes) {
      try {
        queue_.push_back({time, std::move(text), missing_});
        missing_ = 0;
        bytes_ += cost;
        ++stats_.accepted;
        work_.notify_one();
        return;
      } catch (const std::bad_alloc&) {
        reason = Drop::no_memory;
      }
    }
  }
  drop(reason);
}

void AuditWriter::drop(Drop reason) noexcept {
  if (in_child()) {
    dropped_child_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  std::uint64_t dropped = 0;
  {
    std::lock_guard lock(mutex_);
    if (closing_) {
      ++stats_.dropped_late;
      return;
    }
    ++(reason == Drop::full ? stats_.dropped_full : reason == Drop::too_large ? stats_.dropped_too_large : stats_.dropped_no_memory);
    ++missing_;
    ++dropped_;
    work_.notify_one();
    const SteadyTime now = steady_clock::now();
    if (now < next_report_) return;
    next_report_ = now + std::chrono::minutes{1};
    dropped = stats_.dropped();
  }
  const Attribute attributes[] = {{"path", path_},
                                  {"reason", std::string_view(reason == Drop::full        ? "the queue is full"
                                                              : reason == Drop::too_large ? "too large"
                                                                                          : "out of memory")},
                                  {"dropped", dropped}};
  logger().log(Logger::Level::error, "entries of the audit trail are dropped", attributes);
}

AuditFlush AuditWriter::totals() const noexcept {
  const std::uint64_t pending = stats_.accepted - stats_.acknowledged - stats_.dropped_closed;
  return {stats_.acknowledged, pending, stats_.dropped()};
}

AuditStats AuditWriter::stats() const noexcept {
  AuditStats stats;
  if (in_child()) {
    stats.dropped_child = dropped_child_.load(std::memory_order_relaxed);
    return stats;
  }
  std::lock_guard lock(mutex_);
  stats = stats_;
  stats.pending = totals().pending;
  return stats;
}

AuditFlush AuditWriter::flush(SteadyTime deadline) noexcept {
  if (in_child()) return {0, 0, dropped_child_.load(std::memory_order_relaxed)};
  const NoCancellation no_cancellation;
  std::unique_lock lock(mutex_);
  const std::uint64_t accepted = stats_.accepted, dropped = dropped_;
  retry_ = true;
  work_.notify_one();
  if (thread_.get_id() != std::this_thread::get_id()) {
    done_.wait_until(lock, deadline, [&] { return finished_ || abandoned_ || (stats_.acknowledged >= accepted && told_ >= dropped); });
  }
  return totals();
}

Result<void> AuditWriter::reopen(SteadyTime deadline) {
  const auto refused = [this](const char* why) {
    return Error{std::make_error_code(std::errc::operation_not_permitted), "the audit trail " + path_ + " is not reopened " + why};
  };
  if (in_child()) return refused("in the child of a fork; open one there");
  const NoCancellation no_cancellation;
  std::unique_lock lock(mutex_);
  if (closing_) return refused("once it is closed");
  if (thread_.get_id() == std::this_thread::get_id()) return refused("by a callback of its writer; another thread must do it");
  const std::uint64_t ticket = ++reopen_ticket_;
  work_.notify_one();
  done_.wait_until(lock, deadline, [&] { return finished_ || abandoned_ || reopened_ticket_ >= ticket; });
  if (reopened_ticket_ >= ticket) return reopened_;
  if (finished_ || abandoned_) return refused("once it is closed");
  return Error{std::make_error_code(std::errc::timed_out),
               "the audit trail " + path_ + " is not reopened yet: the disk does not answer; it will be when it does"};
}

AuditFlush AuditWriter::close(SteadyTime deadline) noexcept {
  constexpr milliseconds grace{50};
  if (in_child()) return {0, 0, dropped_child_.load(std::memory_order_relaxed)};
  const NoCancellation no_cancellation;
  std::unique_lock lock(mutex_);
  closing_ = true;
  retry_ = true;
  work_.notify_one();
  if (thread_.get_id() == std::this_thread::get_id()) return totals();
  done_.wait_until(lock, deadline, [&] { return finished_ || abandoned_; });
  if (!finished_) {
    abandoned_ = true;
    work_.notify_one();
    done_.wait(lock, [&] { return !calling_; });
    done_.wait_until(lock, steady_clock::now() + grace, [&] { return finished_; });
  }
  std::thread thread = std::move(thread_);
  const bool finished = finished_;
  const std::uint64_t lost = totals().pending;
  stats_.dropped_closed += lost;
  const AuditFlush result = totals();
  lock.unlock();
  if (thread.joinable()) finished ? thread.join() : thread.detach();
  if (lost != 0) {
    const Attribute attributes[] = {{"path", path_}, {"dropped", lost}};
    logger().log(Logger::Level::error, "the audit trail was closed before all of its entries were on the disk", attributes);
  }
  return result;
}

// ---- the writer's thread

void AuditWriter::run() noexcept {
  ::pthread_setname_np(::pthread_self(), "weir-audit");
  while (wait_for_work()) {
    try {
      round();
    } catch (const std::bad_alloc&) {
      failed("out of memory");
    }
  }
  file_.reset();
  std::lock_guard lock(mutex_);
  finished_ = true;
  done_.notify_all();
}

/// False: the end.
bool AuditWriter::wait_for_work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (abandoned_) return false;
    if (reopened_ticket_ != reopen_ticket_) return true;
    const bool nothing = taken_.empty() && queue_.empty() && missing_ == 0;
    if (nothing && closing_) return false;
    if (nothing) {
      work_.wait(lock);
    } else if (pause_ == pause_.zero() || retry_ || steady_clock::now() >= next_try_) {
      retry_ = false;
      return true;
    } else {
      work_.wait_until(lock, next_try_);
    }
  }
}

void AuditWriter::round() {
  switch_file();
  if (taken_.empty()) take();
  if (taken_.empty()) return;
  make_text();
  write();
  if (!taken_.empty()) return;
  if (text_.capacity() > kept_bytes) text_ = {};
  if (lines_.capacity() > kept_bytes / sizeof(Line)) lines_ = {};
}

void AuditWriter::take() {
  const Timestamp time = now();
  std::lock_guard lock(mutex_);
  taken_.swap(queue_);
  if (missing_ == 0) return;
  taken_.push_back({time, {}, missing_});
  missing_ = 0;
}

void AuditWriter::make_text() {
  text_.clear();
  lines_.clear();
  std::uint64_t seq = last_seq_;
  for (const Record& record : taken_) {
    if (text_.size() + record.text.size() + max_line_start > AuditFile::max_batch_bytes) break;
    if (record.missing != 0) {
      append_line_start(text_, record.time, ++seq);
      text_ += R"(,"dropped":)";
      append_integer(text_, static_cast<std::int64_t>(record.missing));
      text_ += "}\n";
      lines_.push_back({text_.size(), false});
    }
    if (!record.text.empty()) {
      append_line_start(text_, record.time, ++seq);
      text_ += record.text;
      lines_.push_back({text_.size(), true});
    }
  }
}

void AuditWriter::write() {
  const AuditFile::Appended result = file_->append(text_);
  if (result.durable != 0) acknowledge(result.durable);
  if (result.removed) {
    replace_removed();
  } else if (result.failed != nullptr) {
    failed(std::string(result.failed) + ": " + std::system_category().message(result.error));
  } else {
    works();
  }
}

void AuditWriter::acknowledge(std::size_t bytes) {
  std::uint64_t entries = 0, told = 0;
  std::size_t cost = 0, count = 0;
  for (; count < lines_.size() && lines_[count].end <= bytes; ++count) {
    Record& record = taken_.front();
    if (lines_[count].is_entry) {
      ++entries;
      cost += record.cost();
    } else {
      told += std::exchange(record.missing, 0);
    }
    if (lines_[count].is_entry || record.text.empty()) taken_.pop_front();
  }
  last_seq_ += count;
  if (options_.on_acknowledged) {
    call_out([&] { options_.on_acknowledged({last_seq_, count, std::string_view(text_).substr(0, bytes)}); });
  }
  std::lock_guard lock(mutex_);
  if (abandoned_) return;
  stats_.acknowledged += entries;
  ++stats_.batches;
  stats_.bytes += bytes;
  told_ += told;
  bytes_ -= cost;
  done_.notify_all();
}

template <class F>
void AuditWriter::call_out(F call) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (abandoned_) return;
    calling_ = true;
  }
  try {
    call();
  } catch (...) {
    if (!std::exchange(threw_, true))
      logger().log(Logger::Level::error, "a callback of the audit trail threw an exception, which is dropped", {{{"path", path_}}});
    std::lock_guard lock(mutex_);
    ++stats_.failures;
  }
  std::lock_guard lock(mutex_);
  calling_ = false;
  done_.notify_all();
}

void AuditWriter::say(Logger::Level level, std::string_view message, std::string_view what) noexcept {
  call_out([&] {
    const Attribute attributes[] = {{"path", path_}, {"what", what}};
    logger().log(level, message, std::span(attributes, what.empty() ? 1 : 2));
  });
}

void AuditWriter::failed(std::string_view what) noexcept {
  constexpr milliseconds first_pause{10}, longest_pause{1000};
  pause_ = pause_ == pause_.zero() ? first_pause : std::min(2 * pause_, longest_pause);
  next_try_ = steady_clock::now() + pause_;
  {
    std::lock_guard lock(mutex_);
    ++stats_.failures;
  }
  if (!std::exchange(complained_, true))
    say(Logger::Level::error, "the audit trail cannot be written; entries wait until the queue is full", what);
}

void AuditWriter::works() noexcept {
  pause_ = pause_.zero();
  if (std::exchange(complained_, false)) say(Logger::Level::info, "the audit trail is written again");
}

void AuditWriter::switch_file() {
  std::uint64_t ticket = 0;
  {
    std::lock_guard lock(mutex_);
    ticket = reopen_ticket_;
    if (reopened_ticket_ == ticket) return;
  }
  Result<void> result = Error{std::make_error_code(std::errc::not_enough_memory), {}};
  try {
    result = open_again(file_.get());
  } catch (const std::bad_alloc&) {}
  std::lock_guard lock(mutex_);
  reopened_ticket_ = ticket;
  reopened_ = std::move(result);
  done_.notify_all();
}

void AuditWriter::replace_removed() {
  const Result<void> opened = open_again(nullptr);
  if (!opened) return failed("it was removed, and no new one can be made: " + opened.error().message);
  say(Logger::Level::warning, "the file of the audit trail was removed; a new one goes on");
}

Result<void> AuditWriter::open_again(const AuditFile* current) {
  Result<std::unique_ptr<AuditFile>> opened = AuditFile::open(path_, options_.mode, current);
  if (!opened) return std::move(opened).error();
  if (*opened == nullptr) return {};
  file_ = std::move(*opened);
  last_seq_ = std::max(last_seq_, file_->last_seq());
  tell_what_was_cut();
  return {};
}

void AuditWriter::tell_what_was_cut() noexcept {
  if (file_->cut_bytes() == 0) return;
  call_out([&] {
    const Attribute attributes[] = {{"path", path_}, {"bytes", file_->cut_bytes()}};
    logger().log(Logger::Level::warning, "the audit trail ended in what a crash had left of entries that were never acknowledged: cut off",
                 attributes);
  });
}

}  // namespace weir::inline v0::detail
