#pragma once
// The rules of weir/collect/keep_rules.hpp, ready to be asked. The span store tells them of each span of a trace that completes, and
// does what they decide.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weir/collect/keep_rules.hpp"
#include "weir/collect/trace_store.hpp"
#include "weir/core/clock.hpp"
#include "weir/trace/sampler.hpp"

namespace weir::inline v0::detail {

/// What the rules have to know of a trace.
struct TraceFacts {
  TraceId id;  // for ratios
  std::string_view service;
  std::string root;  // its name
  Timestamp start = Timestamp::max(), end = Timestamp::min();
  bool error = false;
  std::vector<bool> attributes;  // by rule: one that it asks for was there
};

/// Thread-safety: safe to read.
class KeepRules {
 public:
  explicit KeepRules(const TraceStoreOptions& options);

  /// False: everything is kept, and nobody needs to ask.
  bool any() const noexcept { return !rules_.empty() || otherwise_ < everything; }
  /// False: a trace's id says all.
  bool look_at_spans() const noexcept { return !rules_.empty(); }
  /// False: an attribute of this key changes nothing.
  bool ask_for(std::string_view key) const noexcept;
  /// An attribute of one of its spans.
  void note(TraceFacts& facts, std::string_view key, std::string_view value) const;

  struct Verdict {
    bool keep = true;
    std::size_t rule = SIZE_MAX;  // that decided; else it was the ratio
  };
  Verdict judge(const TraceFacts& facts) const;

  /// The id that ratios go by: all of 128 bits, the lower 64, or a hash that is the same everywhere.
  static TraceId id_of_text(std::string_view id) noexcept;

 private:
  static constexpr std::uint64_t everything = std::uint64_t{1} << 63;
  struct Rule {
    bool error;
    std::chrono::nanoseconds min_duration;
    Glob name, service;
    std::string key;
    Glob value;
    std::uint64_t part;  // as a sampler's word
  };
  static std::uint64_t word_of(double part) noexcept { return Sampler::ratio(part).word(); }

  std::vector<Rule> rules_;
  std::uint64_t otherwise_;
  bool attributes_ = false;  // some rule asks for one
};

}  // namespace weir::inline v0::detail
