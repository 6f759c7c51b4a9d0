#pragma once
// The queue of an audit trail and the thread that empties it into the file.
//
//   add ─▶ queue_ ─taken whole─▶ taken_ ─front of it as text─▶ AuditFile::append ─▶ acknowledged: taken out of taken_
//                                  ▲                                 │ fails
//                                  └── pause: 10 ms, doubled to 1 s ─┘
//
// Entries get their seq as text is made of them, so that one which is written again has the same, in another file too. A
// record may say that entries before it are missing; so does one without an entry, behind the last.
//
// The thread owns the writer together with the tracker: a tracker that is closed while the disk hangs goes without it.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "activity/audit_file.hpp"
#include "weir/activity/audit_tracker.hpp"

namespace weir::inline v0::detail {

/// Thread-safety: public functions: shared: safe. In the child of a fork they touch no lock, and do nothing but count.
class AuditWriter {
 public:
  using SteadyTime = std::chrono::steady_clock::time_point;
  enum class Drop { full, too_large, no_memory };

  AuditWriter(std::string path, AuditTrackerOptions options, std::unique_ptr<AuditFile> file);
  AuditWriter(const AuditWriter&) = delete;
  AuditWriter& operator=(const AuditWriter&) = delete;

  static Result<void> start(const std::shared_ptr<AuditWriter>& writer);

  const AuditTrackerOptions& options() const noexcept { return options_; }
  std::size_t max_entry_bytes() const noexcept;
  /// The time of an entry that is made now.
  Timestamp now() const noexcept;
  bool in_child() const noexcept { return forks_ != audit_forks(); }

  /// `text`: what AuditEntry makes.
  void add(Timestamp time, std::string text) noexcept;
  void drop(Drop reason) noexcept;
  AuditFlush flush(SteadyTime deadline) noexcept;
  Result<void> reopen(SteadyTime deadline);
  AuditFlush close(SteadyTime deadline) noexcept;
  AuditStats stats() const noexcept;

 private:
  struct Record {
    Timestamp time;
    std::string text;           // empty: only says what is missing
    std::uint64_t missing = 0;  // entries right before it
    std::size_t cost() const noexcept { return text.size() + sizeof(Record); }
  };
  struct Line {
    std::size_t end;  // in text_
    bool is_entry;
  };
  AuditFlush totals() const noexcept;
  void run() noexcept;
  bool wait_for_work();
  void round();
  void take();
  void make_text();
  void write();
  void acknowledge(std::size_t bytes);
  void failed(std::string_view what) noexcept;
  void works() noexcept;
  void switch_file();
  void replace_removed();
  Result<void> open_again(const AuditFile* current);
  void tell_what_was_cut() noexcept;
  /// To the logger.
  void say(Logger::Level level, std::string_view message, std::string_view what = {}) noexcept;
  /// Calls what is not ours, unless the tracker is gone: which waits until it has returned.
  template <class F>
  void call_out(F call) noexcept;
  Logger& logger() const noexcept { return options_.logger != nullptr ? *options_.logger : stderr_logger(); }

  const std::string path_;
  const AuditTrackerOptions options_;
  const unsigned forks_ = audit_forks();
  std::atomic<std::uint64_t> dropped_child_{0};

  mutable std::mutex mutex_;  // guards what follows, up to thread_
  std::condition_variable work_, done_;
  std::deque<Record> queue_;
  std::size_t bytes_ = 0;                                  // of all that is accepted and not acknowledged
  std::uint64_t missing_ = 0;                              // dropped since the last record
  SteadyTime next_report_{};                               // of drops
  AuditStats stats_;                                       // but for pending and dropped_child
  std::uint64_t dropped_ = 0;                              // while it was open
  std::uint64_t told_ = 0;                                 // of them, in the file
  bool retry_ = false;                                     // the disk is to be tried at once
  bool closing_ = false;                                   // no entry is taken any more
  bool abandoned_ = false;                                 // the tracker is gone, or about to be
  bool calling_ = false;                                   // what is not ours
  bool finished_ = false;                                  // the thread has nothing more to do
  std::uint64_t reopen_ticket_ = 0, reopened_ticket_ = 0;  // calls of reopen, and those that are done
  Result<void> reopened_;                                  // how the last of them went
  std::thread thread_;

  // The thread's own.
  std::unique_ptr<AuditFile> file_;
  std::uint64_t last_seq_;    // on the disk
  std::deque<Record> taken_;  // in order, each until it is acknowledged
  std::string text_;          // of the first of taken_
  std::vector<Line> lines_;   // of text_
  std::chrono::milliseconds pause_{0};
  SteadyTime next_try_{};
  bool complained_ = false;  // that it fails
  bool threw_ = false;       // on_acknowledged, and that was said
};

}  // namespace weir::inline v0::detail
