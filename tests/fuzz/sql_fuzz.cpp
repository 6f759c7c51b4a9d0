// Queries of any content: what is normalized stays as it is, and grows by no more than a space behind each IN.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "weir/view/sql_normalize.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string once = weir::normalize_sql({reinterpret_cast<const char*>(data), size});
  if (once.size() > size + size / 2 + 4) std::abort();
  if (weir::normalize_sql(once) != once) std::abort();
  return 0;
}
