// In place of httplib_engine.cpp where cpp-httplib is not there.
#include "http/engine.hpp"

namespace weir::inline v0::http {

Result<std::unique_ptr<Engine>> Engine::create(Handler&, const Address& address, std::size_t) {
  return Error{std::make_error_code(std::errc::not_supported),
               "cannot serve HTTP at " + address.to_string() + ": this weir is built without cpp-httplib (Debian: libcpp-httplib-dev)"};
}

}  // namespace weir::inline v0::http
