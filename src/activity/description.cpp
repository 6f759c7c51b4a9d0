#include "activity/description.hpp"

#include <cxxabi.h>
#include <cstdlib>
#include <exception>
#include <memory>

namespace weir::inline v0::detail {

std::string error_type(const ActivityError& error) noexcept try {
  if (error.exception != nullptr) {
    const std::unique_ptr<char, decltype(&std::free)> readable(abi::__cxa_demangle(error.exception->name(), nullptr, nullptr, nullptr),
                                                               std::free);
    return readable != nullptr ? readable.get() : error.exception->name();
  }
  if (error.code) return std::string(error.code.category().name()) + ':' + std::to_string(error.code.value());
  return {};
} catch (const std::exception&) {
  return {};
}

}  // namespace weir::inline v0::detail
