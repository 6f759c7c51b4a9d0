#include "trace/event_decoder.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "text/utf8.hpp"
#include "trace/decode.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t compared_at_most = 16;  // keys that are compared each with each
constexpr std::size_t kept_at_most = 4096;    // attributes that there is room for from one line to the next

/// Walks over a line. What it does not know it does not take.
class PlainReader {
 public:
  explicit PlainReader(std::string_view line) noexcept : at_(line.data()), end_(at_ + line.size()) {}

  bool at_end() const noexcept { return at_ == end_; }
  template <std::size_t Size>
  bool skip(const char (&text)[Size]) noexcept {
    if (static_cast<std::size_t>(end_ - at_) < Size - 1 || std::memcmp(at_, text, Size - 1) != 0) return false;
    at_ += Size - 1;
    return true;
  }
  /// The rest of a string, and its closing quote.
  bool text(std::string_view& out) noexcept {
    const char* const begin = at_;
    const bool ascii = find_stop();
    if (at_ == end_ || *at_ != '"') return false;
    out = {begin, static_cast<std::size_t>(at_ - begin)};
    ++at_;
    return ascii || valid_utf8(out);
  }
  /// Nine digits at most.
  bool number(std::int32_t& out) noexcept {
    const char* const begin = at_;
    const char* const end = at_ + std::min<std::ptrdiff_t>(end_ - at_, 9);
    out = 0;
    for (; at_ != end && *at_ >= '0' && *at_ <= '9'; ++at_) out = out * 10 + (*at_ - '0');
    return at_ != begin && (*begin != '0' || at_ == begin + 1);
  }

 private:
  static constexpr std::uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080;

  /// The top bits of zero bytes; a byte above the lowest of them may be wrong.
  static std::uint64_t zeros(std::uint64_t bytes) noexcept { return (bytes - ones) & ~bytes & tops; }

  /// Goes on to the next byte that ends plain text: a quote, a backslash, a control character. Returns whether all was surely ASCII.
  bool find_stop() noexcept {
    unsigned beyond = 0;  // not 0: something beyond ASCII was seen
#if defined(__SSE2__)
    for (; end_ - at_ >= 16; at_ += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at_));
      const __m128i ends = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')), _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
      const __m128i controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
      beyond |= static_cast<unsigned>(_mm_movemask_epi8(bytes));
      const auto stops = static_cast<unsigned>(_mm_movemask_epi8(_mm_or_si128(ends, controls)));
      if (stops == 0) continue;
      at_ += std::countr_zero(stops);
      return beyond == 0;
    }
#endif
    for (; end_ - at_ >= 8; at_ += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, at_, sizeof word);
      const std::uint64_t stops = zeros(word ^ ones * '"') | zeros(word ^ ones * '\\') | ((word - ones * 0x20) & ~word & tops);
      if (stops != 0) break;
      beyond |= (word & tops) != 0;
    }
    for (; at_ != end_; ++at_) {
      const auto byte = static_cast<unsigned char>(*at_);
      if (byte < 0x20 || byte == '"' || byte == '\\') break;
      beyond |= byte & 0x80u;
    }
    return beyond == 0;
  }

  const char* at_;
  const char* const end_;
};

}  // namespace

bool TimeCache::parse_other(std::string_view text, Timestamp& time) {
  const Result<Timestamp> parsed = parse_time(text);
  if (!parsed) return false;
  time = *parsed;
  std::int64_t nanos = 0;
  const std::string_view offset = text.substr(read_fraction(text, nanos));
  if (offset.size() > offset_at_most) return true;  // or more digits than nine
  char second[second_size + offset_at_most];
  std::memcpy(second, text.data(), second_size);
  std::memcpy(second + second_size, offset.data(), offset.size());
  const std::string_view without_fraction(second, second_size + offset.size());
  const Result<Timestamp> base = parse_time(without_fraction);
  if (!base || *base > Timestamp::max() - std::chrono::seconds{1}) return true;
  std::memcpy(known_, second, without_fraction.size());
  known_size_ = without_fraction.size();
  base_ = *base;
  return true;
}

Result<const EventView*> EventDecoder::decode(std::string_view line) {
  if (const EventView* const event = decode_plain(line)) return event;
  if (const EventView* const event = decode_simdjson(line)) return event;
  return decode_whole(line);
}

const EventView* EventDecoder::decode_plain(std::string_view line) {
  give_back();
  repaired_ = false;
  PlainReader in(line);
  EventView& event = event_;
  std::string_view time;
  std::int32_t kind = 0;
  if (in.skip("{\"type\":0,\"span_id\":\"")) {
    event.type = EventType::span_start;
  } else if (in.skip("{\"type\":1,\"span_id\":\"")) {
    event.type = EventType::span_end;
  } else {
    return nullptr;
  }
  if (!in.text(event.span_id) || !in.skip(",\"trace_id\":\"") || !in.text(event.trace_id)) return nullptr;
  event.parent_id = {};
  if (in.skip(",\"parent_id\":\"") && !in.text(event.parent_id)) return nullptr;
  if (!in.skip(",\"name\":\"") || !in.text(event.name)) return nullptr;
  if (!in.skip(",\"kind\":") || !in.number(kind)) return nullptr;
  if (!in.skip(",\"time\":\"") || !in.text(time)) return nullptr;
  if (in.skip(",\"attrs\":{") && !in.skip("}")) {
    do {
      AttributeView attribute;
      if (!in.skip("\"") || !in.text(attribute.key) || !in.skip(":\"") || !in.text(attribute.value)) return nullptr;
      attributes_.push_back(attribute);
    } while (in.skip(","));
    if (!in.skip("}")) return nullptr;
  }
  if (!in.skip("}") || !in.at_end()) return nullptr;
  if (event.span_id.empty() || event.trace_id.empty() || !times_.parse(time, event.time)) return nullptr;
  event.kind = static_cast<SpanKind>(kind);
  return finish();
}

const EventView* EventDecoder::decode_simdjson(std::string_view line) {
  give_back();
  repaired_ = false;
  return simd_.read(line, times_, event_, attributes_) ? finish() : nullptr;
}

Result<const EventView*> EventDecoder::decode_whole(std::string_view line) {
  give_back();
  Result<Event> event = decode_event(line, repaired_);
  if (!event) return std::move(event.error());
  whole_ = *std::move(event);
  event_ = view_of(whole_, attributes_);
  return &event_;
}

const EventView* EventDecoder::finish() {
  event_.attributes = attributes_;
  if (attributes_.size() > compared_at_most || has_equal_keys()) keep_last_of_equal();
  return &event_;
}

bool EventDecoder::has_equal_keys() const noexcept {
  for (std::size_t i = 1; i < attributes_.size(); ++i) {
    for (std::size_t before = 0; before < i; ++before) {
      if (attributes_[before].key == attributes_[i].key) return true;
    }
  }
  return false;
}

void EventDecoder::keep_last_of_equal() {
  order_.resize(attributes_.size());
  for (std::uint32_t i = 0; i < order_.size(); ++i) order_[i] = i;
  const auto key = [this](std::uint32_t i) { return std::pair(attributes_[i].key, i); };
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  unique_.clear();
  for (const std::uint32_t i : order_) {
    if (!unique_.empty() && unique_.back().key == attributes_[i].key) unique_.pop_back();
    unique_.push_back(attributes_[i]);
  }
  attributes_.swap(unique_);
  event_.attributes = attributes_;
}

/// What a line of very many attributes took.
void EventDecoder::give_back() {
  if (attributes_.capacity() > kept_at_most || unique_.capacity() > kept_at_most) {
    std::vector<AttributeView>().swap(attributes_);
    std::vector<AttributeView>().swap(unique_);
    std::vector<std::uint32_t>().swap(order_);
  }
  attributes_.clear();
}

}  // namespace weir::inline v0::detail
