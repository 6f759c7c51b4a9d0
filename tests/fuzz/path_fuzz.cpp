// A path group and a path, each on a line: matched or not, or an error with a message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "weir/view/path_groups.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t end = text.find('\n');
  const auto groups = weir::PathGroups::create({{std::string(text.substr(0, end)), "name"}});
  if (!groups) {
    if (groups.error().message.empty()) std::abort();
    return 0;
  }
  const auto found = groups->find(end == text.npos ? std::string_view() : text.substr(end + 1));
  if (found && *found != "name") std::abort();
  return 0;
}
