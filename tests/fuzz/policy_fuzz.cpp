// Policy files of any content: a policy, or an error with a message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "weir/collect/telemetry_policy.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto policy = weir::TelemetryPolicy::parse({reinterpret_cast<const char*>(data), size});
  if (!policy) {
    if (policy.error().message.empty()) std::abort();
    return 0;
  }
  const weir::Response response = policy->response(weir::InstanceId::parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8"));
  if (response.next_update < std::chrono::seconds{1} || response.next_update > std::chrono::hours{720}) std::abort();
  return 0;
}
