// Memory ends at every possible place: what comes back is whole or says that it is not, and nothing is thrown.
#include <cstdlib>
#include <new>
#include <string>

#include "support/catch.hpp"
#include "weir/activity/redaction.hpp"

namespace {

bool counting = false, failed = false;
long allocations_left = 0;  // before all fail

/// Calls `work` with n allocations, for every n until that is enough; returns how many it takes.
template <class Work>
int with_little_memory(Work work) {
  for (int n = 0;; ++n) {
    allocations_left = n, failed = false, counting = true;
    const bool good = work();
    counting = false;
    CAPTURE(n);
    CHECK(good);
    if (!failed) return n;
  }
}

}  // namespace

// Not inlined: GCC would see malloc on one side and operator delete on the other.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (counting && allocations_left-- <= 0) {
    failed = true;
    throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  if (counting && allocations_left-- <= 0) {
    failed = true;
    return nullptr;
  }
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST_CASE("without memory text becomes the mark, JSON an error") {
  const weir::Redactor redactor;
  const std::string from = "a text of some length with a password=hunter2 in it",
                    to = "a text of some length with a password=[REDACTED] in it";
  const std::string plain = "a text of some length with nothing in it that is to be hidden";
  CHECK(with_little_memory([&] {
          const std::string text = redactor.redact_text(from);
          return text == to || text == weir::Redactor::mark;
        }) >= 1);
  CHECK(with_little_memory([&] {
          const std::string text = redactor.redact_text(plain);
          return text == plain || text == weir::Redactor::mark;
        }) >= 1);

  const auto whole_or_error = [](const weir::Result<std::string>& result, const std::string& whole) {
    return result ? *result == whole : result.error().code == std::errc::not_enough_memory;
  };
  const std::string json = "{\"password\":1,\"note\":\"" + from + "\",\"list\":[[[\"\xff\"]]]}";
  const std::string redacted = *redactor.redact_json(json);
  const std::string without_note = "{\"password\":\"[REDACTED]\",\"note\":\"[REDACTED]\",\"list\":[[[\"\xef\xbf\xbd\"]]]}";
  CHECK(with_little_memory([&] {
          const weir::Result<std::string> result = redactor.redact_json(json);
          return whole_or_error(result, redacted) || whole_or_error(result, without_note);
        }) >= 3);
  const std::string large = "[\"" + std::string(weir::Redactor::max_json_bytes, 'x') + "\"]";
  const std::string summary = *redactor.truncate_json(large);
  CHECK(with_little_memory([&] { return whole_or_error(redactor.truncate_json(large), summary); }) >= 4);
}

TEST_CASE("looking at names, and at text with nothing to redact, allocates nothing") {
  const weir::Redactor redactor;
  const std::string plain(1000, 'b');
  std::string out;
  CHECK(with_little_memory([&] {
          return redactor.is_sensitive("x-session-id") && !redactor.is_sensitive("max_tokens") && !redactor.redact_text(plain, out) &&
                 !redactor.redact_text("user: bob, at a://b@c", out);
        }) == 0);
}
