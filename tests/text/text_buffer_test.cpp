#include "text/text_buffer.hpp"

#include <random>
#include <string>

#include "support/catch.hpp"

using weir::detail::TextBuffer;

TEST_CASE("a text buffer holds what was appended and what was written into its room") {
  std::mt19937 random(1);
  TextBuffer buffer;
  std::string model;
  CHECK(buffer.view().empty());
  for (int step = 0; step < 20'000; ++step) {
    const std::string text(random() % 10 == 0 ? random() % 3000 : random() % 30, static_cast<char>('a' + random() % 26));
    if (random() % 2 == 0) {
      buffer.append(text);
    } else {
      char* const to = buffer.room(text.size() + random() % 100);
      text.copy(to, text.size());
      buffer.finish(to + text.size());
    }
    model += text;
    if (random() % 50 == 0) {
      model.resize(random() % (model.size() + 1));
      buffer.truncate(model.size());
    }
    REQUIRE(buffer.size() == model.size());
    if (buffer.view() != model) REQUIRE(buffer.view() == model);
    if (random() % 500 == 0) random() % 2 == 0 ? buffer.clear() : buffer.release(), model.clear();
  }
}

TEST_CASE("the memory of a text buffer stays when it is emptied, until it is given back") {
  TextBuffer buffer;
  buffer.append(std::string(1000, 'x'));
  const std::size_t capacity = buffer.capacity();
  CHECK(capacity >= 1000);
  buffer.clear();
  CHECK(buffer.size() == 0);
  CHECK(buffer.capacity() == capacity);
  buffer.release();
  CHECK(buffer.capacity() == 0);
  CHECK(buffer.view().empty());
}
