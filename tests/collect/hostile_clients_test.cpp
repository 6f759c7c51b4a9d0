// Everything that a client can do to a collector, all of it at once, beside two honest services that must not notice.
#include <poll.h>
#include <sys/mman.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "net/unix_socket.hpp"
#include "support/catch.hpp"
#include "support/eventually.hpp"
#include "support/native_client.hpp"
#include "support/process.hpp"
#include "support/running_collector.hpp"
#include "support/sanitizers.hpp"
#include "support/scratch_dir.hpp"
#include "weir/trace/event.hpp"
#include "weir/trace/socket_sender.hpp"
#include "weir/trace/tracer.hpp"

using namespace weir;
using namespace std::chrono_literals;
using weir::testing::eventually;
using weir::testing::Memory;
using weir::testing::Names;
using weir::testing::NativeClient;
using weir::testing::Process;
using weir::testing::Rings;
using weir::testing::ScratchDir;
using weir::testing::silent;

namespace {

constexpr bool plain = !weir::testing::sanitized;
constexpr std::string_view native_hello = "[\"weir\",1,{\"service\":\"evil\",\"native\":1,\"memory\":true}]\n";

/// Who does not mean well: a thread that does the same thing again and again until the end.
class Attacker {
 public:
  explicit Attacker(std::string path) : path_(std::move(path)) {}

  bool over() const { return over_; }
  void end() { over_ = true; }
  /// How often it has done what it does.
  std::uint64_t rounds() const { return rounds_; }
  void count_round() { ++rounds_; }
  const std::string& path() const { return path_; }

  /// No descriptor: it is over.
  net::Fd connect() const {
    while (!over_) {
      if (auto connected = net::connect_unix(path_)) return std::move(*connected);
      std::this_thread::yield();  // a full backlog
    }
    return {};
  }
  /// False: the collector has closed, or it is over.
  bool send(const net::Fd& fd, std::string_view bytes) const {
    while (!bytes.empty() && !over_) {
      const ssize_t sent = net::send_some(fd.get(), bytes.data(), bytes.size());
      if (sent > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(sent));
      } else if (sent == -EAGAIN) {
        pollfd entry{fd.get(), POLLOUT, 0};
        ::poll(&entry, 1, 20);
      } else {
        return false;
      }
    }
    return bytes.empty();
  }
  /// Says that it is native, and waits to be believed.
  net::Fd connect_as_native() const {
    net::Fd fd = connect();
    std::array<char, 256> answer;
    for (bool asked = send(fd, native_hello); asked && !over_;) {
      pollfd entry{fd.get(), POLLIN, 0};
      if (::poll(&entry, 1, 20) > 0) {
        if (net::receive_some(fd.get(), answer.data(), answer.size()) > 0) return fd;
        fd = connect();
        asked = send(fd, native_hello);
      }
    }
    return {};
  }
  /// Sends what `make` makes, piece after piece, on a connection that is made again when it is lost.
  void flood(const std::function<std::string(std::uint64_t)>& make, std::string_view first = {}) {
    std::uint64_t piece = 0;
    while (!over_) {
      const net::Fd fd = connect();
      if (!first.empty() && !send(fd, first)) continue;
      while (send(fd, make(piece++))) count_round();
    }
  }
  /// Keeps `count` connections, on which it has sent `first`, and makes each again that is closed.
  void hold(std::size_t count, std::string_view first) {
    std::vector<pollfd> entries;
    std::vector<net::Fd> held;
    while (!over_) {
      while (held.size() < count && !over_) {
        held.push_back(connect());
        send(held.back(), first);
        entries.push_back({held.back().get(), POLLIN, 0});
      }
      count_round();
      if (::poll(entries.data(), entries.size(), 20) <= 0) continue;
      for (std::size_t i = entries.size(); i-- > 0;) {
        std::array<char, 256> answer;
        if (entries[i].revents == 0 || net::receive_some(held[i].get(), answer.data(), answer.size()) > 0) continue;
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
        entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }

 private:
  const std::string path_;
  std::atomic<bool> over_{false};
  std::atomic<std::uint64_t> rounds_{0};
};

std::string line(const Event& event) { return to_json(event) + "\n"; }
std::string start_line(const std::string& id, const std::string& trace, const std::string& parent = "") {
  return line(Event::span_start(id, trace, parent, "evil", SpanKind::http, Timestamp{1s}));
}
std::string end_line(const std::string& id, const std::string& trace) { return line(Event::span_end(id, trace, Timestamp{2s})); }
std::string span_lines(const std::string& id, const std::string& trace, const std::string& parent = "") {
  return start_line(id, trace, parent) + end_line(id, trace);
}

/// About 16 KiB of what `one` makes.
std::string much_of(std::uint64_t piece, const std::function<std::string(std::uint64_t)>& one) {
  std::string text;
  for (std::uint64_t i = 0; text.size() < 16u << 10; ++i) text += one(piece << 16 | i);
  return text;
}

struct Attack {
  const char* name;
  std::function<void(Attacker&)> run;
  std::uint64_t at_least;  // rounds before the honest services begin
};

// The first needs a connection for a while: those after it see to it that nobody useless keeps one.
const std::vector<Attack> attacks = {
    {"sends 100 MB without a newline",
     [](Attacker& self) {
       const std::string block(64u << 10, 'x');
       while (!self.over()) {
         const net::Fd fd = self.connect();
         bool sent = true;
         for (int i = 0; i < (plain ? 1600 : 160) && sent; ++i) sent = self.send(fd, block);
         if (sent && self.send(fd, "\n")) self.count_round();
       }
     },
     1},
    {"connects and says nothing", [](Attacker& self) { self.hold(30, ""); }, 3},
    {"sends half a line", [](Attacker& self) { self.hold(30, "{\"type\":0,\"span_id\":\"half"); }, 3},
    {"sends a line byte by byte, without an end", [](Attacker& self) { self.flood([](std::uint64_t) { return "x"; }); }, 1000},
    {"nests JSON deeply",
     [](Attacker& self) {
       const std::string arrays(50'000, '['), object = "{\"type\":0,\"attrs\":";
       self.flood([&](std::uint64_t i) { return (i % 2 == 0 ? arrays : object + arrays) + "\n"; });
     },
     10},
    {"sends invalid UTF-8",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) {
         return much_of(piece, [](std::uint64_t i) {
           std::string text = span_lines("u" + std::to_string(i), "u" + std::to_string(i));
           text.replace(text.find("evil"), 4, {"\xff\xc3\xe2\x82", 4});
           return text;
         });
       });
     },
     10},
    {"sends fields of wrong types",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) {
         return much_of(piece, [](std::uint64_t i) {
           const std::array<std::string, 5> wrong = {"{\"type\":\"0\",\"span_id\":\"a\",\"trace_id\":\"t\"}\n",
                                                     "{\"type\":0,\"span_id\":7,\"trace_id\":\"t\"}\n", "{\"type\":0,\"attrs\":[1]}\n",
                                                     "{\"type\":1e99}\n", "{\"type\":0,\"span_id\":{},\"time\":true}\n"};
           return wrong[i % wrong.size()];
         });
       });
     },
     10},
    {"sends the same ids again and again",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) { return much_of(piece, [](std::uint64_t) { return span_lines("same", "same"); }); });
     },
     10},
    {"sends cycles",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) {
         return much_of(piece, [](std::uint64_t i) {
           const std::string trace = "c" + std::to_string(i);
           return span_lines("a", trace, "b") + span_lines("b", trace, "c") + span_lines("c", trace, "a") + span_lines("d", trace, "d");
         });
       });
     },
     10},
    {"starts a trace with every line",
     [](Attacker& self) {
       self.flood(
           [](std::uint64_t piece) { return much_of(piece, [](std::uint64_t i) { return start_line("s", "t" + std::to_string(i)); }); });
     },
     100},
    {"ends no span",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) {
         return much_of(piece, [](std::uint64_t i) { return start_line("s" + std::to_string(i), "endless", "p"); });
       });
     },
     100},
    {"ends what never started",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) {
         return much_of(piece, [](std::uint64_t i) { return end_line("e" + std::to_string(i), "e" + std::to_string(i % 1000)); });
       });
     },
     10},
    {"comes and goes",
     [](Attacker& self) {
       while (!self.over()) {
         self.connect().reset();
         self.count_round();
       }
     },
     100},
    {"says it is native and sends garbage",
     [](Attacker& self) {
       self.flood(
           [](std::uint64_t i) {
             const std::array<std::string, 6> lies = {"[\"records\",32]\n0123456789abcdef0123456789abcdef",
                                                      "[\"names\",16]\n0123456789abcdef",
                                                      "[\"clock\",\"a\",null,[]]\n",
                                                      "[\"rings\",99999999]\n",
                                                      "[\"memory\",4096]\n",
                                                      "[\"wake\"]\n[\"wake\",1,2,3]\n"};
             return lies[i % lies.size()];
           },
           native_hello);
     },
     10},
    {"announces bytes and does not send them",
     [](Attacker& self) { self.hold(30, std::string(native_hello) + "[\"records\",400000]\nxxx"); }, 3},
    {"announces names, and all of them are new",
     [](Attacker& self) {
       std::uint32_t last = 0;
       self.flood(
           [&](std::uint64_t piece) {
             if (piece % 64 == 0) last = 0;
             std::string bytes;
             for (int i = 0; i < 100; ++i) {
               std::string text = "name " + std::to_string(piece) + " " + std::to_string(i);
               text.resize(200, 'x');
               const std::uint64_t word = detail::name_word(++last, text.size());
               bytes.append(reinterpret_cast<const char*>(&word), 8).append(text);
             }
             return "[\"names\"," + std::to_string(bytes.size()) + "]\n" + bytes;
           },
           native_hello);
     },
     10},
    {"sends valid spans, as many as it can",
     [](Attacker& self) {
       self.flood([](std::uint64_t piece) {
         return much_of(piece, [](std::uint64_t i) { return span_lines("v" + std::to_string(i), "v" + std::to_string(i / 10)); });
       });
     },
     100},
    {"passes descriptors by the dozen",
     [](Attacker& self) {
       const Memory memory(4096);
       while (!self.over()) {
         const net::Fd fd = self.connect_as_native();
         bool sent = static_cast<bool>(fd);
         for (int i = 0; i < 24 && sent; ++i) {
           sent = net::send_with_descriptor(fd.get(), "[\"other\"]\n", 10, memory.fd()) > 0;
         }
         if (sent) self.count_round();
       }
     },
     3},
    {"shares rings that lie",
     [](Attacker& self) {
       while (!self.over()) {
         const net::Fd fd = self.connect_as_native();
         if (!fd) continue;
         Names names;
         Rings rings(65536, 1);
         const std::string memory = "[\"memory\",65536]\n";
         if (net::send_with_descriptor(fd.get(), "[\"names\"]\n", 10, names.memory().fd()) != 10 ||
             net::send_with_descriptor(fd.get(), memory.data(), memory.size(), rings.memory().fd()) <= 0 ||
             !self.send(fd, "[\"clock\",0,0,1]\n[\"rings\",1]\n")) {
           continue;
         }
         rings.write(std::string(64, '\xff'));
         if (self.send(fd, "[\"wake\"]\n")) self.count_round();
       }
     },
     3},
};

/// A service that does as it should; all of its spans, or why not.
std::string serve_honestly(const std::string& path, Wire wire, int spans) {
  SocketSenderOptions options;
  options.wire = wire;
  options.stall_timeout = 60s;
  options.logger = &silent;
  const std::string name = wire == Wire::native ? "honest native" : "honest json";
  Tracer tracer{SocketSender{path, options}, {.service_name = name}};
  for (int i = 0; i < spans; ++i) {
    {
      ScopedSpan span = tracer.enter(Name(name));
      span.set("n", i);
    }
    if (i % 250 == 249 && tracer.flush(60s).pending != 0) return "not delivered after a minute";
  }
  if (tracer.stop(60s).pending != 0) return "not delivered after a minute";
  if (tracer.stats().dropped() != 0) return std::to_string(tracer.stats().dropped()) + " spans dropped";
  return {};
}

}  // namespace

TEST_CASE("two honest services lose nothing beside nineteen hostile clients, and the collector keeps within its bounds") {
  REQUIRE(attacks.size() == 19);
  ScratchDir dir;
  const std::string path = dir / "s";
  Process collector({WEIR_BESIEGED_PROGRAM, path});
  REQUIRE(collector.line(1) == "ready");

  std::deque<Attacker> attackers;
  std::vector<std::thread> threads;
  std::vector<std::string> idle;  // attacks that do not happen
  for (const Attack& attack : attacks) {
    Attacker& attacker = attackers.emplace_back(path);
    threads.emplace_back([&] { attack.run(attacker); });
    if (!eventually([&] { return attacker.rounds() >= attack.at_least; })) idle.emplace_back(attack.name);
  }
  constexpr int spans = plain ? 5000 : 1000;
  std::array<std::string, 2> problems;
  std::thread native([&] { problems[0] = serve_honestly(path, Wire::native, spans); });
  std::thread json([&] { problems[1] = serve_honestly(path, Wire::json, spans); });
  native.join();
  json.join();
  for (Attacker& attacker : attackers) attacker.end();
  for (std::thread& thread : threads) thread.join();
  CHECK(idle.empty());
  CHECK(problems[0] == "");
  CHECK(problems[1] == "");

  collector.close(0);
  const auto told = collector.line(1);
  REQUIRE(told);
  CAPTURE(*told);
  REQUIRE(collector.wait() == 0);
  const nlohmann::json result = nlohmann::json::parse(*told);
  CHECK(result["served"] == true);
  CHECK(result["honest"] == nlohmann::json{{"honest native", spans}, {"honest json", spans}});
  CHECK(result["disorder"] == 0);
  // A callback sees what the newest span takes before room is made for it.
  const auto max_bytes = result["max_bytes"].get<std::uint64_t>(), largest = result["largest_bytes"].get<std::uint64_t>();
  CHECK(largest <= max_bytes + max_bytes / 16);
  CHECK(largest > max_bytes / 2);  // the bound was reached
  CHECK(result["during"]["store"]["bytes"].get<std::uint64_t>() <= max_bytes + max_bytes / 16);
  // Sanitizers have memory of their own.
  if (plain) CHECK(result["peak_kib"].get<std::uint64_t>() - result["start_kib"].get<std::uint64_t>() < 64u << 10);

  const nlohmann::json& stats = result["stats"];
  const auto count = [&](const char* name) { return stats["store"][name].get<std::uint64_t>(); };
  CHECK(result["spans"] == stats["store"]["spans"]);
  CHECK(count("traces") == count("kept_traces") + count("evicted_traces"));
  CHECK(count("pending") == 0);
  CHECK(count("open_traces") == 0);
  // Every event is a half of a span that was handed on, a duplicate, given up, or the late end of an unfinished span.
  const std::uint64_t accounted =
      2 * (count("spans") - count("unfinished")) + count("unfinished") + count("duplicates") + count("ends_without_start");
  CHECK(count("events") >= accounted);
  CHECK(count("events") - accounted <= count("unfinished"));
  CHECK(stats["open_connections"] == 0);
  // Each attack is seen for what it is.
  for (const char* name : {"rejected_malformed", "rejected_field", "rejected_too_long", "repaired_utf8", "dropped_idle",
                           "refused_descriptors", "broken_rings"}) {
    CAPTURE(name);
    CHECK(stats[name] > 0);
  }
  for (const char* name : {"duplicates", "cycles", "unfinished", "ends_without_start", "given_up_early", "evicted_traces"}) {
    CAPTURE(name);
    CHECK(count(name) > 0);
  }
}
