#include "collect/ring_reader.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "trace/record.hpp"

namespace weir::inline v0::detail {

namespace {

enum class Found { span, pad, cut, lie };

/// What is at the front of `bytes` (a private copy). `cut`: a record that is longer than they are, and may well be one.
Found look_at(std::span<const std::byte> bytes, std::size_t& length) noexcept {
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  length = record_bytes(header);
  if (length == 0 || length % record_alignment != 0 || length > max_record_bytes) return Found::lie;
  switch (record_type(header)) {
    case RecordType::span:
      if (length < sizeof(SpanRecord)) return Found::lie;
      return length > bytes.size() ? Found::cut : Found::span;
    case RecordType::pad: return length > bytes.size() ? Found::cut : Found::pad;
  }
  return Found::lie;
}

struct Parsed {
  std::size_t bytes = 0;  // of whole records at the front
  std::uint64_t spans = 0;
  Found stopped_at = Found::span;  // cut or lie, if there is more
  std::size_t next_length = 0;     // of what was cut
};

Parsed parse(std::span<std::byte> block, RecordVisitor& visitor) {
  Parsed parsed;
  while (parsed.bytes < block.size()) {
    std::size_t length = 0;
    const Found found = look_at(block.subspan(parsed.bytes), length);
    if (found == Found::cut || found == Found::lie) {
      parsed.stopped_at = found;
      parsed.next_length = length;
      break;
    }
    if (found == Found::span) {
      visitor.span(block.subspan(parsed.bytes, length));
      ++parsed.spans;
    }
    parsed.bytes += length;
  }
  return parsed;
}

}  // namespace

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(at_, other.at_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (at_ != nullptr) ::munmap(at_, size_);
}

Result<SharedMemory> SharedMemory::adopt(net::Fd fd) {
  constexpr int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & needed) != needed) {
    return Error{std::make_error_code(std::errc::invalid_argument),
                 "a descriptor whose memory is not sealed against shrinking and growing"};
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0 || status.st_size <= 0) {
    return Error{std::make_error_code(std::errc::invalid_argument), "a descriptor of no memory"};
  }
  return SharedMemory(std::move(fd), static_cast<std::size_t>(status.st_size));
}

Mapping SharedMemory::map(std::size_t offset, std::size_t size, bool writable) const noexcept {
  void* at = ::mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd_.get(), static_cast<off_t>(offset));
  return at == MAP_FAILED ? Mapping() : Mapping(at, size);
}

bool read_records(std::span<std::byte> bytes, RecordVisitor& visitor) {
  return bytes.size() % record_alignment == 0 && parse(bytes, visitor).bytes == bytes.size();
}

RingReader::RingReader(Mapping page, Mapping data) noexcept : page_(std::move(page)), data_(std::move(data)) {}

Result<RingReader> RingReader::open(const SharedMemory& memory, std::size_t slot, std::size_t capacity) {
  const auto refuse = [](const char* why) { return Error{std::make_error_code(std::errc::invalid_argument), why}; };
  if (!std::has_single_bit(capacity) || capacity < min_capacity || capacity > max_capacity)
    return refuse("a ring of an impossible capacity");
  const std::size_t slot_bytes = sizeof(RingPage) + capacity;
  if (slot >= memory.size() / slot_bytes) return refuse("a ring outside its memory");
  RingReader reader(memory.map(slot * slot_bytes, sizeof(RingPage), true),
                    memory.map(slot * slot_bytes + sizeof(RingPage), capacity, false));
  if (!reader.page_ || !reader.data_) return system_error(errno, "cannot map a ring");
  const RingPage& page = reader.page();
  if (page.magic != ring_magic || page.version != ring_version || page.capacity != capacity)
    return refuse("memory that holds no ring of version 1");
  const Acknowledgement last = acknowledged(page);
  const std::uint64_t head = page.head.load(std::memory_order_acquire);
  // A position that cannot be is a lie of the service, or of its last reader: nothing of that can be used.
  if (head - last.tail > capacity || last.tail % record_alignment != 0) return refuse("a ring whose positions cannot be");
  reader.page().reader_left.store(0, std::memory_order_relaxed);
  reader.position_ = last.tail;
  reader.taken_ = last.taken;
  return reader;
}

RingReader::~RingReader() {
  if (page_) page().reader_left.store(1, std::memory_order_release);  // after the last acknowledgement
}

std::size_t RingReader::read(RecordVisitor& visitor, Buffer& buffer, std::size_t limit) {
  if (broken_) return 0;
  const std::uint64_t head = page().head.load(std::memory_order_acquire);
  std::uint64_t available = head - position_;
  if (available > capacity() || available % record_alignment != 0) {
    broken_ = true;
    return 0;
  }
  std::size_t total = 0;
  while (available != 0 && total < limit) {
    const std::size_t offset = position_ & (capacity() - 1), to_lap_end = capacity() - offset;
    const std::size_t contiguous = std::min<std::size_t>(available, to_lap_end);
    std::span<std::byte> block(buffer.block, std::min(contiguous, block_bytes));
    std::memcpy(block.data(), data_.bytes() + offset, block.size());
    Parsed parsed = parse(block, visitor);
    if (parsed.bytes == 0 && parsed.stopped_at == Found::cut && parsed.next_length <= contiguous) {
      try {
        buffer.large.resize(parsed.next_length);
      } catch (const std::bad_alloc&) {
        return total;  // it is tried again
      }
      std::memcpy(buffer.large.data(), data_.bytes() + offset, buffer.large.size());
      // The same length again, or it is another record than the one that was looked at.
      const std::size_t length = parsed.next_length;
      parsed = parse(buffer.large, visitor);
      if (parsed.bytes != length) parsed = {};
      if (buffer.large.capacity() > 4 * block_bytes) std::vector<std::byte>().swap(buffer.large);
    }
    if (parsed.bytes == 0) {
      broken_ = true;
      return total;
    }
    position_ += parsed.bytes;
    taken_ += parsed.spans;
    available -= parsed.bytes;
    total += parsed.bytes;
    acknowledge(page(), {position_, taken_});
    if (parsed.stopped_at == Found::lie || (parsed.stopped_at == Found::cut && parsed.bytes < block.size() && block.size() == contiguous)) {
      broken_ = true;
      return total;
    }
  }
  return total;
}

bool RingReader::copy_open(std::size_t slot, SpanRecord& out) const noexcept { return copy_open_span(page().open[slot], out); }

std::uint64_t RingReader::dropped() const noexcept {
  return page().dropped_full.load(std::memory_order_relaxed) + page().dropped_too_large.load(std::memory_order_relaxed);
}

}  // namespace weir::inline v0::detail
