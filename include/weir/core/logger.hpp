#pragma once
// Logger: where weir reports what happens behind the program's back (a collector that went away, a listener that threw).
// One virtual call; the default writes one line to stderr.

#include <cstddef>
#include <cstdio>
#include <new>
#include <span>
#include <string_view>

#include "weir/core/attribute.hpp"
#include "weir/core/text.hpp"

namespace weir::inline v0 {

/// Implementations must be callable from any thread at any time, and must not throw.
class Logger {
 public:
  enum class Level { debug, info, warning, error };

  virtual ~Logger() = default;
  /// One event. `message` and the attributes are borrowed for the call.
  virtual void log(Level level, std::string_view message, std::span<const Attribute> attributes = {}) noexcept = 0;
};

inline std::string_view to_string(Logger::Level level) noexcept {
  switch (level) {
    case Logger::Level::debug: return "debug";
    case Logger::Level::info: return "info";
    case Logger::Level::warning: return "warning";
    case Logger::Level::error: return "error";
  }
  return "unknown";
}

namespace detail {

class StderrLogger final : public Logger {
 public:
  void log(Level level, std::string_view message, std::span<const Attribute> attributes) noexcept override {
    if (level < Level::warning) return;
    StderrLine line;
    line.append("weir: ");
    line.append(to_string(level));
    line.append(": ");
    append_printable(line, message);
    for (const Attribute& attribute : attributes) {
      line.append(" ");
      append_printable(line, attribute.key.view());
      line.append("=");
      char number[32];
      switch (attribute.value.type()) {
        case AttributeValue::Type::string: append_printable(line, attribute.value.text()); break;
        case AttributeValue::Type::integer:
          line.append({number, static_cast<std::size_t>(
                                   std::snprintf(number, sizeof number, "%lld", static_cast<long long>(attribute.value.integer())))});
          break;
        case AttributeValue::Type::real:
          line.append({number, static_cast<std::size_t>(std::snprintf(number, sizeof number, "%.15g", attribute.value.real()))});
          break;
        case AttributeValue::Type::boolean: line.append(attribute.value.boolean() ? "true" : "false"); break;
      }
    }
    line.write();
  }
};

}  // namespace detail

/// The default logger: warnings and errors as one line each to stderr, control characters escaped; a library that is well
/// says nothing. Never destroyed.
inline Logger& stderr_logger() {
  alignas(detail::StderrLogger) static std::byte memory[sizeof(detail::StderrLogger)];  // whoever is out of memory says so
  static Logger* const logger = new (memory) detail::StderrLogger;
  return *logger;
}

}  // namespace weir::inline v0
