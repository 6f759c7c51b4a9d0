// In place of telemetry_sqlite.cpp where SQLite is not there.
#include "collect/telemetry_backend.hpp"

namespace weir::inline v0::detail {

Result<std::unique_ptr<TelemetryBackend>> open_sqlite_backend(const TelemetryStoreOptions& options) {
  return Error{std::make_error_code(std::errc::not_supported),
               "cannot open the telemetry database '" + options.path +
                   "': this weir is built without SQLite (Debian: libsqlite3-dev). Without a file, telemetry is kept in memory"};
}

}  // namespace weir::inline v0::detail
