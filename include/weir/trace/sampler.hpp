#pragma once
// Sampler: which traces are recorded. It is asked once per trace, when its first span begins in this process, and every span
// below inherits the answer through its context, on other threads and in other processes, too (W3C flag "sampled").
//
//   weir::Tracer tracer{sender, {.sampler = weir::Sampler::parent_based(weir::Sampler::ratio(0.1))}};
//   tracer.set_sampler(weir::Sampler::rules({{.name = "GET /health", .sampler = weir::Sampler::never()},
//                                            {.key = "tenant", .value = "big-*", .sampler = weir::Sampler::ratio(0.01)}},
//                                           weir::Sampler::rate_limit(100)));
//
// Where a context says that its trace is recorded, or that it is not, because it came from a caller, parent_based follows it
// and all others decide anew. always, never and ratio cost a comparison; the others are called, and neither lock nor allocate.

#include <algorithm>
#include <atomic>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weir/core/attribute.hpp"
#include "weir/core/clock.hpp"
#include "weir/core/detail/glob.hpp"
#include "weir/core/ids.hpp"
#include "weir/core/result.hpp"

namespace weir::inline v0 {

struct SamplingRule;

namespace detail {

/// What a sampler may look at.
struct SamplingQuestion {
  TraceId trace;
  bool called = false;          ///< the trace came in from a caller
  bool caller_sampled = false;  ///< who records it
  std::string_view name;
  const Attributes* attributes = nullptr;  ///< those that the span begins with
  const Ticker* ticker = nullptr;          ///< nullptr: the machine's
};

/// What is more than a comparison. Thread-safety: shared: safe.
class SamplerNode {
 public:
  virtual ~SamplerNode() = default;
  virtual bool samples(const SamplingQuestion& question) const noexcept = 0;
  virtual void append_to(std::string& text) const = 0;
};

}  // namespace detail

/// Copies share the tokens of a rate limit. Thread-safety: a value. Nothing throws but std::bad_alloc.
class Sampler {
 public:
  /// parent_based(always()).
  constexpr Sampler() noexcept = default;

  static Sampler always() noexcept { return Sampler(one); }
  static Sampler never() noexcept { return Sampler(0); }
  /// This part of all traces, by their ids: those whose lower 63 bits but the last are less than `part` of the most. Services
  /// that use OpenTelemetry's TraceIdRatioBased in Go or Python agree. `part` is cut to 0 to 1.
  static Sampler ratio(double part) noexcept;
  /// Follows the caller of a trace that comes in; of the others, `root` decides.
  static Sampler parent_based(Sampler root) noexcept {
    root.follows_callers_ = true;
    return root;
  }
  /// Of the traces that `inner` samples at most so many per second, in the mean; at once as many as of one second, or one if
  /// that is more.
  static Sampler rate_limit(double per_second, Sampler inner = always());
  /// The first rule that matches decides; where none does, `otherwise`.
  static Sampler rules(std::vector<SamplingRule> rules, Sampler otherwise);

  /// As OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say it: always_on, always_off, traceidratio, parentbased_always_on,
  /// parentbased_always_off, parentbased_traceidratio. The ratios take a number from 0 to 1, 1 if there is none.
  /// (Compiled: weir::weir.)
  static Result<Sampler> parse(std::string_view name, std::string_view argument = {});
  /// For people: "parent_based(ratio(0.1))".
  std::string to_string() const;

  /// Whether a trace is recorded. Rate limits count the question.
  bool samples(const detail::SamplingQuestion& question) const noexcept {
    if (follows_callers_ && question.called) return question.caller_sampled;
    return node_ != nullptr ? node_->samples(question) : below(question.trace, word());
  }

  // What tracers look at instead, where it says all: the ratio as a number from 0 to 2^63, and in its last two bits:
  static constexpr std::uint64_t follows_callers = 1, asks = 2;  ///< asks: it does not, samples() does
  static constexpr std::uint64_t word_of_default = (std::uint64_t{1} << 63) | follows_callers;
  std::uint64_t word() const noexcept { return threshold_ | (follows_callers_ ? follows_callers : 0) | (node_ != nullptr ? asks : 0); }
  static bool takes_all(std::uint64_t word) noexcept { return word >= one; }
  static bool below(TraceId trace, std::uint64_t word) noexcept { return (trace.low >> 1 | 3) < word; }

 private:
  static constexpr std::uint64_t one = std::uint64_t{1} << 63;

  explicit Sampler(std::uint64_t threshold) noexcept : threshold_(threshold), follows_callers_(false) {}
  explicit Sampler(std::shared_ptr<const detail::SamplerNode> node) noexcept
      : threshold_(0), follows_callers_(false), node_(std::move(node)) {}

  std::uint64_t threshold_ = one;  // a multiple of 4
  bool follows_callers_ = true;
  std::shared_ptr<const detail::SamplerNode> node_;
};

/// Of Sampler::rules. `*` stands for any text, `?` for any byte; patterns of more than 255 bytes, stars not counted, match
/// nothing. An attribute has to be among those that the span begins with (Tracer::enter).
struct SamplingRule {
  std::string name = "*";   ///< of the first span
  std::string key{};        ///< of an attribute; empty: any or none
  std::string value = "*";  ///< of that attribute, as text
  Sampler sampler{};        ///< decides
};

namespace detail {

/// Tokens that come at a rate. They are a time: that at which the bucket will be full. Thread-safety: shared: safe.
class TokenBucket {
 public:
  explicit TokenBucket(double per_second) noexcept
      : interval_(per_second > 0 ? static_cast<std::int64_t>(std::min(1e9 / per_second, 1e18)) : 0), burst_(std::max(interval_, second)) {}

  /// `now`: ns of any clock. One that is set back refills nothing.
  bool take(std::int64_t now) noexcept {
    std::int64_t full = full_at_.load(std::memory_order_relaxed);
    for (;;) {
      const std::int64_t from = std::clamp(full, now, now + burst_);
      const bool taken = from + interval_ <= now + burst_;
      if (!taken && from == full) return false;
      if (full_at_.compare_exchange_weak(full, taken ? from + interval_ : from, std::memory_order_relaxed)) return taken;
    }
  }

 private:
  static constexpr std::int64_t second = 1'000'000'000;
  const std::int64_t interval_, burst_;  // ns
  std::atomic<std::int64_t> full_at_{INT64_MIN};
};

/// ns of the clock that stamps spans, or of one that goes as it does.
inline std::int64_t coarse_now(const Ticker* ticker) noexcept {
  if (ticker != nullptr && ticker->source() == Ticker::Source::clock) return static_cast<std::int64_t>(ticker->now());
  timespec time{};
#if defined(CLOCK_MONOTONIC_COARSE)
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
#else
  ::clock_gettime(CLOCK_MONOTONIC, &time);
#endif
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

inline void append_number(std::string& text, double number) {
  char digits[32];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

class RateLimitNode final : public SamplerNode {
 public:
  RateLimitNode(double per_second, Sampler inner) noexcept : per_second_(per_second), inner_(std::move(inner)), bucket_(per_second) {}
  bool samples(const SamplingQuestion& question) const noexcept override {
    return inner_.samples(question) && bucket_.take(coarse_now(question.ticker));
  }
  void append_to(std::string& text) const override {
    text += "rate_limit(";
    append_number(text, per_second_);
    text += ", " + inner_.to_string() + ")";
  }

 private:
  const double per_second_;
  const Sampler inner_;
  mutable TokenBucket bucket_;
};

class RulesNode final : public SamplerNode {
 public:
  RulesNode(std::vector<SamplingRule> rules, Sampler otherwise) : otherwise_(std::move(otherwise)) {
    rules_.reserve(rules.size());
    for (SamplingRule& rule : rules) rules_.push_back({Glob(rule.name), std::move(rule.key), Glob(rule.value), std::move(rule.sampler)});
  }
  bool samples(const SamplingQuestion& question) const noexcept override {
    for (const Rule& rule : rules_)
      if (rule.name.matches(question.name) && rule.matches(question.attributes)) return rule.sampler.samples(question);
    return otherwise_.samples(question);
  }
  void append_to(std::string& text) const override {
    text += "rules(";
    for (const Rule& rule : rules_) {
      text += '"' + rule.name.pattern() + '"';
      if (!rule.key.empty()) text += " " + rule.key + "=\"" + rule.value.pattern() + '"';
      text += ": " + rule.sampler.to_string() + ", ";
    }
    text += "else " + otherwise_.to_string() + ")";
  }

 private:
  struct Rule {
    Glob name;
    std::string key;
    Glob value;
    Sampler sampler;

    bool matches(const Attributes* attributes) const noexcept {
      if (key.empty()) return true;
      const Attribute* found = nullptr;  // the last value of a key counts
      for (std::size_t i = 0; attributes != nullptr && i < attributes->size(); ++i)
        if (attributes->begin()[i].key.view() == key) found = attributes->begin() + i;
      if (found == nullptr) return false;
      const AttributeValue& its = found->value;
      char text[32];
      switch (its.type()) {
        case AttributeValue::Type::string: return value.matches(its.text());
        case AttributeValue::Type::boolean: return value.matches(its.boolean() ? "true" : "false");
        case AttributeValue::Type::integer: return value.matches(view(text, std::to_chars(text, text + sizeof text, its.integer()).ptr));
        case AttributeValue::Type::real: return value.matches(view(text, std::to_chars(text, text + sizeof text, its.real()).ptr));
      }
      return false;
    }
    static std::string_view view(const char* begin, const char* end) noexcept { return {begin, static_cast<std::size_t>(end - begin)}; }
  };
  std::vector<Rule> rules_;
  const Sampler otherwise_;
};

}  // namespace detail

inline Sampler Sampler::ratio(double part) noexcept {
  if (!(part > 0)) return never();
  if (part >= 1) return always();
  return Sampler(static_cast<std::uint64_t>(std::ldexp(part, 63)) & ~std::uint64_t{3});
}

inline Sampler Sampler::rate_limit(double per_second, Sampler inner) {
  if (!(per_second > 0)) return never();
  return Sampler(std::make_shared<const detail::RateLimitNode>(per_second, std::move(inner)));
}

inline Sampler Sampler::rules(std::vector<SamplingRule> rules, Sampler otherwise) {
  return Sampler(std::make_shared<const detail::RulesNode>(std::move(rules), std::move(otherwise)));
}

inline std::string Sampler::to_string() const {
  std::string text;
  if (follows_callers_) text += "parent_based(";
  if (node_ != nullptr) {
    node_->append_to(text);
  } else if (threshold_ == one || threshold_ == 0) {
    text += threshold_ == one ? "always" : "never";
  } else {
    text += "ratio(";
    detail::append_number(text, std::ldexp(static_cast<double>(threshold_), -63));
    text += ')';
  }
  if (follows_callers_) text += ')';
  return text;
}

}  // namespace weir::inline v0
