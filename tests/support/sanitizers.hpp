#pragma once
// Under which sanitizer a test runs: some of what tests do does not mix with each.

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define WEIR_TESTS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define WEIR_TESTS_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define WEIR_TESTS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIR_TESTS_TSAN 1
#endif
#endif

namespace weir::testing {

#if defined(WEIR_TESTS_SANITIZED)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif

}  // namespace weir::testing
