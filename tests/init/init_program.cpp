// Calls weir::init and says, as one line of JSON on stdout, what it found wired. Arguments:
//
//   socket    the spans go to a socket, and not to memory
//   code      what the environment says is said here, too
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "weir/init.hpp"
#include "weir/operation/operation.hpp"
#include "weir/trace/in_memory_sender.hpp"

namespace {

struct Work {
  struct Args {};
  struct Result {};
};

/// Keeps the resource that it is told.
class Telling final : public weir::Sender {
 public:
  explicit Telling(weir::InMemorySender sink) : sink_(std::move(sink)) {}
  void start(const weir::SenderSetup& setup) noexcept override {
    resource = setup.resource;
    sink_.start(setup);
  }
  weir::detail::ThreadRing* open_ring() noexcept override { return sink_.open_ring(); }
  void wake() noexcept override { sink_.wake(); }
  weir::FlushResult flush(Deadline deadline) noexcept override { return sink_.flush(deadline); }
  weir::FlushResult stop(Deadline deadline) noexcept override { return sink_.stop(deadline); }
  weir::TracerStats stats() const noexcept override { return sink_.stats(); }

  weir::Resource resource;

 private:
  weir::InMemorySender sink_;
};

std::size_t threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

}  // namespace

int main(int argc, char** argv) {
  bool socket = false, code = false;
  for (int i = 1; i < argc; ++i) (std::string_view(argv[i]) == "socket" ? socket : code) = true;
  weir::InMemorySender sink;
  const auto telling = std::make_shared<Telling>(sink);
  const std::size_t threads_before = threads();

  weir::InitOptions options;
  if (!socket) options.sender = telling;
  if (code) {
    options.service = "code";
    options.attributes = {{"in", "code"}, {"more", "code"}};
    options.sampler = weir::Sampler::always();
    options.max_attributes = 5;
    options.max_attribute_bytes = 50;
  }
  weir::Session session = weir::init(std::move(options));

  const weir::Op<Work> work{{}};
  {
    weir::ScopedSpan span = weir::tracer().enter("span");
    for (const char name : std::string_view("abcdefghij")) span.set(std::string(1, name), std::string(100, name));
  }
  nlohmann::json found{{"session", static_cast<bool>(session)},  {"service", telling->resource.service_name},
                       {"attributes", nlohmann::json::object()}, {"telemetry", weir::telemetry().instance_id().valid()},
                       {"root", work.parent() != nullptr},       {"sampler", weir::tracer().sampler().to_string()},
                       {"threads", threads() - threads_before}};
  for (const auto& [key, value] : telling->resource.attributes) found["attributes"][key] = value;
  if (!sink.spans().empty()) {
    const weir::StringAttributes attributes = sink.spans()[0].attrs;
    found["count"] = attributes.size();
    found["bytes"] = attributes.empty() ? 0 : attributes.begin()->second.size();
  }
  (void)session.flush();
  session.end();
  std::puts(found.dump().c_str());
  return 0;
}
