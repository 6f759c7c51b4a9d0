// What a telemetry endpoint answers: the body, and the headers beside it.
#include <cstdlib>
#include <string_view>

#include "telemetry/sending.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/transport.hpp"

using namespace weir;

namespace {

void require(bool truth) {
  if (!truth) std::abort();
}

bool same(const Response& a, const Response& b) {
  return a.next_update == b.next_update && a.stop == b.stop && a.error == b.error && a.disable_keys == b.disable_keys &&
         a.enable_keys == b.enable_keys;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const Result<Response> response = Response::from_json(text)) {
    require(text.size() <= max_answer_bytes);
    require(response->disable_keys.size() + response->enable_keys.size() <= 10'000);
    const std::string written = response->to_json();
    if (written.size() <= max_answer_bytes) {
      const Result<Response> again = Response::from_json(written);
      require(again && same(*response, *again));
    }
    const auto wish = detail::wish_of(*response);
    require(!wish || (*wish >= detail::min_wish && *wish <= detail::max_wish));
  } else {
    require(!response.error().message.empty());
  }
  const Timestamp now{std::chrono::seconds{1'700'000'000}};
  const auto wait = detail::retry_after(text, now);
  require(!wait || (*wait >= detail::min_wish && *wait <= detail::max_wish));
  for (const int status : {200, 410, 429, 500}) {
    const std::size_t end = text.find('\n');
    const std::string type(end == text.npos ? "application/json" : text.substr(0, end));
    const detail::Verdict verdict = detail::judge(Delivery::answered({status, type, type, std::string(text)}), now);
    require((verdict.kind == detail::Verdict::Kind::taken) ==
            (status == 200 && verdict.why.find(", but") == verdict.why.npos && verdict.why.find(" of type") == verdict.why.npos));
    require(verdict.why.size() < 2048);
  }
  return 0;
}
