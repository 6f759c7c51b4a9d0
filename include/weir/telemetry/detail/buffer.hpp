#pragma once
// Buffer: what the copies of a Telemetry share, as who counts sees it. Keys that the thread has used before are found here, without a
// lock; everything else is the library's (src/telemetry/buffer.hpp).

#include <cstring>
#include <functional>
#include <string_view>

#include "weir/core/attribute.hpp"
#include "weir/core/ids.hpp"
#include "weir/telemetry/detail/entry.hpp"
#include "weir/telemetry/instance_id.hpp"

namespace weir::inline v0 {

class Telemetry;
struct Payload;
struct Response;
struct TelemetryOptions;
struct TelemetryStats;

/// A JSON document, as text: telemetry.set("config", weir::Json{text}). What is no JSON is sent as a string. A view.
struct Json {
  std::string_view text;
};

namespace detail {

/// What a call brings: a scalar, or a document.
struct TelemetryValueView {
  AttributeValue value;
  bool document = false;

  TelemetryValueView(AttributeValue v) noexcept : value(v) {}
  TelemetryValueView(Json json) noexcept : value(json.text), document(true) {}
  std::size_t bytes() const noexcept { return value.type() == AttributeValue::Type::string ? value.text().size() : 8; }
};

inline std::uint64_t mixed(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

template <class Word>
std::uint64_t word_at(const char* at) noexcept {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

/// Of a key. Seeded, because keys may be made of what strangers say.
inline std::uint64_t key_hash(std::string_view key, std::uint64_t seed) noexcept {
  constexpr std::uint64_t odd1 = 0x9E3779B97F4A7C15u, odd2 = 0xC2B2AE3D27D4EB4Fu;
  const char* at = key.data();
  std::size_t size = key.size();
  std::uint64_t hash = seed;
  for (; size > 16; at += 16, size -= 16) hash = mixed(word_at<std::uint64_t>(at) ^ odd1, word_at<std::uint64_t>(at + 8) ^ odd2 ^ hash);
  std::uint64_t a = 0, b = 0;
  if (size >= 8)
    a = word_at<std::uint64_t>(at), b = word_at<std::uint64_t>(at + size - 8);
  else if (size >= 4)
    a = word_at<std::uint32_t>(at), b = word_at<std::uint32_t>(at + size - 4);
  else if (size > 0)
    a = static_cast<unsigned char>(at[0]) | static_cast<std::uint64_t>(static_cast<unsigned char>(at[size / 2])) << 8,
    b = static_cast<unsigned char>(at[size - 1]);
  return mixed(mixed(a ^ odd1 ^ hash, b ^ odd2), key.size() ^ odd1);
}

inline bool same_key(std::string_view a, std::string_view b) noexcept {
  const std::size_t size = a.size();
  if (size != b.size()) return false;
  if (size > 16) return std::memcmp(a.data(), b.data(), size) == 0;
  const char *p = a.data(), *q = b.data();
  if (size >= 8)
    return ((word_at<std::uint64_t>(p) ^ word_at<std::uint64_t>(q)) |
            (word_at<std::uint64_t>(p + size - 8) ^ word_at<std::uint64_t>(q + size - 8))) == 0;
  if (size >= 4)
    return ((word_at<std::uint32_t>(p) ^ word_at<std::uint32_t>(q)) |
            (word_at<std::uint32_t>(p + size - 4) ^ word_at<std::uint32_t>(q + size - 4))) == 0;
  for (std::size_t i = 0; i < size; ++i)
    if (p[i] != q[i]) return false;
  return true;
}

/// Thread-safety: shared: safe.
class Buffer {
 public:
  enum class Put : std::uint8_t { value, nested, list_item, set_item };

  virtual ~Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[gnu::always_inline]] void add(std::string_view key, std::int64_t amount) noexcept {
    const std::uint64_t hash = key_hash(key, seed_);
    ThreadTelemetry& thread = thread_telemetry;
    if (KeyCache* const keys = thread.keys) [[likely]] {
      const bool before = std::exchange(thread.adding, true);
      signal_fence();
      const KeyCache::Line& line = keys->lines[hash % KeyCache::sets];
      for (std::size_t way = 0; way < KeyCache::ways; ++way) {
        if (line.hash[way] != hash) continue;
        KeyEntry* const entry = line.entry[way];
        if (entry == nullptr || entry->claimed.load(std::memory_order_relaxed) != epoch_.load(std::memory_order_relaxed) ||
            entry->buffer != id_ || !same_key(entry->key, key))
          continue;
        entry->add(amount);
        signal_fence();
        thread.adding = before;
        return;
      }
      signal_fence();
      thread.adding = before;
    }
    add_slowly(key, amount);
  }
  virtual void put(Put kind, std::string_view key, std::string_view subkey, TelemetryValueView value) noexcept = 0;
  virtual KeyEntry* handle(NumberKind kind, std::string_view key, std::string_view unit) noexcept = 0;
  virtual std::uint64_t at_emit(std::function<void(const Telemetry&)> collect) noexcept = 0;
  virtual void remove_at_emit(std::uint64_t number) noexcept = 0;
  virtual void collect(const Telemetry& telemetry) = 0;
  /// What was there is dropped when `keep` is false.
  virtual Payload take(bool keep) = 0;
  /// Gives a buffer without id one. False: it has one.
  virtual bool begin(InstanceId id, TelemetryOptions options) = 0;
  virtual void merge_back(Payload payload) noexcept = 0;
  virtual void apply(const Response& response) noexcept = 0;
  /// False: no memory, and nothing has changed.
  virtual bool disable_matching(std::span<const std::string> patterns) noexcept = 0;
  virtual bool disabled(std::string_view key) noexcept = 0;
  virtual InstanceId instance_id() noexcept = 0;
  virtual TelemetryStats stats() noexcept = 0;

 protected:
  static constexpr std::uint64_t never = UINT64_MAX - 1;  // an epoch that no entry is claimed in

  Buffer(std::uint64_t id, std::uint64_t seed) noexcept : id_(id), seed_(seed) {}

  const std::uint64_t id_, seed_;
  alignas(64) std::atomic<std::uint64_t> epoch_{never};  // changes when what is claimed must be claimed again

 private:
  virtual void add_slowly(std::string_view key, std::int64_t amount) noexcept = 0;
};

}  // namespace detail
}  // namespace weir::inline v0
