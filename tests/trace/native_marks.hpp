#pragma once
// Spans with a number, and who has seen which, in memory that several processes share.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "weir/trace/span.hpp"
#include "weir/trace/tracer.hpp"

namespace weir::testing {

struct Marks {
  static constexpr std::uint64_t most = 1u << 22;
  std::atomic<std::uint64_t> ready, emitted, received, misread, unfinished;
  std::atomic<std::uint8_t> seen[most];  // how often

  std::uint64_t distinct() const {
    std::uint64_t sum = 0;
    for (const auto& mark : seen) sum += mark.load(std::memory_order_relaxed) != 0;
    return sum;
  }
};

inline Marks& map_marks(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, sizeof(Marks)) != 0) std::abort();
  void* at = ::mmap(nullptr, sizeof(Marks), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (at == MAP_FAILED) std::abort();
  return *static_cast<Marks*>(at);
}

/// Spans of which every byte follows from their number. Emitting one allocates nothing: it may happen beside a fork, with which
/// the allocators of sanitizers do not mix.
struct MarkedSpans {
  static std::string_view name_of(std::uint64_t i) {
    static const std::vector<std::string> names = [] {
      std::vector<std::string> made;
      for (int n = 0; n < 100; ++n) made.push_back("name " + std::to_string(n));
      return made;
    }();
    return names[i % 100];
  }
  static std::string_view text_of(std::uint64_t i) {
    static const std::vector<std::string> texts = [] {
      std::vector<std::string> made;
      for (char letter = 'a'; letter <= 'z'; ++letter) made.emplace_back(60, letter);
      return made;
    }();
    return std::string_view(texts[i % 26]).substr(0, i % 60);
  }

  static void emit(Tracer& tracer, std::uint64_t i) {
    ScopedSpan span = tracer.enter(name_of(i), static_cast<SpanKind>(i % 1000));
    span.set("i", i);
    span.set("square", i * i);
    span.set("text", text_of(i));
  }
  static void receive(Marks& marks, const Span& span) {
    const auto unfinished = span.attrs.count(std::string(unfinished_attribute)) != 0;
    if (unfinished) ++marks.unfinished;
    if (span.name == "root" || span.name == "first") return;
    if (unfinished) return;  // a numbered one that was open: it has no attributes yet
    const auto number = span.attrs.find("i");
    char* end = nullptr;
    const std::uint64_t i = number == span.attrs.end() ? Marks::most : std::strtoull(number->second.c_str(), &end, 10);
    const bool good = i < Marks::most && span.name == name_of(i) && span.kind == static_cast<SpanKind>(i % 1000) &&
                      span.attrs.size() == 3 && span.attrs.at("square") == std::to_string(i * i) && span.attrs.at("text") == text_of(i) &&
                      span.start_time <= span.end_time;
    if (!good) {
      ++marks.misread;
      return;
    }
    ++marks.seen[i];
    ++marks.received;
  }
};

}  // namespace weir::testing
