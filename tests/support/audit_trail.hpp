#pragma once
// Reading an audit trail back, strictly; a logger that remembers.

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "weir/core/logger.hpp"

namespace weir::testing {

inline std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void write_file(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  REQUIRE(file.flush().good());
}

/// The lines of a text that ends with a newline, or is empty.
inline std::vector<std::string> lines_of(std::string_view text) {
  if (!text.empty()) REQUIRE(text.back() == '\n');
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  return lines;
}

using Json = nlohmann::ordered_json;

/// Every line of the file, parsed. A line that is no JSON object, or whose seq is not the one after the line before, fails
/// the test.
inline std::vector<Json> read_trail(const std::string& path, std::uint64_t first_seq = 1) {
  std::vector<Json> entries;
  for (const std::string& line : lines_of(contents_of(path))) {
    Json entry = Json::parse(line, nullptr, false);
    if (!entry.is_object() || entry.value("seq", std::uint64_t{0}) != first_seq + entries.size()) {
      INFO("line " << entries.size() + 1 << " of " << path << ": " << line.substr(0, 300));
      FAIL("not the next line of an audit trail");
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// Thread-safe.
class RecordingLogger final : public Logger {
 public:
  void log(Level level, std::string_view message, std::span<const Attribute> attributes) noexcept override {
    std::string line = std::string(to_string(level)) + ": " + std::string(message);
    for (const Attribute& attribute : attributes) {
      line += " " + std::string(attribute.key.view()) + "=";
      if (attribute.value.type() == AttributeValue::Type::string) line += attribute.value.text();
      if (attribute.value.type() == AttributeValue::Type::integer) line += std::to_string(attribute.value.integer());
    }
    std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
  }
  /// How many lines contain `part`.
  std::size_t count(std::string_view part) const {
    std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(
        std::count_if(lines_.begin(), lines_.end(), [&](const std::string& line) { return line.find(part) != line.npos; }));
  }
  std::size_t size() const { return count(""); }
  std::string all() const {
    std::lock_guard lock(mutex_);
    std::string text;
    for (const std::string& line : lines_) text += line + "\n";
    return text;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace weir::testing
