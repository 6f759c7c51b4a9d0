// An emitter that appends to a file.
//
//   telemetry_emit FILE

#include <chrono>
#include <cstdio>
#include <string>
#include <weir/telemetry/emitter.hpp>

int complain(const weir::Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return 1;
}

int run(const std::string& path) {
  const auto id = weir::InstanceId::from_file(path + ".id");  // the same after a restart
  if (!id) return complain(id.error());
  if (const auto begun = weir::init_telemetry(*id); !begun) return complain(begun.error());

  weir::Emitter emitter{weir::telemetry(), weir::FileTransport{path}, {.interval = std::chrono::minutes{5}}};
  if (const auto started = emitter.start(); !started) return complain(started.error());  // sends now, then on schedule

  weir::telemetry().increment("requests");  // the service runs

  const bool delivered = emitter.stop(std::chrono::seconds{5});  // sends what is left
  return delivered ? 0 : 1;
}

int main(int count, char** arguments) {
  if (count == 2) return run(arguments[1]);
  std::fprintf(stderr, "usage: telemetry_emit FILE\n");
  return 2;
}
