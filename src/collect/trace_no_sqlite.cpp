// In place of trace_sqlite.cpp where SQLite is not there.
#include "collect/trace_rows.hpp"

namespace weir::inline v0::detail {

Result<std::unique_ptr<TraceRows>> open_trace_rows(const std::string& path, const TraceDatabaseOptions&) {
  return Error{std::make_error_code(std::errc::not_supported),
               "cannot open the trace database '" + path + "': this weir is built without SQLite (Debian: libsqlite3-dev)"};
}

}  // namespace weir::inline v0::detail
