#include "weir/collect/trace_database.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/scratch_dir.hpp"
#include "support/small_disk.hpp"
#include "weir/collect/collector.hpp"
#include "weir/collect/trace_store.hpp"
#if WEIR_HAVE_SQLITE3
#include "support/sql.hpp"
#include "weir/collect/telemetry_store.hpp"
#endif

using namespace weir;
using namespace weir::testing;
using namespace std::chrono_literals;

#if WEIR_HAVE_SQLITE3

namespace {

Timestamp at(std::int64_t nanoseconds) { return Timestamp{std::chrono::nanoseconds{nanoseconds}}; }

Span span(std::string id, std::string parent = "", std::string trace = "t") {
  Span span;
  span.id = std::move(id);
  span.trace_id = std::move(trace);
  span.parent_id = std::move(parent);
  span.name = "name of " + span.id;
  span.start_time = at(1'700'000'000'000'000'001);
  span.end_time = at(1'700'000'000'250'000'000);
  return span;
}

/// A trace of one span with so much text.
Trace trace_of(const std::string& id, std::size_t text = 10) {
  Trace trace;
  trace.trace_id = id;
  trace.service = "shop";
  trace.roots = {span("a", "", id).with_attr("text", std::string(text, 'x'))};
  trace.spans = 1;
  return trace;
}

struct Loaded {
  Trace trace;
  Timestamp completed;
};

/// A database file, and what became of it.
struct Place {
  ScratchDir dir;
  std::string path = dir / "traces.db";
  RecordingLogger logger;
  ManualClock clock{at(1'800'000'000'000'000'000)};
  TraceDatabaseOptions options{.logger = &logger, .clock = &clock};

  TraceDatabase open() const {
    Result<TraceDatabase> database = TraceDatabase::open(path, options);
    INFO((database ? std::string() : database.error().message));
    REQUIRE(database);
    return std::move(*database);
  }
  static std::vector<Loaded> load(TraceDatabase& database) {
    std::vector<Loaded> all;
    REQUIRE(database.load([&](const Trace& trace, Timestamp completed) { all.push_back({trace, completed}); }));
    return all;
  }
  std::vector<Loaded> load() const {
    TraceDatabase database = open();
    return load(database);
  }
  std::vector<std::string> ids() const { return Sql(path).column("SELECT trace_id FROM traces ORDER BY id"); }
};

bool adds_up(const TraceDatabaseStats& stats) { return stats.traces == stats.stored + stats.dropped() + stats.queued; }

void check_same(const Trace& a, const Trace& b) {
  CHECK(a.trace_id == b.trace_id);
  CHECK(a.service == b.service);
  CHECK(a.roots == b.roots);
  CHECK(a.spans == b.spans);
  CHECK(a.unfinished == b.unfinished);
  CHECK(a.late == b.late);
}

/// What a trace store makes of all that is awkward in a trace.
std::vector<Trace> awkward_traces() {
  std::vector<Trace> traces;
  TraceStore store;
  TraceStore::TimePoint now{};
  store.on_trace_complete([&](const Trace& trace) { traces.push_back(trace); });
  const auto put = [&](const std::string& trace, const std::string& id, const std::string& parent, StringAttributes attrs = {},
                       SpanKind kind = SpanKind::http) {
    store.apply(Event::span_start(id, trace, parent, "名 " + id + "\n\x01\"\\ <&>", kind, at(1'700'000'000'123'456'789)), "süß\nshop", now);
    if (!attrs.contains("open")) store.apply(Event::span_end(id, trace, at(1'700'000'001'000'000'000), std::move(attrs)), "shop", now);
  };
  const std::string hex = "4bf92f3577b34da6a3ce929d0e0e4736";
  put(hex, "00f067aa0ba902b7", "",
      {{"a", ""}, {"", "empty key"}, {"ключ", "😀"}, {"tab", "\t"}, {std::string("nul\0", 4), std::string("\0x", 2)}});
  put(hex, "00f067aa0ba902b8", "00f067aa0ba902b7", {{"error", "true"}, {"error.message", "timeout"}}, static_cast<SpanKind>(-77));
  put("one that is open", "root", "");
  put("one that is open", "open", "root", {{"open", ""}});
  put("orphans", "x", "nobody");
  put("orphans", "y", "nobody");
  put("a cycle", "p", "q");
  put("a cycle", "q", "p");
  put("a cycle", "self", "self");
  put("a text id with ' and \"", "id of text", "");
  for (int i = 0; i < 300; ++i) put("deep", "d" + std::to_string(i), i == 0 ? "" : "d" + std::to_string(i - 1));
  store.complete_all(now += 1h);
  REQUIRE(traces.size() == 6);
  return traces;
}

}  // namespace

TEST_CASE("what was stored is loaded in every field, in order, and a store that it is restored into shows it") {
  Place place;
  const std::vector<Trace> traces = awkward_traces();
  {
    TraceDatabase database = place.open();
    for (const Trace& trace : traces) {
      database.store(trace);
      place.clock.advance(1s);
    }
    REQUIRE(database.flush(1min));
    CHECK(database.stats().stored == traces.size());
    CHECK(database.stats().kept_traces == traces.size());
    CHECK(adds_up(database.stats()));
  }
  const std::vector<Loaded> loaded = place.load();
  REQUIRE(loaded.size() == traces.size());
  TraceStore store;
  TraceStore::TimePoint now{};
  store.on_span_complete([](std::string_view, const Span&) { FAIL("a restored span was handed on"); });
  store.on_trace_complete([](const Trace&) { FAIL("a restored trace was handed on"); });
  for (std::size_t i = 0; i < traces.size(); ++i) {
    CAPTURE(traces[i].trace_id);
    check_same(loaded[i].trace, traces[i]);
    CHECK(loaded[i].completed == at(1'800'000'000'000'000'000) + i * 1s);
    CHECK(store.restore(loaded[i].trace, now, now));
    CHECK_FALSE(store.restore(loaded[i].trace, now, now));
    CHECK(store.traces().at(traces[i].trace_id) == traces[i].roots);
  }
  CHECK(store.stats().restored_traces == traces.size());
  CHECK(store.stats().kept_traces == traces.size());
  CHECK(store.stats().spans == 0);
  CHECK(store.stats().traces == 0);
  CHECK(store.stats().cycles == 0);
  std::size_t spans = 0;
  for (const Trace& trace : traces) spans += trace.spans;
  CHECK(store.last_traces(100).spans.size() == spans);
  store.complete_all(now += 10s);
  CHECK(store.stats().late == 0);
}

TEST_CASE("the file is a database that others can read, for its owner alone, and a file only") {
  Place place;
  place.path = place.dir / ":memory:";
  TraceDatabase database = place.open();
  Trace trace = trace_of("t1");
  trace.roots.front().children = {span("b", "a", "t1").with_attr("error", "true")};
  trace.roots.front().children.front().end_time += 1s;
  trace.roots.push_back(span("other", "gone", "t1"));
  database.store(trace);
  REQUIRE(database.flush(1min));
  struct stat status {};
  REQUIRE(::stat(place.path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  const Sql sql(place.path);  // while the collector runs
  CHECK(sql.value("SELECT service || '|' || name || '|' || start || '|' || duration || '|' || completed || '|' || spans || '|' || failed "
                  "FROM traces WHERE trace_id = 't1'") == "shop|name of a|1700000000000000001|1249999999|1800000000000000000|3|1");
  CHECK(sql.value("SELECT json_extract(roots, '$[0].children[0].name') FROM traces") == "name of b");
  CHECK(sql.column("SELECT value FROM traces, json_tree(roots) WHERE key = 'id'") == std::vector<std::string>{"a", "b", "other"});
  CHECK(sql.value("PRAGMA integrity_check") == "ok");
}

TEST_CASE("late spans go into the row of their trace, and so does a trace that was forgotten meanwhile") {
  Place place;
  {
    TraceDatabase database = place.open();
    TraceStore store({.settle = 500ms});
    TraceStore::TimePoint now{};
    store.on_trace_complete([&](const Trace& trace) { database.store(trace); }, [&] { return database.wanted(); });
    store.on_trace_changed([&](const Trace& trace) { database.store(trace); });
    const auto put = [&](const std::string& id, const std::string& parent, bool ends = true) {
      store.apply(Event::span_start(id, "t", parent, id, SpanKind::http, at(1)), "shop", now);
      if (ends) store.apply(Event::span_end(id, "t", at(2)), "shop", now);
    };
    put("child", "root");
    put("open", "root", false);
    put("root", "");
    store.advance(now += 500ms);
    REQUIRE(database.flush(1min));
    CHECK(Sql(place.path).value("SELECT spans || ' ' || unfinished || ' ' || late FROM traces") == "3 1 0");
    put("late", "child");
    put("later", "late");
    store.apply(Event::span_end("open", "t", at(3)), "shop", now);
    store.advance(now += 500ms);
    REQUIRE(database.flush(1min));
    CHECK(database.stats().traces == 2);
    CHECK(database.stats().updated == 1);
    CHECK(database.stats().kept_traces == 1);
    CHECK(Sql(place.path).value("SELECT spans || ' ' || unfinished || ' ' || late FROM traces") == "5 0 3");
  }
  TraceDatabase database = place.open();
  Trace more = trace_of("t");
  more.roots = {span("new", "later"), span("child", "root").with_attr("k", "changed")};
  more.service = "other";
  database.store(more);
  REQUIRE(database.flush(1min));
  const std::vector<Loaded> loaded = Place::load(database);
  REQUIRE(loaded.size() == 1);
  CHECK(loaded[0].trace.spans == 6);
  CHECK(loaded[0].trace.late == 3);
  CHECK(loaded[0].trace.service == "shop");
  REQUIRE(loaded[0].trace.roots.size() == 1);
  const Span& root = loaded[0].trace.roots[0];
  CHECK(root.id == "root");
  REQUIRE(root.children.size() == 2);
  CHECK(root.children[1].attrs.at("k") == "changed");
  CHECK(root.children[1].children.at(0).children.at(0).children.at(0).id == "new");
  CHECK(Sql(place.path).number("SELECT bytes FROM traces") == static_cast<long>(database.stats().bytes));
}

TEST_CASE("a span that ends after its trace was restored is late, and an unfinished one becomes whole") {
  TraceStore store;
  TraceStore::TimePoint now{};
  std::vector<Trace> changed;
  store.on_trace_complete([](const Trace&) { FAIL("it was complete"); });
  store.on_trace_changed([&](const Trace& trace) { changed.push_back(trace); });
  Trace trace = trace_of("t");
  trace.roots[0].children = {span("b", "a").with_attr(std::string(unfinished_attribute), "true")};
  REQUIRE(store.restore(trace, now, now));
  CHECK(store.traces().at("t") == trace.roots);
  store.apply(Event::span_end("b", "t", at(1'700'000'003'000'000'000), {{"k", "v"}}), "shop", now);
  store.apply(Event::span_start("a", "t", "", "twice", SpanKind::http, at(5)), "shop", now);
  store.advance(now += 499ms);
  CHECK(changed.empty());
  store.advance(now += 1ms);
  REQUIRE(changed.size() == 1);
  CHECK(changed[0].spans == 2);
  CHECK(changed[0].unfinished == 0);
  CHECK(changed[0].late == 1);
  CHECK(changed[0].roots[0].children[0].attrs == StringAttributes{{"k", "v"}});
  CHECK(store.stats().duplicates == 1);
  CHECK(store.stats().late == 1);
  store.complete_all(now += 1h);
  CHECK(changed.size() == 1);
}

TEST_CASE("what changed is handed on before its trace is pushed out, and at the end") {
  TraceStore store({.max_traces = 1});
  TraceStore::TimePoint now{};
  std::vector<std::string> changed;
  store.on_trace_changed([&](const Trace& trace) { changed.push_back(trace.trace_id); });
  const auto put = [&](const std::string& trace, const std::string& id) {
    store.apply(Event::span_start(id, trace, id == "a" ? "" : "a", id, SpanKind::http, at(1)), "shop", now);
    store.apply(Event::span_end(id, trace, at(2)), "shop", now);
  };
  REQUIRE(store.restore(trace_of("first"), now, now));
  put("second", "a");
  now += 400ms;
  put("first", "late");
  CHECK(changed.empty());
  store.advance(now += 100ms);  // the second takes its place
  CHECK(store.stats().evicted_traces == 1);
  CHECK(changed == std::vector<std::string>{"first"});
  put("second", "late");
  store.complete_all(now);
  CHECK(changed == std::vector<std::string>{"first", "second"});
  CHECK(store.stats().evicted_traces == 1);
}

TEST_CASE("restored traces leave by their age and number, the oldest first, before new ones") {
  TraceStore store({.max_traces = 3, .max_age = 60min});
  TraceStore::TimePoint now{24h};
  for (int i = 0; i < 4; ++i) REQUIRE(store.restore(trace_of("old" + std::to_string(i)), now - 50min + i * 1min, now));
  CHECK(store.stats().evicted_traces == 1);
  CHECK(store.traces().count("old0") == 0);
  store.advance(now + 11min);
  CHECK(store.traces().count("old1") == 0);
  CHECK(store.traces().count("old2") == 1);
  store.apply(Event::span_start("a", "new", "", "a", SpanKind::http, at(1)), "shop", now + 11min);
  store.apply(Event::span_end("a", "new", at(2)), "shop", now + 11min);
  store.advance(now + 13min);
  CHECK(store.stats().kept_traces == 1);
  CHECK(store.traces().count("new") == 1);
}

TEST_CASE("a collector takes traces in before it serves") {
  ScratchDir dir;
  Collector collector(dir / "weir.sock");
  const Timestamp now = std::chrono::system_clock::now();
  REQUIRE(collector.restore(trace_of("t1"), now - 2s));
  REQUIRE(collector.restore(trace_of("t2"), now + 1h));  // a clock that was set back
  REQUIRE(collector.restore(trace_of("too old"), now - 2h));
  CHECK(collector.traces().size() == 3);
  REQUIRE(collector.listen());
  StopSource stop;
  std::thread serving([&] { CHECK(collector.serve(stop.token())); });
  CHECK(eventually([&] {
    const auto refused = collector.restore(trace_of("t3"), now);
    return !refused && refused.error().code == std::errc::operation_in_progress;
  }));
  stop.request_stop();
  serving.join();
  CHECK(collector.stats().store.restored_traces >= 3);
}

TEST_CASE("beyond a bound the traces leave that were completed first, and their room is used again") {
  Place place;
  const auto store = [&](TraceDatabase& database, int from, int to, std::size_t text = 10) {
    for (int i = from; i < to; ++i) {
      database.store(trace_of("t" + std::to_string(i), text));
      place.clock.advance(1min);
    }
    REQUIRE(database.flush(1min));
  };
  SECTION("their number") {
    place.options.max_traces = 3;
    TraceDatabase database = place.open();
    store(database, 0, 10);
    CHECK(place.ids() == std::vector<std::string>{"t7", "t8", "t9"});
    CHECK(database.stats().evicted == 7);
    CHECK(database.stats().kept_traces == 3);
  }
  SECTION("their bytes") {
    place.options.max_bytes = 100'000;
    TraceDatabase database = place.open();
    std::uintmax_t size = 0;
    for (int i = 0; i < 20; ++i) {
      store(database, i * 20, i * 20 + 20, 10'000);
      CHECK(database.stats().bytes <= 100'000);
      CHECK(database.stats().bytes > 80'000);
      if (i == 4) size = std::filesystem::file_size(place.path) + std::filesystem::file_size(place.path + "-wal");
    }
    CHECK(place.ids().back() == "t399");
    CHECK(std::filesystem::file_size(place.path) <= 2 * size);
    const Sql sql(place.path);
    CHECK(sql.number("SELECT sum(bytes) FROM traces") == static_cast<long>(database.stats().bytes));
    CHECK(sql.number("SELECT bytes FROM totals") == static_cast<long>(database.stats().bytes));
    CHECK(sql.number("SELECT traces FROM totals") == sql.number("SELECT count(*) FROM traces"));
  }
  SECTION("their age, and that of what waits in the file") {
    place.options.max_age = 5min;
    {
      TraceDatabase database = place.open();
      store(database, 0, 10);
    }
    CHECK(place.ids() == std::vector<std::string>{"t5", "t6", "t7", "t8", "t9"});
    place.clock.advance(3min);
    CHECK(place.load().size() == 2);
    CHECK(place.ids() == std::vector<std::string>{"t8", "t9"});
  }
  SECTION("bounds that have become smaller") {
    {
      TraceDatabase database = place.open();
      store(database, 0, 10);
    }
    place.options.max_traces = 2;
    CHECK(place.load().size() == 2);
    CHECK(place.ids() == std::vector<std::string>{"t8", "t9"});
  }
}

TEST_CASE("the queue is bounded, and what it has no room for is counted") {
  Place place;
  place.options.max_queue_bytes = 64 << 10;
  place.options.batch_delay = 24h;
  TraceDatabase database = place.open();
  int stored = 0;
  while (database.stats().dropped() == 0 && stored < 1000) database.store(trace_of("t" + std::to_string(stored++), 1000));
  CHECK(stored > 20);
  CHECK(stored < 70);
  TraceDatabaseStats stats = database.stats();
  CHECK(stats.dropped_full == 1);
  CHECK(stats.queued + 1 == stats.traces);
  CHECK_FALSE(database.wanted());
  database.store(trace_of("no room"));
  CHECK(database.stats().dropped_full == 3);
  database.store(trace_of("larger than the queue", 64 << 10));
  CHECK(database.stats().dropped_full == 4);
  CHECK(Sql(place.path).number("SELECT count(*) FROM traces") == 0);
  REQUIRE(database.flush(1min));
  CHECK(database.wanted());
  database.store(trace_of("room again", 1000));
  database.store(trace_of("larger than the queue", 64 << 10));
  CHECK(database.stats().dropped_too_large == 1);
  database.close(1min);
  database.close(1min);
  stats = database.stats();
  CHECK(stats.queued == 0);
  CHECK(adds_up(stats));
  CHECK(Sql(place.path).number("SELECT count(*) FROM traces") == static_cast<long>(stats.stored));
  CHECK_FALSE(database.wanted());
  database.store(trace_of("too late"));
  CHECK(database.stats().dropped_closed == 2);
  CHECK(adds_up(database.stats()));
  CHECK_FALSE(database.load([](const Trace&, Timestamp) {}));
}

TEST_CASE("a full batch does not wait for more, and a trace that is too large is dropped, merged or not") {
  Place place;
  place.options.batch_delay = 24h;
  place.options.batch_traces = 10;
  place.options.max_trace_bytes = 10'000;
  TraceDatabase database = place.open();
  for (int i = 0; i < 10; ++i) database.store(trace_of("t" + std::to_string(i)));
  CHECK(eventually([&] { return database.stats().stored == 10; }));
  database.store(trace_of("large", 10'000));
  CHECK(database.stats().dropped_too_large == 1);
  Trace more = trace_of("t0", 9'500);
  more.roots[0].id = "b";
  database.store(more);
  more.roots[0].id = "c";
  database.store(more);
  REQUIRE(database.flush(1min));
  CHECK(database.stats().dropped_too_large == 2);
  CHECK(database.stats().updated == 1);
  CHECK(adds_up(database.stats()));
  CHECK(Sql(place.path).column("SELECT value FROM traces, json_tree(roots) WHERE trace_id = 't0' AND key = 'id'") ==
        std::vector<std::string>{"a", "b"});
}

TEST_CASE("traces from several threads are each stored once") {
  Place place;
  place.options.batch_traces = 50;
  TraceDatabase database = place.open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&database, t] {
      for (int i = 0; i < 300; ++i) {
        database.store(trace_of(std::to_string(t) + "-" + std::to_string(i)));
        if (i % 100 == 0) (void)database.flush(1min);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(database.flush(1min));
  CHECK(database.stats().stored == 1200);
  CHECK(Sql(place.path).number("SELECT count(*) FROM traces") == 1200);
}

TEST_CASE("a file that is not ours is refused by name, and left as it is") {
  Place place;
  const auto error = [&] {
    const auto database = TraceDatabase::open(place.path, place.options);
    REQUIRE_FALSE(database);
    const std::string start = "cannot open the trace database '" + place.path + "': ";
    CHECK(database.error().message.starts_with(start));
    return database.error().message.substr(start.size());
  };
  const auto stored = [&](int traces) {
    TraceDatabase database = place.open();
    for (int i = 0; i < traces; ++i) database.store(trace_of("t" + std::to_string(i), 500));
    database.close(1min);
    REQUIRE(database.stats().stored == static_cast<std::uint64_t>(traces));
  };
  SECTION("no database") {
    const std::string text(5000, 'x');
    write_file(place.path, text);
    CHECK(error() == "it is no SQLite database. Name another file, or move this one away");
    CHECK(contents_of(place.path) == text);
  }
  SECTION("another program's") {
    (void)Sql((write_file(place.path, ""), place.path)).column("CREATE TABLE recipes(name)");
    const std::string before = contents_of(place.path);
    CHECK(error() == "it is another program's. Name another file");
    CHECK(contents_of(place.path) == before);
  }
  SECTION("the telemetry's") {
    { REQUIRE(TelemetryStore::open({.path = place.path})); }
    const std::string before = contents_of(place.path);
    CHECK(error() == "it is another database of weir's. Name another file");
    CHECK(contents_of(place.path) == before);
  }
  SECTION("of another version") {
    const int version = GENERATE(0, 2);
    stored(3);
    (void)Sql(place.path).column("PRAGMA user_version = " + std::to_string(version));
    CHECK(error() ==
          "its schema is version " + std::to_string(version) + ", and this weir knows 1. Name another file, or use the weir that made it");
    CHECK(Sql(place.path).number("SELECT count(*) FROM traces") == 3);
  }
  SECTION("damaged") {
    stored(100);
    std::fstream file(place.path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(8192);
    file << std::string(20'000, '\x5a');
    file.close();
    const std::string before = contents_of(place.path);
    const std::string said = error();
    CHECK(said.starts_with("it is damaged ("));
    CHECK(said.ends_with("). Move it away, and a new one is made"));
    CHECK(contents_of(place.path) == before);
  }
  SECTION("another collector's") {
    TraceDatabase first = place.open();
    const auto second = TraceDatabase::open(place.path, place.options);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == std::errc::device_or_resource_busy);
    CHECK(error() == "another collector is using it. Name another file, or end that collector");
    first.store(trace_of("t"));
    REQUIRE(first.flush(1min));
    first.close(1min);
    CHECK(place.load().size() == 1);
  }
  SECTION("held by another program") {
    stored(1);
    const Sql other(place.path);
    (void)other.column("BEGIN EXCLUSIVE");
    CHECK(error() == "another process is using it");
  }
  SECTION("in no directory") {
    place.path = place.dir / "no/such.db";
    CHECK(error() == "No such file or directory");
  }
  SECTION("a directory") {
    std::filesystem::create_directory(place.path);
    CHECK(error() == "Is a directory");
  }
  SECTION("in a directory that is not ours to write") {
    const uid_t user = ::geteuid();
    if (user == 0) {
      REQUIRE(::seteuid(65534) == 0);
    } else {
      REQUIRE(::chmod(place.dir.path().c_str(), 0500) == 0);
    }
    const std::string said = error();
    REQUIRE(::seteuid(user) == 0);
    CHECK(said == "Permission denied");
  }
  SECTION("that keeps nothing") {
    place.options.max_traces = 0;
    CHECK(error() == "a bound is 0, and would keep nothing");
    CHECK_FALSE(std::filesystem::exists(place.path));
  }
  SECTION("without a name") {
    const auto nameless = TraceDatabase::open("");
    REQUIRE_FALSE(nameless);
    CHECK(nameless.error().code == std::errc::invalid_argument);
  }
}

TEST_CASE("rows that are no traces are passed over, counted and said once") {
  Place place;
  {
    TraceDatabase database = place.open();
    for (const char* id : {"a", "b", "c", "d"}) database.store(trace_of(id));
  }
  {
    const Sql sql(place.path);
    (void)sql.column("UPDATE traces SET roots = '[]' WHERE trace_id = 'a'");
    (void)sql.column("UPDATE traces SET roots = replace(roots, 'start_time', 'begin') WHERE trace_id = 'c'");
  }
  TraceDatabase database = place.open();
  const std::vector<Loaded> loaded = Place::load(database);
  REQUIRE(loaded.size() == 2);
  CHECK(loaded[0].trace.trace_id == "b");
  CHECK(database.stats().loaded == 2);
  CHECK(database.stats().unreadable == 2);
  CHECK(place.logger.count("has rows that are no traces rows=2") == 1);
  database.store(trace_of("a"));  // and its row is whole again
  REQUIRE(database.flush(1min));
  CHECK(Place::load(database).size() == 3);
}

TEST_CASE("while another program holds the database traces wait, and the end does not") {
  Place place;
  TraceDatabase database = place.open();
  const Sql other(place.path);
  (void)other.column("BEGIN IMMEDIATE");
  database.store(trace_of("t1"));
  CHECK_FALSE(database.flush(1min));  // it was refused
  CHECK(place.logger.count("another process") + place.logger.count("locked") == 1);
  (void)other.column("COMMIT");
  CHECK(eventually([&] { return database.flush(1min); }));
  (void)other.column("BEGIN IMMEDIATE");
  database.store(trace_of("t2"));
  database.close(1min);
  CHECK(database.stats().stored == 1);
  CHECK(database.stats().dropped_unwritable == 1);
  CHECK(adds_up(database.stats()));
}

namespace {

/// Stores until the disk refuses, then until the queue is full; makes room; and all that was not dropped is stored.
template <class MakeRoom>
void fill_and_resume(Place& place, TraceDatabase& database, MakeRoom make_room) {
  int traces = 0;
  const auto more = [&] { database.store(trace_of("t" + std::to_string(traces++), 10'000)); };
  for (int i = 0; i < 2000 && database.stats().failed_batches == 0; ++i) {
    more();
    (void)database.flush(1min);
  }
  REQUIRE(database.stats().failed_batches > 0);
  CHECK(place.logger.count("cannot write to the trace database '" + place.path + "': ") == 1);
  for (int i = 0; i < 1000 && database.stats().dropped_unwritable < 3; ++i) more();
  for (int i = 0; i < 5; ++i) CHECK_FALSE(database.flush(1min));
  TraceDatabaseStats stats = database.stats();
  CHECK(stats.failed_batches >= 5);
  CHECK(stats.dropped_unwritable == 3);
  CHECK(stats.dropped_full == 0);
  CHECK(stats.queued > 0);
  CHECK(adds_up(stats));
  CHECK(place.logger.count("cannot write to the trace database") == 1);
  CHECK(place.logger.count("written again") == 0);
  make_room();
  CHECK(eventually([&] { return database.flush(1min); }));
  CHECK(eventually([&] { return place.logger.count("written again") == 1; }));
  more();
  database.close(1min);
  stats = database.stats();
  CHECK(stats.dropped() == 3);
  CHECK(stats.stored == static_cast<std::uint64_t>(traces) - 3);
  CHECK(adds_up(stats));
  CHECK(place.logger.size() == 2);
  const Sql sql(place.path);
  CHECK(sql.value("PRAGMA integrity_check") == "ok");
  CHECK(sql.number("SELECT count(*) FROM traces") == static_cast<long>(stats.stored));
}

}  // namespace

TEST_CASE("while files may not grow traces wait in the queue, which is said once, and then they are stored") {
  std::signal(SIGXFSZ, SIG_IGN);
  Place place;
  place.options.max_queue_bytes = 128 << 10;
  TraceDatabase database = place.open();
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  rlimit limit = before;
  limit.rlim_cur = 512 << 10;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  fill_and_resume(place, database, [&] { REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0); });
}

TEST_CASE("while the disk is full traces wait in the queue, which is said once, and then they are stored") {
  Place place;
  SmallDisk disk(2 << 20);
  if (!disk.why_not().empty()) {
    WARN("skipped: " << disk.why_not());
    return;
  }
  write_file(disk.path() + "/ballast", std::string(1 << 20, 'x'));
  place.path = disk.path() + "/traces.db";
  place.options.max_queue_bytes = 128 << 10;
  TraceDatabase database = place.open();
  fill_and_resume(place, database, [&] { std::filesystem::remove(disk.path() + "/ballast"); });
  CHECK(place.logger.count("database or disk is full") == 1);
}

TEST_CASE("on a read-only file system a database is an error that says so") {
  Place place;
  SmallDisk disk(2 << 20);
  if (!disk.why_not().empty()) {
    WARN("skipped: " << disk.why_not());
    return;
  }
  place.path = disk.path() + "/traces.db";
  {
    TraceDatabase database = place.open();
    database.store(trace_of("t"));
  }
  REQUIRE(disk.make_read_only());
  const auto refused = TraceDatabase::open(place.path, place.options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == std::errc::read_only_file_system);
}

#else

TEST_CASE("without SQLite a database is an error that says what is missing") {
  const auto database = TraceDatabase::open("/traces.db");
  REQUIRE_FALSE(database);
  CHECK(database.error().code == std::errc::not_supported);
  CHECK(database.error().message.find("'/traces.db': this weir is built without SQLite (Debian: libsqlite3-dev)") != std::string::npos);
}

#endif
