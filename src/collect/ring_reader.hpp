#pragma once
// RingReader: reads the records that a service writes into shared memory (trace/detail/ring_layout.hpp), and believes none of
// it. The service may write there at any moment, whatever it likes.
//
//   descriptor ─ sealed against shrinking? ─▶ SharedMemory ─ a slot ─▶ RingReader ─ copy, then check ─▶ visitor
//
// What a reader does not do: read a word twice, follow an index or a length that it has not checked, read beyond the sizes
// that it knew when it mapped, wait. Its own position is what counts; the shared one is only told to the service.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "net/fd.hpp"
#include "weir/core/result.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace weir::inline v0::detail {

/// Pages of a memfd that a service has passed. Thread-safety: Distinct objects: safe. Shared: unsafe.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* at, std::size_t size) noexcept : at_(at), size_(size) {}
  Mapping(Mapping&& other) noexcept : at_(std::exchange(other.at_, nullptr)), size_(other.size_) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  explicit operator bool() const noexcept { return at_ != nullptr; }
  std::byte* bytes() const noexcept { return static_cast<std::byte*>(at_); }
  std::size_t size() const noexcept { return size_; }

 private:
  void* at_ = nullptr;
  std::size_t size_ = 0;
};

/// A descriptor whose size can never change, so that reading it is never a SIGBUS.
/// Thread-safety: Distinct objects: safe. Shared: safe to map from.
class SharedMemory {
 public:
  /// Errors: not a memfd, or one without the seals SHRINK, GROW and SEAL.
  static Result<SharedMemory> adopt(net::Fd fd);

  std::size_t size() const noexcept { return size_; }
  /// Empty: the kernel refuses. Requires: within size().
  Mapping map(std::size_t offset, std::size_t size, bool writable) const noexcept;

 private:
  SharedMemory(net::Fd fd, std::size_t size) noexcept : fd_(std::move(fd)), size_(size) {}
  net::Fd fd_;
  std::size_t size_;
};

/// What comes out of a ring: a private copy of one record, of a length that was checked.
class RecordVisitor {
 public:
  /// `record`: from a multiple of 16 on, at least sizeof(SpanRecord) bytes, exactly as long as its header says; may be written to.
  virtual void span(std::span<std::byte> record) = 0;

 protected:
  ~RecordVisitor() = default;
};

/// The records in `bytes`, one after the other. For the socket, where they come without a ring.
/// False: they are no records, from the first bad one on.
bool read_records(std::span<std::byte> bytes, RecordVisitor& visitor);

/// Thread-safety: Distinct objects: safe. Shared: unsafe.
class RingReader {
 public:
  static constexpr std::size_t min_capacity = 4096, max_capacity = std::size_t{1} << 30;
  static constexpr std::size_t block_bytes = 16 * 1024;  // copied at once
  /// Where records are copied to; may be shared by the readers of one thread.
  struct Buffer {
    alignas(64) std::byte block[block_bytes];
    std::vector<std::byte> large;  // one record
  };

  /// The ring in a slot of `memory`, from where its last reader left it. Errors: no ring of this version and capacity.
  static Result<RingReader> open(const SharedMemory& memory, std::size_t slot, std::size_t capacity);
  RingReader(RingReader&&) noexcept = default;
  RingReader& operator=(RingReader&&) noexcept = default;
  ~RingReader();  ///< says so in the ring

  /// Reads at most about `limit` bytes and acknowledges them. Returns how many there were.
  std::size_t read(RecordVisitor& visitor, Buffer& buffer, std::size_t limit);
  /// What was written can only be a lie: nothing more is read.
  bool broken() const noexcept { return broken_; }
  std::size_t capacity() const noexcept { return data_.size(); }
  /// Calls visit(SpanRecord) for each span that is open.
  template <class Visit>
  void for_each_open(Visit&& visit) const {
    for (std::size_t i = 0; i < open_slots; ++i) {
      SpanRecord copy;
      if (copy_open(i, copy)) visit(copy);
    }
  }
  /// Spans the service could not write, as it says.
  std::uint64_t dropped() const noexcept;

 private:
  RingReader(Mapping page, Mapping data) noexcept;
  RingPage& page() const noexcept { return *reinterpret_cast<RingPage*>(page_.bytes()); }
  bool copy_open(std::size_t slot, SpanRecord& out) const noexcept;

  Mapping page_, data_;
  std::uint64_t position_ = 0, taken_ = 0;
  bool broken_ = false;
};

}  // namespace weir::inline v0::detail
