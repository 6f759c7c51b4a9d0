#include "weir/trace/detail/thread_ring.hpp"

#include <algorithm>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "trace/record.hpp"
#include "trace/ring_pool.hpp"
#include "trace/ring_set.hpp"

using namespace weir::detail;

namespace {

/// A record of `bytes` whose every word tells its number.
void write_record(std::byte* out, std::uint64_t bytes, std::uint64_t number) {
  const std::uint64_t header = record_header(bytes, RecordType::span, 0, static_cast<std::uint32_t>(number));
  std::memcpy(out, &header, sizeof header);
  for (std::uint64_t at = 8; at < bytes; at += 8) std::memcpy(out + at, &number, sizeof number);
}

bool intact(const std::byte* record, std::uint64_t bytes, std::uint64_t number) {
  std::uint64_t word = 0;
  std::memcpy(&word, record, sizeof word);
  if (word != record_header(bytes, RecordType::span, 0, static_cast<std::uint32_t>(number))) return false;
  for (std::uint64_t at = 8; at < bytes; at += 8) {
    std::memcpy(&word, record + at, sizeof word);
    if (word != number) return false;
  }
  return true;
}

std::uint64_t random_size(std::mt19937& random) {
  const unsigned kind = random() % 100;
  return 16 * (kind < 80 ? 4 + random() % 8 : kind < 99 ? 1 + random() % 60 : 1 + random() % 140);
}

}  // namespace

TEST_CASE("a ring gives back exactly what was written, whatever the sizes and the pace of the reader") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    RingSet set({4096, 10, SIZE_MAX});
    ThreadRing* ring = set.open();
    REQUIRE(ring != nullptr);
    ReaderRing* reader = set.refresh().back();
    std::mt19937 random(seed);
    std::deque<std::pair<std::uint64_t, std::uint64_t>> model;  // size and number of what is in the ring
    std::uint64_t number = 0, in_ring = 0, dropped = 0, too_large = 0;
    for (int step = 0; step < 20'000; ++step) {
      if (random() % 3 != 0) {
        const std::uint64_t size = random_size(random);
        if (std::byte* out = ring->reserve(size)) {
          REQUIRE(size <= 2048);
          write_record(out, size, ++number);
          ring->commit(size);
          model.emplace_back(size, number);
          in_ring += size;
          REQUIRE(in_ring <= 4096);
        } else if (size > 2048) {
          ++too_large;
        } else {
          ++dropped;
          REQUIRE(reader->head() - reader->tail() + 2 * size > 4096);  // it did not fit, its padding included
        }
      } else {
        std::uint64_t left = random() % 8;
        reader->read_records([&](const std::byte* record, std::uint64_t next) {
          if (left-- == 0) return false;
          REQUIRE_FALSE(model.empty());
          REQUIRE(intact(record, model.front().first, model.front().second));
          in_ring -= model.front().first;
          model.pop_front();
          reader->take(next, 1);
          return true;
        });
      }
    }
    CHECK(dropped > 0);
    CHECK(ring->page().dropped_full == dropped);
    CHECK(ring->page().dropped_too_large == too_large);
    CHECK(ring->page().written == number);
    ring->let_go();
  }
}

TEST_CASE("a writer and a reader on two threads agree") {
  RingSet set({8192, 10, SIZE_MAX});
  ThreadRing* ring = set.open();
  ReaderRing* reader = set.refresh().back();
  constexpr std::uint64_t total = 200'000;
  std::atomic<bool> done{false};
  std::uint64_t written = 0;
  std::thread writer([&] {
    std::mt19937 random(7);
    for (std::uint64_t i = 0; i < total; ++i) {
      const std::uint64_t size = std::min<std::uint64_t>(random_size(random), 1024);
      if (std::byte* out = ring->reserve(size)) {
        write_record(out, size, ++written);
        ring->commit(size);
      }
    }
    done = true;
  });
  std::uint64_t read = 0;
  bool good = true;
  for (bool last = false; !last;) {
    last = done;  // before the last look
    reader->read_records([&](const std::byte* record, std::uint64_t next) {
      std::uint64_t header = 0;
      std::memcpy(&header, record, sizeof header);
      good = good && intact(record, record_bytes(header), ++read);
      reader->take(next, 1);
      return true;
    });
  }
  writer.join();
  CHECK(good);
  CHECK(read == written);
  CHECK(written + ring->page().dropped_full == total);
  ring->let_go();
}

TEST_CASE("a copy of an open span is whole or refused while slots are used again and again") {
  RingSet set({4096, 10, SIZE_MAX});
  ThreadRing* ring = set.open();
  std::atomic<bool> done{false};
  std::thread owner([&] {
    for (std::uint64_t i = 1; i < 300'000; ++i) {
      SpanRecord record{0, 0, i, i, i, i, i, static_cast<std::uint32_t>(i), 0};
      ring->close_slot(ring->open_slot(record));
    }
    done = true;
  });
  bool good = true;
  while (!done) {
    SpanRecord copy;
    if (copy_open_span(ring->page().open[0], copy)) {
      good = good && copy.start == copy.span && copy.trace_high == copy.span && copy.trace_low == copy.span && copy.parent == copy.span &&
             copy.name == static_cast<std::uint32_t>(copy.span);
    }
  }
  owner.join();
  CHECK(good);
  CHECK_FALSE(ring->has_open_spans());
  ring->let_go();
}

TEST_CASE("the table holds 64 open spans, and slots that others closed are found again") {
  RingSet set({4096, 10, SIZE_MAX});
  ThreadRing* ring = set.open();
  SpanRecord record{};
  record.span = 1;
  for (unsigned i = 0; i < 64; ++i) CHECK(ring->open_slot(record) == i);
  CHECK(ring->open_slot(record) == no_slot);
  ring->abandon_slot(17);
  CHECK(ring->open_slot(record) == 17);
  CHECK(ring->open_slot(record) == no_slot);
  for (unsigned i = 0; i < 64; ++i) ring->close_slot(i);
  CHECK_FALSE(ring->has_open_spans());
  ring->let_go();
}

TEST_CASE("the memory of all rings is bounded and used again") {
  const std::size_t before = RingPool::instance().total_bytes();
  const std::size_t one = sizeof(RingPage) + 65536 + sizeof(ThreadRing);
  std::vector<ThreadRing*> rings;
  {
    RingSet set({65536, 100, before + 3 * one});
    for (int i = 0; i < 5; ++i) {
      if (ThreadRing* ring = set.open()) rings.push_back(ring);
    }
    CHECK(rings.size() == 3);
    for (ThreadRing* ring : rings) ring->let_go();
    ThreadRing* again = set.open();
    CHECK(std::find(rings.begin(), rings.end(), again) != rings.end());
    CHECK(RingPool::instance().total_bytes() == before + 3 * one);
    again->let_go();
  }
  CHECK(RingPool::instance().total_bytes() == before);
}

TEST_CASE("a ring goes from thread to thread, with what is in it") {
  RingSet set({4096, 10, SIZE_MAX});
  std::uint64_t written = 0;
  for (int thread = 0; thread < 100; ++thread) {
    ThreadRing* ring = set.open();
    REQUIRE(set.refresh().size() == 1);
    write_record(ring->reserve(64), 64, ++written);
    ring->commit(64);
    ring->let_go();
    if (thread % 7 != 0) continue;
    ReaderRing* reader = set.refresh().front();
    std::uint64_t expected = set.totals().taken;
    reader->read_records([&](const std::byte* record, std::uint64_t next) {
      CHECK(intact(record, 64, ++expected));
      reader->take(next, 1);
      return true;
    });
    CHECK(expected == written);
  }
  CHECK(set.totals().written == 100);
}

TEST_CASE("after a burst of threads the memory of their rings goes back, and comes again with the next burst") {
  const std::size_t before = RingPool::instance().total_bytes();
  const std::size_t one = sizeof(RingPage) + 65536 + sizeof(ThreadRing);
  RingSet set({65536, 100, before + 50 * one});
  std::vector<ThreadRing*> rings;
  for (int burst = 0; burst < 3; ++burst) {
    rings.clear();
    for (int i = 0; i < 50; ++i) rings.push_back(set.open());
    REQUIRE(std::count(rings.begin(), rings.end(), nullptr) == 0);
    CHECK(set.open() == nullptr);
    for (ThreadRing* ring : rings) {
      write_record(ring->reserve(64), 64, 1);
      ring->commit(64);
      ring->let_go();
    }
    set.refresh();
    set.reap();
    CHECK(RingPool::instance().total_bytes() == before + 50 * one);  // not empty yet
    for (ReaderRing* reader : set.refresh())
      reader->read_records([&](const std::byte*, std::uint64_t next) { return reader->take(next, 1), true; });
    set.reap();
    CHECK(RingPool::instance().total_bytes() == before + RingSet::max_idle * one);
  }
}

TEST_CASE("a new thread does not use the slots of spans that another still has open") {
  RingSet set({4096, 10, SIZE_MAX});
  ThreadRing* ring = set.open();
  SpanRecord record{};
  record.span = 1;
  for (unsigned i = 0; i < 60; ++i) (void)ring->open_slot(record);
  for (unsigned i = 0; i < 60; i += 2) ring->abandon_slot(i);
  ring->let_go();
  REQUIRE(set.open() == ring);
  for (unsigned i = 0; i < 60; i += 2) CHECK(ring->open_slot(record) == i);
  for (unsigned i = 60; i < 64; ++i) CHECK(ring->open_slot(record) == i);
  CHECK(ring->open_slot(record) == no_slot);
  ring->let_go();
}

TEST_CASE("a ring whose sender and thread are gone waits for its last open span") {
  const std::size_t before = RingPool::instance().total_bytes();
  auto set = std::make_unique<RingSet>(RingSet::Bounds{16384, 10, SIZE_MAX});
  ThreadRing* ring = set->open();
  SpanRecord record{};
  record.span = 1;
  const unsigned slot = ring->open_slot(record);
  ring->let_go();
  set.reset();
  CHECK(RingPool::instance().total_bytes() > before);
  ring->abandon_slot(slot);
  RingSet next({16384, 10, SIZE_MAX});
  next.open()->let_go();
  CHECK(RingPool::instance().total_bytes() > before);
  auto another = std::make_unique<RingSet>(RingSet::Bounds{16384, 10, SIZE_MAX});
  another->open()->let_go();
  another.reset();  // whoever lets the next one go looks after it
  CHECK(RingPool::instance().total_bytes() == before + sizeof(RingPage) + 16384 + sizeof(ThreadRing));
}

TEST_CASE("names are written out, those that were there and those that come, in order") {
  static Immortal<NameTable> immortal;
  NameTable* table = &immortal.value;
  (void)table->intern("before");
  std::vector<std::byte> memory(NameTable::shared_bytes);
  auto* page = ::new (memory.data()) NamesPage;
  table->share(page);
  (void)table->intern("after it");
  (void)table->intern("");
  (void)table->intern("after it");
  std::vector<std::string> names;
  for (std::size_t at = 0; at < page->head;) {
    std::uint64_t word = 0;
    const std::byte* entry = memory.data() + sizeof(NamesPage) + at;
    std::memcpy(&word, entry, sizeof word);
    names.emplace_back(reinterpret_cast<const char*>(entry) + 8, word >> 32);
    CHECK(static_cast<std::uint32_t>(word) == names.size());
    at += 8 + padded(word >> 32);
  }
  CHECK(names == std::vector<std::string>{"before", "after it", ""});
}

TEST_CASE("names are interned once, from literals and from text made at run time") {
  NameTable& table = name_table();
  const std::uint32_t id = table.intern("a name of this test");
  CHECK(id != NameTable::overflow);
  CHECK(table.intern(std::string("a name of ") + "this test") == id);
  CHECK(table.text(id) == "a name of this test");
  CHECK(table.intern("another name of this test") != id);
  CHECK(table.text(0xffffffff).empty());
  CHECK(table.text(NameTable::overflow) == "\xe2\x80\xa6overflow");
  CHECK(table.text(table.intern("")).empty());
  CHECK(table.text(table.intern(std::string(5000, 'x'))).size() == NameTable::max_name_bytes);
}

TEST_CASE("a full name table gives the overflow name and counts") {
  static Immortal<NameTable> immortal;  // it has no destructor
  NameTable* table = &immortal.value;
  for (std::uint32_t i = 1; i < NameTable::max_names; ++i) REQUIRE(table->intern(std::to_string(i)) == i);
  CHECK(table->intern("one more") == NameTable::overflow);
  CHECK(table->overflowed() == 1);
  CHECK(table->intern("17") == 17);
}

TEST_CASE("threads that intern the same names get the same ids") {
  std::vector<std::vector<std::uint32_t>> ids(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) ids[t].push_back(name_table().intern("shared " + std::to_string(i)));
    });
  }
  for (auto& thread : threads) thread.join();
  for (std::size_t t = 1; t < 4; ++t) CHECK(ids[t] == ids[0]);
  CHECK(name_table().text(ids[0][1234]) == "shared 1234");
}

TEST_CASE("text is cut between characters") {
  CHECK(cut_text("abc", 3) == "abc");
  CHECK(cut_text("abcd", 3) == "abc");
  CHECK(cut_text("ab\xc3\xa9", 3) == "ab");
  CHECK(cut_text("\xf0\x9f\x98\x80", 3).empty());
  CHECK(cut_text("\x80\x80\x80\x80\x80\x80", 5).size() == 5);  // not UTF-8 at all
  CHECK(cut_text("abc", 0).empty());
}
