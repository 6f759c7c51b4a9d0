#include "weir/telemetry/transport.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/fork_memory.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

Delivery send(Transport& transport, std::string_view body, const StopToken& stop = {}) {
  return transport.send({"instance", "update", body}, stop);
}

bool taken(const Delivery& delivery) {
  return delivery.outcome == Delivery::Outcome::answered && delivery.answer.status == 200 &&
         delivery.answer.content_type == "application/json" && delivery.answer.body == "{}";
}

bool not_sent(const Delivery& delivery) { return delivery.outcome == Delivery::Outcome::not_sent; }

}  // namespace

TEST_CASE("each update is a line of the file, which is its owner's alone") {
  ScratchDir dir;
  const std::string path = dir / "updates";
  FileTransport transport{path};
  CHECK(transport.endpoint() == path);
  CHECK(taken(send(transport, R"({"a":1})")));
  CHECK(taken(send(transport, "{\"b\":\r\n2}\n")));
  CHECK(contents_of(path) == "{\"a\":1}\n{\"b\":  2} \n");
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("a line that somebody has torn stays as it is, and ours is one of its own") {
  ScratchDir dir;
  write_file(dir / "updates", "{\"torn\":");
  FileTransport transport{dir / "updates"};
  CHECK(taken(send(transport, "{}")));
  CHECK(contents_of(dir / "updates") == "{\"torn\":\n{}\n");
}

TEST_CASE("a file that cannot be written is no endpoint, and says why") {
  ScratchDir dir;
  const auto message = [](FileTransport transport) {
    const Delivery delivery = send(transport, "{}");
    CHECK(not_sent(delivery));
    return delivery.error.message;
  };
  CHECK(message(FileTransport{dir / "missing/updates"}).find("cannot open the telemetry file") == 0);
  CHECK(message(FileTransport{dir.path()}).find("cannot open the telemetry file") == 0);
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(message(FileTransport{dir / "fifo"}).find("is no regular file") != std::string::npos);
  write_file(dir / "target", "");
  REQUIRE(::symlink((dir / "target").c_str(), (dir / "link").c_str()) == 0);
  CHECK(message(FileTransport{dir / "link"}).find("cannot open the telemetry file") == 0);
  CHECK(contents_of(dir / "target").empty());
}

TEST_CASE("an update that does not fit leaves the file as it was") {
  ScratchDir dir;
  const std::string path = dir / "updates";
  const Child child = in_a_child([&] {
    FileTransport transport{path};
    if (!taken(send(transport, "{}"))) return 1;
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    return not_sent(send(transport, std::string(2000, 'x'))) ? 0 : 3;
  });
  CHECK(child.code() == 0);
  CHECK(contents_of(path) == "{}\n");
}

TEST_CASE("several writers of one file tear no line") {
  ScratchDir dir;
  const std::string path = dir / "updates";
  std::atomic<int> written{0};
  std::vector<std::thread> threads;
  for (char name : {'a', 'b', 'c'})
    threads.emplace_back([&, name] {
      FileTransport transport{path};
      for (int i = 0; i < 50; ++i) written += taken(send(transport, std::string(10'000, name))) ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(written == 150);
  const std::vector<std::string> lines = lines_of(contents_of(path));
  CHECK(lines.size() == 150);
  for (const std::string& line : lines) CHECK((line.size() == 10'000 && line.find_first_not_of(line[0]) == line.npos));
}

TEST_CASE("a file that another holds is waited for until stop is requested") {
  ScratchDir dir;
  const std::string path = dir / "updates";
  write_file(path, "");
  const int holder = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(::flock(holder, LOCK_EX) == 0);
  FileTransport transport{path};
  StopSource stop;
  std::thread stopping([&] { stop.request_stop(); });
  CHECK(not_sent(send(transport, "{}", stop.token())));
  stopping.join();
  ::close(holder);
  CHECK(contents_of(path).empty());
  CHECK(taken(send(transport, "{}")));
}

TEST_CASE("memory keeps what is sent, and answers what it is told to") {
  InMemoryTransport plain;
  InMemoryTransport copy = plain;
  CHECK(taken(send(plain, "1")));
  CHECK(taken(send(copy, "2")));
  CHECK(plain.bodies() == std::vector<std::string>{"1", "2"});

  InMemoryTransport busy([](const Update& update) { return Delivery::answered(json_answer(429, std::string(update.update_id))); });
  const Delivery delivery = send(busy, "3");
  CHECK(delivery.answer.status == 429);
  CHECK(delivery.answer.body == "update");
  CHECK(busy.bodies() == std::vector<std::string>{"3"});

  InMemoryTransport throwing([](const Update&) -> Delivery { throw std::runtime_error("oh"); });
  CHECK(send(throwing, "4").outcome == Delivery::Outcome::unknown);
  CHECK(send(throwing, "5").error.message == "oh");
}
