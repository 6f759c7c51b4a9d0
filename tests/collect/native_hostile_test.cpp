// What a service may do to a collector that reads its memory. In each case the collector goes on, counts what it refused, and an
// honest service beside it loses nothing.
#include <sys/socket.h>
#include <unistd.h>
#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include "collect/native_source.hpp"
#include "collect/ring_reader.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/native_client.hpp"
#include "support/running_collector.hpp"
#include "support/scratch_dir.hpp"
#include "trace/control_line.hpp"
#include "weir/collect/collector.hpp"
#include "weir/core/ids.hpp"

using namespace std::chrono_literals;
using namespace weir;
using namespace weir::detail;
using weir::testing::eventually;
using weir::testing::Memory;
using weir::testing::Names;
using weir::testing::NativeClient;
using weir::testing::Rings;
using weir::testing::ScratchDir;
using weir::testing::TestRecord;

namespace {

class Running : public weir::testing::RunningCollector {
 public:
  explicit Running(CollectorOptions options = {}) : Running(std::make_unique<ScratchDir>(), options) {}
  bool wait_for(std::size_t count) {
    return eventually([&] { return this->count() >= count; });
  }
  /// An honest service still gets everything through.
  void check_alive() {
    NativeClient honest(path());
    Names names;
    Rings rings;
    static std::uint64_t trace = 1'000'000;
    ++trace;
    TestRecord record{.trace = trace, .name = names.add("honest")};
    rings.write(record.bytes());
    honest.share(names, rings);
    CHECK(eventually([&] {
      for (const Span& span : spans())
        if (span.name == "honest" && span.trace_id == TraceId{trace, trace}.hex()) return true;
      return false;
    }));
  }

 private:
  Running(std::unique_ptr<ScratchDir> dir, const CollectorOptions& options) : RunningCollector(*dir / "s", options), dir_(std::move(dir)) {}

  std::unique_ptr<ScratchDir> dir_;
};

/// Lines that the collector has refused.
std::uint64_t refused(const Running& collector) { return collector.stats().rejected_malformed; }

}  // namespace

TEST_CASE("the native format, by hand") {
  Running collector;
  NativeClient client(collector.path());
  CHECK(client.answer() == "[\"weir\",1,{\"native\":1,\"memory\":true}]\n");
  Names names;
  Rings rings;
  const auto name = names.add("GET /"), key = names.add("key"), number = names.add("number");
  rings.write(TestRecord{.span = 2, .parent = 1, .name = name}.text(key, "value").integer(number, -5).bytes());
  client.share(names, rings);
  REQUIRE(collector.wait_for(1));
  const Span span = collector.spans()[0];
  CHECK(span.name == "GET /");
  CHECK(span.id == "0000000000000002");
  CHECK(span.parent_id == "0000000000000001");
  CHECK(span.trace_id == "00000000000000070000000000000007");
  CHECK(span.start_time == Timestamp{1000ns});
  CHECK(span.end_time == Timestamp{2000ns});
  CHECK(span.attrs == StringAttributes{{"key", "value"}, {"number", "-5"}});
  const auto later = names.add("later");
  rings.write(TestRecord{.span = 3, .name = later}.bytes());
  client.wake();
  REQUIRE(collector.wait_for(2));
  CHECK(eventually([&] { return acknowledged(rings.page()).taken == 2; }));
  CHECK(acknowledged(rings.page()).tail == rings.page().head);
  CHECK(refused(collector) == 0);
}

TEST_CASE("what a hello has beside what is known is passed over, however deep it is") {
  Running collector;
  NativeClient client(collector.path(), R"(["weir",1,{"host":{"name":"a","native":9,"ids":[1,{"memory":false}]},"tags":[[],{}],)"
                                        R"("service":"shop","native":1,"memory":true},{"later":{}},["and","more"]])");
  CHECK(client.answer() == "[\"weir\",1,{\"native\":1,\"memory\":true}]\n");
  CHECK(refused(collector) == 0);
}

TEST_CASE("a service that may not share memory is told so") {
  CollectorOptions options;
  options.shared_memory = false;
  Running collector(options);
  NativeClient client(collector.path());
  CHECK(client.answer() == "[\"weir\",1,{\"native\":1,\"memory\":false}]\n");
  NativeClient cannot(collector.path(), R"(["weir",1,{"service":"test","native":1,"memory":false}])");
  CHECK(cannot.answer() == "[\"weir\",1,{\"native\":1,\"memory\":false}]\n");
  std::string entry(8, '\0');
  const std::uint64_t word = name_word(1, 4);
  std::memcpy(entry.data(), &word, 8);
  entry += std::string("name\0\0\0\0", 8);
  const std::string record = TestRecord{}.bytes();
  const std::string sent = "[\"names\"," + std::to_string(entry.size()) + "]\n" + entry + "[\"clock\",0,5,1]\n[\"records\"," +
                           std::to_string(record.size()) + "]\n" + record + "{\"type\":9}\n";
  for (const char byte : sent) client.send({&byte, 1});  // in the smallest pieces
  REQUIRE(collector.wait_for(1));
  CHECK(collector.spans()[0].name == "name");
  CHECK(collector.spans()[0].start_time == Timestamp{1005ns});
  CHECK(eventually([&] { return collector.stats().rejected_field == 1; }));  // what follows the raw bytes is a line again
}

TEST_CASE("descriptors that could hurt are refused") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  std::uint64_t expected = 0;
  const auto refuses = [&](const std::string& line, int fd) {
    INFO(line);
    fd >= 0 ? client.line(line, fd) : client.line(line);
    ++expected;
    CHECK(eventually([&] { return refused(collector) == expected; }));
  };
  client.line(R"(["names"])", names.memory().fd());
  const std::string memory = "[\"memory\",65536]";
  SECTION("no descriptor at all") { refuses(memory, -1); }
  SECTION("a pipe") { refuses(memory, pipe[0]); }
  SECTION("a socket") {
    net::Fd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    refuses(memory, socket.get());
  }
  SECTION("no seals") {
    Memory open(1 << 20, 0);
    refuses(memory, open.fd());
  }
  SECTION("one seal of the three is missing") {
    Memory shrinks(1 << 20, F_SEAL_GROW | F_SEAL_SEAL), grows(1 << 20, F_SEAL_SHRINK | F_SEAL_SEAL),
        changes(1 << 20, F_SEAL_SHRINK | F_SEAL_GROW);
    for (Memory* one : {&shrinks, &grows, &changes}) refuses(memory, one->fd());
  }
  SECTION("an empty one") {
    Memory none(0);
    refuses(memory, none.fd());
  }
  SECTION("names that are too small, or no names") {
    NativeClient other(collector.path());
    Memory small(4096), empty(NameTable::shared_bytes);
    other.line(R"(["names"])", small.fd());
    other.line(R"(["names"])", empty.fd());
    CHECK(eventually([&] { return refused(collector) == 2; }));
  }
  SECTION("memory twice, names twice") {
    Rings rings;
    client.line(memory, rings.memory().fd());
    refuses(memory, rings.memory().fd());
    refuses(R"(["names"])", names.memory().fd());
  }
  for (const int fd : pipe) ::close(fd);
  collector.check_alive();
}

TEST_CASE("descriptors that no line asks for are closed and counted") {
  Running collector;
  NativeClient lines(collector.path(), "");
  for (int i = 0; i < 20; ++i) lines.line(R"({"type":0,"span_id":"a","trace_id":"b","time":"2026-01-01T00:00:00Z"})", 0);
  CHECK(eventually([&] { return collector.stats().refused_descriptors == 20; }));
  NativeClient native(collector.path());
  for (int i = 0; i < 50; ++i) native.line(R"(["wake"])", 0);
  CHECK(eventually([&] { return collector.stats().refused_descriptors == 20 + 42; }));
  collector.check_alive();
}

TEST_CASE("rings that cannot be are refused") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  Rings rings;
  std::string capacity = "65536", count = "1";
  SECTION("a capacity that is no power of two") { capacity = "65537"; }
  SECTION("a capacity of nothing") { capacity = "0"; }
  SECTION("a capacity larger than the memory") { capacity = "1048576"; }
  SECTION("a capacity beyond all numbers") { capacity = "18446744073709547520"; }
  SECTION("more rings than there is memory") { count = "2"; }
  SECTION("more rings than numbers") { count = "18446744073709551615"; }
  SECTION("another capacity than the page says") { rings.page().capacity = 4096; }
  SECTION("no ring") { rings.page().magic = 1; }
  SECTION("a ring of another version") { rings.page().version = 2; }
  SECTION("a head before the tail") { acknowledge(rings.page(), {64, 1}); }
  SECTION("a head far ahead of the tail") { rings.page().head = 65536 + 16; }
  SECTION("a tail in mid-record") {
    rings.page().head = 64;
    acknowledge(rings.page(), {8, 0});
  }
  client.line(R"(["names"])", names.memory().fd());
  client.line("[\"memory\"," + capacity + "]", rings.memory().fd());
  client.line("[\"rings\"," + count + "]");
  CHECK(eventually([&] { return refused(collector) == 1; }));
  collector.check_alive();
}

TEST_CASE("rings are bounded, for all services together") {
  CollectorOptions options;
  options.max_rings = 3;
  Running collector(options);
  Names names;
  Rings rings(4096, 10);
  NativeClient first(collector.path());
  first.share(names, rings, 2);
  CHECK(eventually([&] {
    rings.write(TestRecord{.name = 0}.bytes());
    first.wake();
    return acknowledged(rings.page()).taken > 0;
  }));
  Rings others(4096, 10);
  NativeClient second(collector.path());
  second.share(names, others, 2);
  CHECK(eventually([&] { return refused(collector) == 1; }));
  CHECK(second.next_line() == "[\"weir\",1,{\"native\":1,\"memory\":false}]\n");
  CHECK(others.page(0).reader_left == 1);  // the one that there was room for, too
  first.close();
  CHECK(eventually([&] { return collector.stats().open_connections == 1; }));
  NativeClient third(collector.path());
  third.share(names, others, 3);
  others.write(TestRecord{.span = 2, .name = 0}.bytes(), 2);
  third.wake();
  CHECK(eventually([&] { return acknowledged(others.page(2)).taken > 0; }));
}

TEST_CASE("a head that lies ends the reading of its ring, and of no other") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  names.add("x");
  Rings rings(65536, 2);
  client.share(names, rings, 2);
  rings.write(TestRecord{}.bytes(), 0);
  client.wake();
  REQUIRE(collector.wait_for(1));
  SECTION("beyond the capacity") { rings.page(0).head = 64 + 65536 + 16; }
  SECTION("backwards") { rings.page(0).head = 0; }
  SECTION("in mid-record") { rings.page(0).head = 64 + 8; }
  SECTION("as far as can be") { rings.page(0).head = UINT64_MAX; }
  client.wake();
  CHECK(eventually([&] { return collector.stats().broken_rings == 1; }));
  rings.write(TestRecord{.span = 2}.bytes(), 1);
  client.wake();
  CHECK(collector.wait_for(2));
  collector.check_alive();
}

TEST_CASE("records that lie end the reading, after what was good") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  names.add("x");
  Rings rings;
  std::string bad = TestRecord{.span = 2}.bytes();
  const auto set_header = [&](std::uint64_t header) { std::memcpy(bad.data(), &header, 8); };
  SECTION("of no length") { set_header(record_header(0, RecordType::span, 0, 1)); }
  SECTION("of an odd length") { set_header(72 / 8 | 1ull << 16); }
  SECTION("too short for a span") { set_header(record_header(48, RecordType::span, 0, 1)); }
  SECTION("beyond the head") { set_header(record_header(128, RecordType::span, 0, 1)); }
  SECTION("beyond the end of the ring") { set_header(record_header(65536, RecordType::span, 0, 1)); }
  SECTION("as long as can be written") { set_header(record_header(0xffff * 8, RecordType::span, 0, 1)); }
  SECTION("of an unknown type") { set_header(record_header(64, static_cast<RecordType>(9), 0, 1)); }
  SECTION("a pad beyond the end") { set_header(record_header(0x8000 * 8, RecordType::pad, 0, 0)); }
  rings.write(TestRecord{}.bytes() + bad);
  client.share(names, rings);
  CHECK(eventually([&] { return collector.stats().broken_rings == 1; }));
  CHECK(collector.wait_for(1));
  CHECK(collector.stats().native_spans == 1);
  CHECK(acknowledged(rings.page()).tail == 64);
  collector.check_alive();
}

TEST_CASE("records that cannot be spans are counted, and those after them are read") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  names.add("x");
  Rings rings;
  TestRecord bad{.span = 2};
  SECTION("no trace") { bad.trace = 0; }
  SECTION("no span id") { bad.span = 0; }
  SECTION("an unknown name") { bad.name = 2; }
  SECTION("a name beyond all names") { bad.name = UINT32_MAX; }
  SECTION("an attribute of an unknown key") { bad.text(77, "x"); }
  SECTION("an attribute longer than the record") { bad.raw(attribute_word(1, 1, 4000), "x"); }
  SECTION("an attribute as long as can be") { bad.raw(attribute_word(1, 1, 0xfffffff), "x"); }
  SECTION("more attributes than there are") { bad.text(1, "x").attribute_count = 2; }
  SECTION("255 attributes of nothing") { bad.attribute_count = 255; }
  SECTION("a number of the wrong size") { bad.raw(attribute_word(1, 2, 4), std::string(8, '\0')); }
  SECTION("an attribute of no type") { bad.raw(attribute_word(1, 0, 8), std::string(8, '\0')); }
  SECTION("an attribute of an unknown type") { bad.raw(attribute_word(1, 9, 8), std::string(8, '\0')); }
  rings.write(TestRecord{}.bytes() + bad.bytes() + TestRecord{.span = 3}.bytes());
  client.share(names, rings);
  CHECK(collector.wait_for(2));
  CHECK(eventually([&] { return collector.stats().rejected_records == 1; }));
  CHECK(collector.stats().broken_rings == 0);
  CHECK(acknowledged(rings.page()).taken == 3);
}

TEST_CASE("names that lie make records of unknown names, no more") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  names.add("good");
  Rings rings;
  const std::uint64_t head = names.page().head;
  std::byte* next = names.memory().bytes() + sizeof(NamesPage) + head;
  std::uint64_t word = 0;
  SECTION("of another id") { word = name_word(7, 1); }
  SECTION("as long as can be") { word = name_word(2, UINT32_MAX); }
  SECTION("longer than names are") { word = name_word(2, 4000); }
  SECTION("beyond the head") { word = name_word(2, 64); }
  std::memcpy(next, &word, 8);
  std::uint64_t lie = head + 16;
  SECTION("a head beyond the memory") { lie = UINT64_MAX - 7; }
  SECTION("a head in mid-word") { lie = head + 3; }
  names.page().head = lie;
  rings.write(TestRecord{.span = 2, .name = 2}.bytes());
  client.share(names, rings);
  CHECK(eventually([&] { return collector.stats().rejected_records == 1; }));
  collector.check_alive();
}

TEST_CASE("clocks and raw bytes that lie are refused") {
  Running collector;
  NativeClient client(collector.path());
  std::string line;
  SECTION("a clock that stands in no time") { line = R"(["clock",1,2,1e999])"; }
  SECTION("a clock that runs backwards") { line = R"(["clock",1,2,-1])"; }
  SECTION("a clock of words") { line = R"(["clock","a","b","c"])"; }
  SECTION("half a clock") { line = R"(["clock",1])"; }
  SECTION("too many raw bytes") { line = R"(["records",1000000000])"; }
  SECTION("no raw bytes") { line = R"(["records",0])"; }
  SECTION("fewer than no raw bytes") { line = R"(["names",-1])"; }
  SECTION("records that are none") { line = "[\"records\",16]\n0123456789abcdef"; }
  SECTION("names that are none") { line = "[\"names\",16]\n0123456789abcdef"; }
  SECTION("rings without memory") { line = R"(["rings",1])"; }
  client.line(line);
  CHECK(eventually([&] { return refused(collector) >= 1; }));
  collector.check_alive();
}

TEST_CASE("announced bytes of which half have come are bounded by max_buffered, and cost the others nothing") {
  CollectorOptions options;
  options.max_buffered = 200'000;
  Running collector(options);
  NativeClient client(collector.path());
  client.line(R"(["records",400000])");
  client.send(std::string(300'000, 'x'));
  CHECK(eventually([&] { return collector.stats().rejected_no_room == 1; }));
  collector.check_alive();
  client.send(std::string(100'000, 'x') + "{\"type\":9}\n");
  CHECK(eventually([&] { return collector.stats().rejected_field == 1; }));  // a line again
  CHECK(refused(collector) == 0);
  client.line(R"(["records",100000])");
  client.send(std::string(100'000, 'x'));
  CHECK(eventually([&] { return refused(collector) == 1; }));  // what was skipped took no room
}

TEST_CASE("whatever is announced and sent of it, the account of buffers is never below nothing, within its limit, and nothing in the end") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    SpanStore store;
    CollectorStats stats;
    NativeBounds bounds{16, 1u << 20, 0, 0};
    net::BufferBudget budget{random() % 200'000, 0};
    RingReader::Buffer buffer;
    std::vector<std::unique_ptr<NativeSource>> sources(3);
    std::vector<net::Fd> passed;
    for (int step = 0; step < 300; ++step) {
      auto& source = sources[random() % sources.size()];
      if (!source || random() % 20 == 0) source = std::make_unique<NativeSource>(store, stats, bounds, budget, buffer);
      if (!source->wants_raw()) {
        const std::string kind = random() % 2 == 0 ? "records" : "names";
        const auto line = parse_control_line("[\"" + kind + "\"," + std::to_string(random() % 150'000) + "]");
        REQUIRE(line);
        (void)source->take_line(*line, passed);
      }
      std::string bytes;
      if (random() % 2 == 0) bytes = TestRecord{.span = step + 1u}.bytes();
      bytes.resize(random() % (random() % 4 == 0 ? 100'000 : 100), static_cast<char>(random()));
      std::string_view data = bytes;
      if (source->wants_raw() && !data.empty()) (void)source->take_raw(data, {});
      REQUIRE(budget.used <= budget.limit);
    }
    sources.clear();
    REQUIRE(budget.used == 0);
    REQUIRE(bounds.bytes + bounds.rings == 0);
  }
}

TEST_CASE("near max_connections those who announce bytes and send few of them make room") {
  CollectorOptions options;
  options.max_connections = 4;
  options.idle_limit = std::chrono::milliseconds{20};
  Running collector(options);
  std::vector<std::unique_ptr<NativeClient>> slow;
  for (int i = 0; i < 4; ++i) {
    slow.push_back(std::make_unique<NativeClient>(collector.path()));
    slow.back()->line(R"(["records",400000])");
  }
  CHECK(eventually([&] {
    for (auto& client : slow) client->send("x");
    return collector.stats().dropped_idle >= 1;
  }));
  collector.check_alive();
}

TEST_CASE("a clock beyond all times gives times that are") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  names.add("x");
  Rings rings;
  client.share(names, rings);
  client.line(R"(["clock",0,9223372036854775807,1e300])");
  rings.write(TestRecord{.start = 1, .end = UINT64_MAX / 2}.bytes());
  rings.write(TestRecord{.span = 2, .start = UINT64_MAX / 2, .end = UINT64_MAX}.bytes());
  client.wake();
  CHECK(collector.wait_for(2));
  for (const Span& span : collector.spans()) CHECK(span.end_time >= span.start_time);
}

TEST_CASE("memory that changes while it is read is never believed twice") {
  Running collector;
  NativeClient client(collector.path());
  Names names;
  for (int i = 0; i < 20; ++i) names.add("name " + std::to_string(i));
  std::mt19937_64 random(11);
  std::atomic<bool> done{false};
  for (int round = 0; round < 30; ++round) {
    Rings rings(4096, 1);
    NativeClient liar(collector.path());
    liar.share(names, rings);
    done = false;
    std::thread scribbler([&, seed = random()] {
      std::mt19937_64 own(seed);
      auto* words = reinterpret_cast<volatile std::uint64_t*>(rings.data());
      while (!done) {
        const std::uint64_t value = own();
        switch (value % 4) {
          case 0: words[value >> 40 & 511] = record_header(64 + (value >> 20 & 7) * 16, RecordType::span, value >> 50 & 3, 1); break;
          case 1: words[value >> 40 & 511] = value; break;
          case 2: words[value >> 40 & 511] = attribute_word(static_cast<std::uint32_t>(value & 31), value >> 60, value >> 30 & 63); break;
          case 3: rings.page().open[value >> 40 & 63].span = value >> 50 & 1; break;
        }
      }
    });
    for (int i = 0; i < 200 && collector.stats().broken_rings <= static_cast<std::uint64_t>(round); ++i) {
      rings.page().head = acknowledged(rings.page()).tail + 64 * (random() % 60);
      liar.wake();
    }
    liar.close();
    done = true;
    scribbler.join();
  }
  collector.check_alive();
}

TEST_CASE("random memory is read without harm") {
  std::mt19937_64 random(5);
  class Counter final : public RecordVisitor {
   public:
    void span(std::span<std::byte> record) override {
      REQUIRE(record.size() >= sizeof(SpanRecord));
      spans += 1;
    }
    std::uint64_t spans = 0;
  } counter;
  RingReader::Buffer buffer;
  for (int round = 0; round < 2000; ++round) {
    Rings rings(4096);
    std::string bytes;
    while (bytes.size() < 2048) bytes += TestRecord{.span = random()}.text(1, std::string(random() % 50, 'x')).bytes();
    bytes.resize(2048 / 16 * 16);
    rings.write(bytes);
    for (std::uint64_t i = random() % 20; i > 0; --i) rings.data()[random() % 2048] = static_cast<std::byte>(random());
    if (round % 5 == 0) rings.page().head = random() % 3 == 0 ? random() : random() % 5000 / 16 * 16;
    Result<SharedMemory> memory = SharedMemory::adopt(net::Fd(::dup(rings.memory().fd())));
    REQUIRE(memory);
    Result<RingReader> reader = RingReader::open(*memory, 0, 4096);
    if (!reader) continue;
    std::size_t total = 0;
    while (const std::size_t read = reader->read(counter, buffer, 512)) total += read;
    CHECK(total <= 4096);
    CHECK((reader->broken() || acknowledged(rings.page()).tail == rings.page().head));
  }
  CHECK(counter.spans > 1000);
}

TEST_CASE("a service that is gone leaves what it wrote, in however many rings") {
  Running collector;
  Names names;
  const auto name = names.add("left");
  {
    Rings rings(4096, 40);
    NativeClient client(collector.path());
    client.share(names, rings, 40);
    for (std::size_t ring = 0; ring < 40; ++ring) {
      for (std::uint64_t i = 0; i < 30; ++i) rings.write(TestRecord{.trace = ring + 1, .span = i + 1, .name = name}.bytes(), ring);
      OpenSpan& open = rings.page(ring).open[ring % 64];
      open.start = 500;
      open.trace_high = open.trace_low = ring + 1;
      open.name_and_kind = name;
      open.span = 99;
    }
  }
  CHECK(collector.wait_for(40 * 31));
  std::size_t unfinished = 0;
  for (const Span& span : collector.spans()) unfinished += span.attrs.count(std::string(unfinished_attribute));
  CHECK(unfinished == 40);
}
