#pragma once
// Instrumentation and Factory: what a Manager (manager.hpp) knows of a way to instrument a process.
//
//   Manager ─create(pid, settings)─▶ Factory ─▶ Instrumentation
//
//   created ─load()─▶ loaded ─run(stop)─▶ running ─close()─▶ closed     load() fails ─▶ closed, by itself
//                                            └─ run() returns by itself: it was stopped, or something fatal happened ─▶ close()
//
// A factory stands for a Distribution: what instruments processes of one language with one SDK.

#include <sys/types.h>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "weir/core/result.hpp"
#include "weir/core/stop.hpp"

namespace weir::inline v0 {

/// What instruments a process: a language and an SDK for it, as {"cpp", "weir"}. Thread-safety: a value.
struct Distribution {
  std::string language;
  std::string sdk;

  auto operator<=>(const Distribution&) const = default;
  std::string to_string() const { return language + "/" + sdk; }
};

using ConfigValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

/// What is asked of an instrumentation, key by key: {{"sampling", 0.1}}. A configuration is whole: what it does not name is as
/// the process has it by itself. Which keys there are is the instrumentation's.
using Config = std::map<std::string, ConfigValue, std::less<>>;

/// What an instrumentation begins with.
struct Settings {
  std::string service_name{};  ///< of the resource; empty: the process's own
  std::vector<std::pair<std::string, std::string>> resource_attributes{};
  Config initial_config{};
};

/// What became of the parts of an instrumentation that was loaded: a name, and why it does not work, or nothing if it does.
/// "configuration" is Settings::initial_config: the manager takes that error back when the instrumentation takes another one.
using Status = std::map<std::string, std::optional<Error>>;

/// Why a process is not instrumented although nothing failed. Codes of Error.
enum class InstrumentErrc {
  not_applicable = 1,    ///< of a generic factory: this process is none of its. Nobody is told
  language_mismatch = 2  ///< of Handler::distribution: what is asked for the process is for another language. Logged at debug
};

const std::error_category& instrument_category() noexcept;
inline std::error_code make_error_code(InstrumentErrc code) noexcept { return {static_cast<int>(code), instrument_category()}; }

/// One process, instrumented. Called by one thread at a time, but that apply_config() and close() come while run() is running.
/// What a call throws counts as its error.
class Instrumentation {
 public:
  virtual ~Instrumentation() = default;

  /// Makes everything ready. On failure everything is released again, and no other call follows.
  virtual Result<Status> load() = 0;
  /// Blocks until `stop` is requested or close() is called, which are no errors, or until something fatal happens, which is.
  virtual Result<void> run(const StopToken& stop) = 0;
  /// Ends run(). When it returns, run() has ended and everything is released. Idempotent.
  virtual Result<void> close() = 0;
  /// The configuration from now on. On failure the last one stays.
  virtual Result<void> apply_config(const Config& config) = 0;
};

/// Thread-safety: shared: safe, as several processes are instrumented at once.
class Factory {
 public:
  virtual ~Factory() = default;
  virtual Result<std::unique_ptr<Instrumentation>> create(pid_t pid, const Settings& settings) = 0;
};

}  // namespace weir::inline v0

template <>
struct std::is_error_code_enum<weir::InstrumentErrc> : std::true_type {};

template <>
struct std::hash<weir::Distribution> {
  std::size_t operator()(const weir::Distribution& distribution) const noexcept {
    const std::size_t language = std::hash<std::string>{}(distribution.language);
    return language ^ (std::hash<std::string>{}(distribution.sdk) + 0x9e3779b97f4a7c15u + (language << 6) + (language >> 2));
  }
};
