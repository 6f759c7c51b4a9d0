#pragma once
// NativeClient: a service that speaks the native format by hand, as docs/wire_format.md has it, so that it can also lie.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "net/unix_socket.hpp"
#include "weir/core/attribute.hpp"
#include "weir/core/detail/copy_padded.hpp"
#include "weir/trace/detail/name_table.hpp"
#include "weir/trace/detail/ring_layout.hpp"

namespace weir::testing {

/// Shared memory of ours. `seals`: F_SEAL_…
class Memory {
 public:
  static constexpr int all_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  explicit Memory(std::size_t size, int seals = all_seals) : fd_(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING)), size_(size) {
    if (!fd_ || ::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) throw std::runtime_error("no memory");
    void* at = size == 0 ? nullptr : ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (at == MAP_FAILED || ::fcntl(fd_.get(), F_ADD_SEALS, seals) != 0) throw std::runtime_error("no memory");
    bytes_ = static_cast<std::byte*>(at);
  }
  ~Memory() {
    if (bytes_ != nullptr) ::munmap(bytes_, size_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  int fd() const { return fd_.get(); }
  std::byte* bytes() { return bytes_; }
  std::size_t size() const { return size_; }

 private:
  net::Fd fd_;
  std::size_t size_;
  std::byte* bytes_ = nullptr;
};

/// Names, as a service writes them.
class Names {
 public:
  Names() : memory_(detail::NameTable::shared_bytes), page_(::new (memory_.bytes()) detail::NamesPage) {}
  std::uint32_t add(std::string_view text) {
    const std::uint64_t head = page_->head.load();
    std::byte* out = memory_.bytes() + sizeof(detail::NamesPage) + head;
    const std::uint64_t word = detail::name_word(++last_, text.size());
    std::memcpy(out, &word, 8);
    std::memcpy(out + 8, text.data(), text.size());
    page_->head.store(head + 8 + detail::padded(text.size()));
    return last_;
  }
  detail::NamesPage& page() { return *page_; }
  Memory& memory() { return memory_; }

 private:
  Memory memory_;
  detail::NamesPage* page_;
  std::uint32_t last_ = 0;
};

/// Rings, as a service has them.
class Rings {
 public:
  explicit Rings(std::size_t capacity = 65536, std::size_t count = 1, int seals = Memory::all_seals)
      : capacity_(capacity), memory_(count * (sizeof(detail::RingPage) + capacity), seals) {
    for (std::size_t i = 0; i < count; ++i) (::new (&page(i)) detail::RingPage)->capacity = capacity;
  }
  detail::RingPage& page(std::size_t ring = 0) {
    return *reinterpret_cast<detail::RingPage*>(memory_.bytes() + ring * (sizeof(detail::RingPage) + capacity_));
  }
  std::byte* data(std::size_t ring = 0) { return reinterpret_cast<std::byte*>(&page(ring)) + sizeof(detail::RingPage); }
  /// Puts bytes at the ring's head; they must fit before its end.
  void write(std::string_view bytes, std::size_t ring = 0) {
    const std::uint64_t head = page(ring).head.load();
    std::memcpy(data(ring) + head % capacity_, bytes.data(), bytes.size());
    page(ring).head.store(head + bytes.size());
  }
  std::size_t capacity() const { return capacity_; }
  Memory& memory() { return memory_; }

 private:
  std::size_t capacity_;
  Memory memory_;
};

/// One span record.
struct TestRecord {
  std::uint64_t trace = 7, span = 1, parent = 0;
  std::uint32_t name = 1;
  std::uint64_t start = 1000, end = 2000;
  std::string attributes{};
  unsigned attribute_count = 0;

  TestRecord& text(std::uint32_t key, std::string_view value) {
    return raw(detail::attribute_word(key, 1, value.size()),
               std::string(value) + std::string(detail::padded(value.size()) - value.size(), '\0'));
  }
  TestRecord& integer(std::uint32_t key, std::int64_t value) {
    return raw(detail::attribute_word(key, 2, 8), std::string(reinterpret_cast<const char*>(&value), 8));
  }
  TestRecord& raw(std::uint64_t word, std::string_view value) {
    attributes.append(reinterpret_cast<const char*>(&word), 8).append(value);
    ++attribute_count;
    return *this;
  }
  std::string bytes() const {
    const std::size_t size = (64 + attributes.size() + 15) / 16 * 16;
    const detail::SpanRecord fields{
        detail::record_header(size, detail::RecordType::span, attribute_count, name), end, start, span, trace, trace, parent, name, 1};
    std::string bytes(reinterpret_cast<const char*>(&fields), sizeof fields);
    bytes += attributes;
    bytes.resize(size, '\0');
    return bytes;
  }
};

/// A connection.
class NativeClient {
 public:
  explicit NativeClient(const std::string& path, std::string_view hello = R"(["weir",1,{"service":"test","native":1,"memory":true}])") {
    Result<net::Fd> connected = net::connect_unix(path);
    if (!connected) throw std::runtime_error(connected.error().message);
    fd_ = std::move(connected).value();
    if (!hello.empty()) {
      line(hello);
      answer_ = next_line();
    }
  }
  const std::string& answer() const { return answer_; }
  /// What the collector says next.
  std::string next_line() {
    std::string text;
    while (text.find('\n') == std::string::npos) {
      pollfd readable{fd_.get(), POLLIN, 0};
      char part[256];
      if (::poll(&readable, 1, 60'000) != 1) break;
      const ssize_t size = net::receive_some(fd_.get(), part, sizeof part);
      if (size <= 0) break;
      text.append(part, static_cast<std::size_t>(size));
    }
    return text;
  }
  void line(std::string_view text) { send(std::string(text) + "\n"); }
  void line(std::string_view text, int passed) {
    const std::string whole = std::string(text) + "\n";
    (void)net::send_with_descriptor(fd_.get(), whole.data(), whole.size(), passed);
  }
  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = net::send_some(fd_.get(), bytes.data(), bytes.size());
      if (sent == -EAGAIN) {
        pollfd writable{fd_.get(), POLLOUT, 0};
        ::poll(&writable, 1, 60'000);
      } else if (sent < 0) {
        return;
      } else {
        bytes.remove_prefix(static_cast<std::size_t>(sent));
      }
    }
  }
  /// All that a service says first.
  void share(Names& names, Rings& rings, std::size_t count = 1) {
    line(R"(["clock",0,0,1])");
    line(R"(["names"])", names.memory().fd());
    line("[\"memory\"," + std::to_string(rings.capacity()) + "]", rings.memory().fd());
    line("[\"rings\"," + std::to_string(count) + "]");
  }
  void wake() { line(R"(["wake"])"); }
  void close() { fd_.reset(); }

 private:
  net::Fd fd_;
  std::string answer_;
};

}  // namespace weir::testing
