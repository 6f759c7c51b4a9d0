#include "weir/trace/socket_path.hpp"

#include <unistd.h>
#include <cstdlib>
#include <optional>
#include <string>

#include "support/catch.hpp"

namespace {

/// An environment variable for the length of a scope; nullptr unsets it.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) { value != nullptr ? ::setenv(name_, value, 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("sockets live in the runtime directory") {
  Variable runtime("XDG_RUNTIME_DIR", "/run/user/1000");
  Variable socket("WEIR_SOCKET", nullptr);
  CHECK(weir::default_socket_directory() == "/run/user/1000/weir");
  CHECK(weir::default_socket_path() == "/run/user/1000/weir/weir.sock");
  CHECK(weir::default_view_socket_path() == "/run/user/1000/weir/weir-view.sock");
}

TEST_CASE("without a usable runtime directory they live in one of the user's own under /tmp") {
  Variable runtime("XDG_RUNTIME_DIR", GENERATE(static_cast<const char*>(nullptr), "", "relative"));
  Variable socket("WEIR_SOCKET", "");
  CHECK(weir::default_socket_directory() == "/tmp/weir-" + std::to_string(::geteuid()));
  CHECK(weir::default_socket_path() == weir::default_socket_directory() + "/weir.sock");
}

TEST_CASE("WEIR_SOCKET wins, and its view socket is beside it") {
  Variable runtime("XDG_RUNTIME_DIR", "/run/user/1000");
  Variable socket("WEIR_SOCKET", "/x/run-7.sock");
  CHECK(weir::default_socket_path() == "/x/run-7.sock");
  CHECK(weir::default_view_socket_path() == "/x/run-7-view.sock");
  CHECK(weir::default_socket_directory() == "/run/user/1000/weir");
}

TEST_CASE("a WEIR_SOCKET that can be no socket's absolute path is ignored") {
  Variable runtime("XDG_RUNTIME_DIR", "/run/user/1000");
  const std::string longest = "/" + std::string(106, 'x');
  {
    Variable socket("WEIR_SOCKET", longest.c_str());
    CHECK(weir::default_socket_path() == longest);
  }
  const std::string wrong = GENERATE_COPY(as<std::string>{}, "weir.sock", "./weir.sock", longest + "x");
  Variable socket("WEIR_SOCKET", wrong.c_str());
  CHECK(weir::default_socket_path() == "/run/user/1000/weir/weir.sock");
}

TEST_CASE("the view socket of a socket is beside it") {
  CHECK(weir::view_socket_path("/x/weir.sock") == "/x/weir-view.sock");
  CHECK(weir::view_socket_path("weir.sock") == "weir-view.sock");
  CHECK(weir::view_socket_path("/x/socket") == "/x/socket-view.sock");
}
