#include "weir/telemetry/instance_id.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/audit_trail.hpp"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/scratch_dir.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

constexpr const char* known = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

std::size_t files_in(const std::string& directory) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) count += entry.exists() ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("a file that is not there is made, and holds the id from then on") {
  ScratchDir dir;
  const Result<InstanceId> made = InstanceId::from_file(dir / "id");
  REQUIRE(made);
  CHECK(made->valid());
  CHECK(contents_of(dir / "id") == made->to_string() + "\n");
  CHECK(InstanceId::from_file(dir / "id").value() == *made);
  CHECK(InstanceId::from_file(dir / "other").value() != *made);
  CHECK(files_in(dir.path()) == 2);
}

TEST_CASE("the id is in the first line, whatever follows") {
  ScratchDir dir;
  for (const std::string text : {"", "\n", "\r\n", " \nand more\n"}) {
    write_file(dir / "id", known + text);
    const Result<InstanceId> id = InstanceId::from_file(dir / "id");
    REQUIRE(id);
    CHECK(id->to_string() == known);
  }
  REQUIRE(::symlink((dir / "id").c_str(), (dir / "link").c_str()) == 0);
  CHECK(InstanceId::from_file(dir / "link").value().to_string() == known);
}

TEST_CASE("a file that holds something else is left alone") {
  ScratchDir dir;
  for (const std::string text : {"", "\n", "hello\n", "00000000-0000-0000-0000-000000000000\n", "6ba7b810-9dad-11d1-80b4-00c04fd430c8x"}) {
    CAPTURE(text);
    write_file(dir / "id", text);
    const Result<InstanceId> id = InstanceId::from_file(dir / "id");
    REQUIRE_FALSE(id);
    CHECK(id.error().message.find("holds no instance id") != std::string::npos);
    CHECK(contents_of(dir / "id") == text);
  }
}

TEST_CASE("a path that cannot be an id's is an error that says why") {
  ScratchDir dir;
  const auto message = [](const std::string& path) {
    const Result<InstanceId> id = InstanceId::from_file(path);
    REQUIRE_FALSE(id);
    return id.error().message;
  };
  CHECK(message("").find("name a file") != std::string::npos);
  CHECK(message(std::string("a\0b", 3)).find("name a file") != std::string::npos);
  CHECK(message(dir / "missing/id").find("Its directory must be there") != std::string::npos);
  CHECK(message(dir.path()).find("cannot read the file") != std::string::npos);
  REQUIRE(::symlink((dir / "nothing").c_str(), (dir / "dangling").c_str()) == 0);
  CHECK(message(dir / "dangling").find("symbolic link to nothing") != std::string::npos);
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(message(dir / "fifo").find("holds no instance id") != std::string::npos);
  CHECK(files_in(dir.path()) == 1);  // the FIFO: no draft is left
}

TEST_CASE("threads and processes that start at once agree") {
  for (int round = 0; round < 20; ++round) {
    ScratchDir dir;
    std::set<std::string> ids;
#ifndef __SANITIZE_THREAD__
    std::array<int, 2> gate{}, out{};
    REQUIRE(::pipe(gate.data()) == 0);
    REQUIRE(::pipe(out.data()) == 0);
    std::vector<pid_t> children;
    for (int i = 0; i < 4; ++i) {
      const pid_t pid = ::fork();
      REQUIRE(pid >= 0);
      if (pid == 0) {
        become_a_child(60);
        ::close(gate[1]);
        char nothing;
        if (::read(gate[0], &nothing, 1) != 0) ::_exit(1);
        const Result<InstanceId> id = InstanceId::from_file(dir / "id");
        const std::string text = id ? id->to_string() : std::string(36, '?');
        ::_exit(::write(out[1], text.data(), text.size()) == 36 ? 0 : 1);
      }
      children.push_back(pid);
    }
    ::close(gate[0]);
    ::close(gate[1]);
    ::close(out[1]);
    std::string text;
    char part[36];
    for (ssize_t size; (size = ::read(out[0], part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(size));
    ::close(out[0]);
    for (const pid_t pid : children) {
      int status = 0;
      REQUIRE(::waitpid(pid, &status, 0) == pid);
      CHECK(status == 0);
    }
    REQUIRE(text.size() == 4 * 36);
    for (std::size_t i = 0; i < text.size(); i += 36) ids.insert(text.substr(i, 36));
#endif
    std::array<std::string, 4> found;
    std::vector<std::thread> threads;
    for (std::string& id : found) threads.emplace_back([&] { id = InstanceId::from_file(dir / "id").value().to_string(); });
    for (std::thread& thread : threads) thread.join();
    ids.insert(found.begin(), found.end());
    CHECK(ids.size() == 1);
    CHECK(files_in(dir.path()) == 1);
  }
}
