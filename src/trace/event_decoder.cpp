#include "trace/event_decoder.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "text/plain.hpp"
#include "text/utf8.hpp"
#include "trace/decode.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::size_t compared_at_most = 16;  // keys that are compared each with each
constexpr std::size_t kept_at_most = 4096;    // attributes that there is room for from one line to the next

}  // namespace

/// Walks over a line. What it does not know it does not take.
class PlainReader {
 public:
  explicit PlainReader(std::string_view line) noexcept : begin_(line.data()), at_(begin_), end_(begin_ + line.size()) {}

  std::size_t taken() const noexcept { return static_cast<std::size_t>(at_ - begin_); }

  bool at_end() const noexcept { return at_ == end_; }
  template <std::size_t Size>
  bool skip(const char (&text)[Size]) noexcept {
    if (static_cast<std::size_t>(end_ - at_) < Size - 1 || std::memcmp(at_, text, Size - 1) != 0) return false;
    at_ += Size - 1;
    return true;
  }
  /// An id, mostly of 16 or 32 bytes.
  [[gnu::always_inline]] bool skip(std::string_view text) noexcept {
    if (static_cast<std::size_t>(end_ - at_) < text.size()) return false;
    const auto differ = [&](std::size_t i) {
      std::uint64_t a[2], b[2];
      std::memcpy(a, at_ + i, sizeof a);
      std::memcpy(b, text.data() + i, sizeof b);
      return ((a[0] ^ b[0]) | (a[1] ^ b[1])) != 0;
    };
    const bool same = text.size() == 16   ? !differ(0)
                      : text.size() == 32 ? !differ(0) && !differ(16)
                                          : std::memcmp(at_, text.data(), text.size()) == 0;
    at_ += same ? text.size() : 0;
    return same;
  }
  /// The rest of a string, and its closing quote.
  [[gnu::always_inline]] bool text(std::string_view& out) noexcept {
    const char* const begin = at_;
    for (; end_ - at_ >= 16; at_ += 16) {
      const unsigned stops = JsonText::stops(load<std::uint64_t>(at_), load<std::uint64_t>(at_ + 8));
      if (stops == 0) continue;
      at_ += std::countr_zero(stops);
      if (*at_ != '"') break;
      out = {begin, static_cast<std::size_t>(at_ - begin)};
      ++at_;
      return true;
    }
    return text_to_end(begin, out);
  }
  /// A time's text and its closing quote.
  [[gnu::always_inline]] bool time(TimeCache& times, Timestamp& out) {
    if (static_cast<std::size_t>(end_ - at_) > TimeCache::usual_size && at_[TimeCache::usual_size] == '"' && times.parse_usual(at_, out)) {
      at_ += TimeCache::usual_size + 1;
      return true;
    }
    std::string_view whole;
    return text(whole) && times.parse(whole, out);
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
  /// What is left of the string that began at `begin`: at a line's end, or beyond ASCII.
  [[gnu::noinline]] bool text_to_end(const char* begin, std::string_view& out) noexcept {
    unsigned beyond = 0;  // not 0: something beyond ASCII was seen
    for (; at_ != end_; ++at_) {
      const auto byte = static_cast<unsigned char>(*at_);
      if (byte < 0x20 || byte == '"' || byte == '\\') break;
      beyond |= byte & 0x80u;
    }
    if (at_ == end_ || *at_ != '"') return false;
    out = {begin, static_cast<std::size_t>(at_ - begin)};
    ++at_;
    return beyond == 0 || valid_utf8(out);
  }

  const char* const begin_;
  const char* at_;
  const char* const end_;
};

namespace {

bool has_equal_keys(std::span<const AttributeView> attributes) noexcept {
  for (std::size_t i = 1; i < attributes.size(); ++i) {
    const std::string_view key = attributes[i].key;
    for (std::size_t before = 0; before < i; ++before) {
      const std::string_view other = attributes[before].key;
      if (other.size() == key.size() && (key.empty() || (other.front() == key.front() && other == key))) return true;
    }
  }
  return false;
}

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
  if (line.data() != std::exchange(not_plain_, nullptr)) {
    if (const EventView* const event = decode_plain(line)) return event;
  }
  if (const EventView* const event = decode_simdjson(line)) return event;
  return decode_whole(line);
}

const EventView* EventDecoder::decode_plain(std::string_view line) {
  give_back();
  repaired_ = false;
  plain_start_ = false;
  PlainReader in(line);
  if (!read_plain(in, event_, attributes_) || !in.at_end()) return nullptr;
  plain_start_ = event_.type == EventType::span_start;
  return &event_;
}

const EventView* EventDecoder::decode_next(std::string_view& data, std::size_t max_line) {
  give_back();
  repaired_ = false;
  plain_start_ = false;
  PlainReader in(data.substr(0, std::min(data.size(), max_line) + 1));
  if (!read_plain(in, event_, attributes_) || !in.skip("\n")) {
    not_plain_ = data.data();
    return nullptr;
  }
  data.remove_prefix(in.taken());
  plain_start_ = event_.type == EventType::span_start;
  return &event_;
}

const EventView* EventDecoder::decode_end(std::string_view& data, std::size_t max_line) {
  if (!plain_start_) return nullptr;
  PlainReader in(data.substr(0, std::min(data.size(), max_line) + 1));
  if (!in.skip("{\"type\":1,\"span_id\":\"") || !in.skip(event_.span_id) || !in.skip("\",\"trace_id\":\"") || !in.skip(event_.trace_id) ||
      !in.skip("\",\"name\":\"\",\"kind\":0,\"time\":\""))
    return nullptr;
  end_attributes_.clear();
  if (!read_time_and_attributes(in, end_, end_attributes_) || !in.skip("\n")) return nullptr;
  end_.type = EventType::span_end;
  end_.span_id = event_.span_id;
  end_.trace_id = event_.trace_id;
  data.remove_prefix(in.taken());
  return &end_;
}

bool EventDecoder::read_plain(PlainReader& in, EventView& event, Attributes& attributes) {
  std::int32_t kind = 0;
  if (in.skip("{\"type\":0,\"span_id\":\"")) {
    event.type = EventType::span_start;
  } else if (in.skip("{\"type\":1,\"span_id\":\"")) {
    event.type = EventType::span_end;
  } else {
    return false;
  }
  if (!in.text(event.span_id) || !in.skip(",\"trace_id\":\"") || !in.text(event.trace_id)) return false;
  event.parent_id = {};
  if (in.skip(",\"parent_id\":\"") && !in.text(event.parent_id)) return false;
  if (!in.skip(",\"name\":\"") || !in.text(event.name)) return false;
  if (!in.skip(",\"kind\":") || !in.number(kind)) return false;
  if (!in.skip(",\"time\":\"") || !read_time_and_attributes(in, event, attributes)) return false;
  event.kind = static_cast<SpanKind>(kind);
  return !event.span_id.empty() && !event.trace_id.empty();
}

/// What is left of a line.
bool EventDecoder::read_time_and_attributes(PlainReader& in, EventView& event, Attributes& attributes) {
  if (!in.time(times_, event.time)) return false;
  if (in.skip(",\"attrs\":{") && !in.skip("}")) {
    do {
      AttributeView& attribute = attributes.emplace_back();
      if (!in.skip("\"") || !in.text(attribute.key) || !in.skip(":\"") || !in.text(attribute.value)) return false;
    } while (in.skip(","));
    if (!in.skip("}")) return false;
  }
  if (!in.skip("}")) return false;
  if (attributes.size() > 1) keep_last_of_equal(attributes);
  event.attributes = attributes;
  return true;
}

const EventView* EventDecoder::decode_simdjson(std::string_view line) {
  give_back();
  plain_start_ = false;
  repaired_ = false;
  if (!simd_.read(line, times_, event_, attributes_)) return nullptr;
  keep_last_of_equal(attributes_);
  event_.attributes = attributes_;
  return &event_;
}

Result<const EventView*> EventDecoder::decode_whole(std::string_view line) {
  give_back();
  plain_start_ = false;
  Result<Event> event = decode_event(line, repaired_);
  if (!event) return std::move(event.error());
  whole_ = *std::move(event);
  event_ = view_of(whole_, attributes_);
  return &event_;
}

void EventDecoder::keep_last_of_equal(Attributes& attributes) {
  if (attributes.size() <= compared_at_most && !has_equal_keys(attributes)) return;
  order_.resize(attributes.size());
  for (std::uint32_t i = 0; i < order_.size(); ++i) order_[i] = i;
  const auto key = [&](std::uint32_t i) { return std::pair(attributes[i].key, i); };
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  unique_.clear();
  for (const std::uint32_t i : order_) {
    if (!unique_.empty() && unique_.back().key == attributes[i].key) unique_.pop_back();
    unique_.push_back(attributes[i]);
  }
  attributes.swap(unique_);
}

/// What a line of very many attributes took.
void EventDecoder::give_back() {
  if (std::max({attributes_.capacity(), end_attributes_.capacity(), unique_.capacity()}) > kept_at_most) {
    Attributes().swap(attributes_);
    Attributes().swap(end_attributes_);
    Attributes().swap(unique_);
    std::vector<std::uint32_t>().swap(order_);
  }
  attributes_.clear();
}

}  // namespace weir::inline v0::detail
