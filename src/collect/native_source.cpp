#include "collect/native_source.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "text/utf8.hpp"
#include "weir/core/attribute.hpp"
#include "weir/core/detail/copy_padded.hpp"
#include "weir/trace/detail/name_table.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t turn_bytes = 4u << 20;  // of one service in a turn, about: the others and who asks for statistics wait meanwhile
constexpr std::chrono::seconds open_for{1};   // as long as a span must be open to be taken in before its end

Error useless(const char* why) { return Error{std::make_error_code(std::errc::invalid_argument), why}; }

std::optional<net::Fd> take_first(std::vector<net::Fd>& passed) {
  if (passed.empty()) return std::nullopt;
  net::Fd first = std::move(passed.front());
  passed.erase(passed.begin());
  return first;
}

}  // namespace

NativeSource::~NativeSource() {
  release_rings();
  release_raw();
}

void NativeSource::release_rings() noexcept {
  bounds_.rings -= rings_.size();
  bounds_.bytes -= rings_.size() * (sizeof(RingPage) + capacity_);
  rings_.clear();
}

void NativeSource::give_up_memory() noexcept {
  release_rings();
  memory_.reset();
  if (!std::exchange(gave_up_, true)) tell_gave_up_ = true;
}

Result<void> NativeSource::take_line(const ControlLine& line, std::vector<net::Fd>& passed) {
  const std::string& name = line.name;
  if (name == "wake") {
    woken_ = true;
    return {};
  }
  if (name == "clock") return take_clock(line);
  if (name == "rings" || name == "memory" || (name == "names" && line.values.empty())) {
    Result<void> taken = name == "rings" ? take_rings(line) : name == "memory" ? take_memory(line, passed) : take_shared_names(passed);
    if (!taken) give_up_memory();
    return taken;
  }
  // ["names",bytes], ["records",bytes]: followed by as many bytes
  const std::optional<std::uint64_t> bytes = line.value(0).unsigned_integer();
  if ((name != "names" && name != "records") || !bytes || *bytes == 0 || *bytes > max_raw)
    return useless("a native line that is not understood");
  raw_kind_ = name == "names" ? Raw::names : Raw::records;
  raw_left_ = *bytes;
  raw_.clear();
  return {};
}

Result<void> NativeSource::take_shared_names(std::vector<net::Fd>& passed) {
  std::optional<net::Fd> fd = take_first(passed);
  if (!fd) return useless("names without a descriptor");
  Result<SharedMemory> memory = SharedMemory::adopt(std::move(*fd));
  if (!memory) return memory.error();
  if (names_memory_ || memory->size() < NameTable::shared_bytes) return useless("names in memory that is too small, or a second time");
  Mapping names = memory->map(0, NameTable::shared_bytes, false);
  if (!names) return system_error(errno, "cannot map the names of a service");
  struct {
    std::uint64_t magic;
    std::uint32_t version, pid;
  } head{};
  std::memcpy(&head, names.bytes(), sizeof head);
  if (head.magic != names_magic || head.version != ring_version) return useless("memory that holds no names of version 1");
  names_memory_ = std::move(names);
  return {};
}

Result<void> NativeSource::take_clock(const ControlLine& line) {
  const std::optional<std::uint64_t> ticks = line.value(0).unsigned_integer();
  const std::optional<std::int64_t> wall = line.value(1).integer();
  const std::optional<double> ratio = line.value(2).any_number();
  if (!ticks || !wall || !ratio) return useless("a clock that is not understood");
  const TickScale clock{*ticks, *wall, *ratio};
  if (!std::isfinite(clock.nanos_per_tick) || clock.nanos_per_tick < 0) return useless("a clock that does not run forwards");
  clock_ = clock;
  return {};
}

Result<void> NativeSource::take_memory(const ControlLine& line, std::vector<net::Fd>& passed) {
  std::optional<net::Fd> fd = take_first(passed);
  const std::optional<std::uint64_t> capacity = line.value(0).unsigned_integer();
  if (!fd || !capacity || memory_ || gave_up_) return useless("memory without a descriptor or a capacity, or a second time");
  Result<SharedMemory> memory = SharedMemory::adopt(std::move(*fd));
  if (!memory) return memory.error();
  capacity_ = *capacity;
  memory_.emplace(std::move(memory).value());
  return {};
}

Result<void> NativeSource::take_rings(const ControlLine& line) {
  const std::optional<std::uint64_t> count = line.value(0).unsigned_integer();
  if (!count || !memory_ || !names_memory_) return useless("rings without memory and names");
  while (rings_.size() < *count) {
    const std::size_t bytes = sizeof(RingPage) + capacity_;
    if (bounds_.rings >= bounds_.max_rings || capacity_ > bounds_.max_bytes || bounds_.bytes + bytes > bounds_.max_bytes) {
      return useless("more rings than max_rings or max_ring_bytes allow");
    }
    Result<RingReader> ring = RingReader::open(*memory_, rings_.size(), capacity_);
    if (!ring) return ring.error();
    rings_.push_back(std::move(ring).value());
    ++bounds_.rings;
    bounds_.bytes += bytes;
  }
  woken_ = true;
  return {};
}

Result<void> NativeSource::take_raw(std::string_view& data, TimePoint now) {
  const std::size_t size = std::min(raw_left_, data.size());
  const auto* from = reinterpret_cast<const std::byte*>(data.data());
  const bool lacks_room = raw_kind_ != Raw::skipped && !make_raw_room(size);
  if (lacks_room) raw_kind_ = Raw::skipped;
  if (raw_kind_ != Raw::skipped) raw_.insert(raw_.end(), from, from + size);
  data.remove_prefix(size);
  raw_left_ -= size;
  if (lacks_room) return Error{std::make_error_code(std::errc::not_enough_memory), "no room for native bytes (max_buffered)"};
  if (raw_left_ != 0 || raw_kind_ == Raw::skipped) return {};
  now_ = now;
  const bool good = raw_kind_ == Raw::names ? take_names(raw_) : read_records(raw_, *this);
  if (raw_.capacity() > 4 * RingReader::block_bytes) release_raw();
  if (good) return {};
  return useless(raw_kind_ == Raw::names ? "names that are none" : "records that are none");
}

/// It grows as the bytes come, not as they were announced.
bool NativeSource::make_raw_room(std::size_t more) {
  const std::size_t before = raw_.capacity(), needed = raw_.size() + more;
  if (needed <= before) return true;
  const std::size_t wanted = std::min(std::max<std::size_t>(std::bit_ceil(needed), 4096), raw_.size() + raw_left_);
  if (budget_.used - before + wanted > budget_.limit) {
    release_raw();
    return false;
  }
  try {
    raw_.reserve(wanted);
  } catch (const std::bad_alloc&) {
    release_raw();
    return false;
  }
  budget_.used += raw_.capacity() - before;
  return true;
}

void NativeSource::release_raw() noexcept {
  budget_.used -= raw_.capacity();
  std::vector<std::byte>().swap(raw_);
}

std::size_t NativeSource::drain(std::size_t limit, TimePoint now) {
  now_ = now;
  std::size_t bytes = 0;
  for (std::size_t left = rings_.size(); left > 0 && bytes < turn_bytes; --left, ++next_ring_) {
    if (next_ring_ >= rings_.size()) next_ring_ = 0;
    RingReader& ring = rings_[next_ring_];
    if (ring.broken()) continue;
    bytes += ring.read(*this, buffer_, limit);
    if (ring.broken()) ++stats_.broken_rings;
  }
  return bytes;
}

void NativeSource::look_for_open(TimePoint now) {
  const Timestamp before = std::chrono::system_clock::now() - open_for;
  for (const RingReader& ring : rings_) {
    ring.for_each_open([&](const SpanRecord& fields) {
      PackedSpan open;
      if (fill(open, fields) && open.start_time <= before) store_.apply_open(open, service_, now);
    });
  }
}

void NativeSource::finish(TimePoint now) {
  for (RingReader& ring : rings_) {
    if (ring.broken()) continue;
    now_ = now;
    (void)ring.read(*this, buffer_, ring.capacity());  // no more than that, whatever somebody may still write
    if (ring.broken()) ++stats_.broken_rings;
    ring.for_each_open([&](const SpanRecord& fields) {
      PackedSpan open;
      if (fill(open, fields)) store_.apply_unfinished(open, service_, now);
    });
  }
}

void NativeSource::span(std::span<std::byte> record) {
  SpanRecord fields;
  std::memcpy(&fields, record.data(), sizeof fields);
  ++read_spans_;
  PackedSpan span;
  const std::span<std::byte> attributes = record.subspan(sizeof fields);
  span.attribute_count = record_attributes(fields.header);
  if (!fill(span, fields) || !map_attributes(attributes, span.attribute_count)) [[unlikely]] {
    ++stats_.rejected_records;
    return;
  }
  span.end_time = clock_.to_time(fields.end);
  span.attributes = attributes;
  store_.apply(span, service_, now_);
  ++stats_.native_spans;
}

/// All but the end and the attributes. False: it cannot be a span.
bool NativeSource::fill(PackedSpan& out, const SpanRecord& fields) {
  const std::uint32_t its_name = name(fields.name);
  out.trace_id = {fields.trace_high, fields.trace_low};
  out.span_id = SpanId{fields.span};
  if (its_name == unknown_name || !out.trace_id.valid() || !out.span_id.valid()) return false;
  out.parent_id = SpanId{fields.parent};
  out.name = its_name;
  out.kind = static_cast<SpanKind>(fields.kind);
  out.start_time = clock_.to_time(fields.start);
  return true;
}

/// Checks attributes and turns their keys into the store's ids.
bool NativeSource::map_attributes(std::span<std::byte> attributes, unsigned count) {
  std::size_t at = 0;
  for (; count > 0; --count) {
    if (attributes.size() - at < 8) return false;
    std::uint64_t word = 0;
    std::memcpy(&word, attributes.data() + at, sizeof word);
    const std::size_t bytes = attribute_bytes(word);
    const auto type = static_cast<AttributeValue::Type>(attribute_type(word));
    const bool text = type == AttributeValue::Type::string;
    if (!text && (bytes != 8 || type < AttributeValue::Type::string || type > AttributeValue::Type::boolean)) return false;
    if (padded(bytes) > attributes.size() - at - 8) return false;
    const std::uint32_t key = name(attribute_key(word));
    if (key == unknown_name) return false;
    word = attribute_word(key, static_cast<std::uint64_t>(type), bytes);
    std::memcpy(attributes.data() + at, &word, sizeof word);
    at += 8 + padded(bytes);
  }
  return true;
}

std::uint32_t NativeSource::late_name(std::uint32_t id) {
  read_names();
  return id < names_.size() ? names_[id] : unknown_name;
}

/// Those that have come since the last time. Each is copied before it is looked at.
void NativeSource::read_names() {
  if (!names_memory_) return;
  auto* page = reinterpret_cast<const NamesPage*>(names_memory_.bytes());
  const std::uint64_t head = page->head.load(std::memory_order_acquire);
  const std::size_t room = names_memory_.size() - sizeof(NamesPage);
  if (head > room || head < names_read_ || head % 8 != 0) return;
  while (names_read_ < head) {
    const std::size_t size = std::min<std::size_t>(head - names_read_, 64u << 10);
    std::vector<std::byte> copy(size);
    std::memcpy(copy.data(), names_memory_.bytes() + sizeof(NamesPage) + names_read_, size);
    std::size_t whole = 0;  // entries
    while (size - whole >= 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, copy.data() + whole, sizeof word);
      const std::size_t entry = 8 + padded(word >> 32);
      if (entry > size - whole) break;
      whole += entry;
    }
    if (whole == 0 || !take_names(std::span(copy).first(whole))) {
      names_read_ = room;  // a lie; nothing more is read
      return;
    }
    names_read_ += whole;
  }
}

bool NativeSource::take_names(std::span<const std::byte> entries) {
  while (!entries.empty()) {
    if (entries.size() < 8) return false;
    std::uint64_t word = 0;
    std::memcpy(&word, entries.data(), sizeof word);
    const std::size_t size = word >> 32;
    const auto id = static_cast<std::uint32_t>(word);  // one that is known comes again when memory is given up
    if (id == 0 || id > names_.size() || names_.size() >= NameTable::max_names || size > NameTable::max_name_bytes ||
        padded(size) > entries.size() - 8) {
      return false;
    }
    const std::string_view text(reinterpret_cast<const char*>(entries.data()) + 8, size);
    if (id == names_.size()) names_.push_back(store_.intern(valid_utf8(text) ? text : repair_utf8(text)));
    entries = entries.subspan(8 + padded(size));
  }
  return true;
}

}  // namespace weir::inline v0::detail
