// Memory ends while lines are written: they say that they are cut, and the buffer can be used again.
#include <cstdlib>
#include <new>
#include <string>

#include "activity/slog.hpp"
#include "support/catch.hpp"

namespace {

int allocations_left = -1;  // before all fail; below zero: none does

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  if (allocations_left == 0) return nullptr;
  if (allocations_left > 0) --allocations_left;
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

using namespace weir::detail;

namespace {

void write_line(LineBuffer& buffer, SlogFormat format, std::size_t size) {
  static SecondCache cache;
  const std::string value(size, 'x'), escaped(size / 8, '"');
  SlogLine line(buffer, format);
  line.begin(cache, weir::Timestamp{}, weir::Logger::Level::info, "m");
  line.string("k", value);
  line.string("e", escaped);
  line.json("j", value);
  line.integer("i", 1);
  line.real("r", 0.5);
  line.boolean("b", true);
  line.duration("d", std::chrono::nanoseconds{1});
  line.end();
}

/// (What differs is too long to be shown.)
bool begins_with(const LineBuffer& whole, const LineBuffer& part) { return whole.view().substr(0, part.size()) == part.view(); }

}  // namespace

TEST_CASE("without memory a line is cut between two pieces, and a short one still goes") {
  for (const SlogFormat format : {SlogFormat::text, SlogFormat::json}) {
    LineBuffer whole;
    allocations_left = 100;
    write_line(whole, format, 10'000);
    const int growths = 100 - allocations_left;
    allocations_left = -1;
    REQUIRE_FALSE(whole.failed());
    REQUIRE(growths >= 2);

    for (int n = 0;; ++n) {
      LineBuffer buffer;
      allocations_left = n;
      write_line(buffer, format, 10'000);
      allocations_left = -1;
      CAPTURE(n);
      CHECK(begins_with(whole, buffer));
      if (!buffer.failed()) {
        CHECK(n == growths);
        CHECK(buffer.size() == whole.size());
        break;
      }
      CHECK(buffer.size() < whole.size());
      buffer.append("more");
      CHECK(begins_with(whole, buffer));

      buffer.clear();
      CHECK_FALSE(buffer.failed());
      allocations_left = 0;
      write_line(buffer, format, 10);
      allocations_left = -1;
      CHECK_FALSE(buffer.failed());
      LineBuffer other;
      write_line(other, format, 10);
      CHECK(buffer.view() == other.view());
    }
  }
}
