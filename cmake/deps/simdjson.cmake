# simdjson, which reads event lines that are not as the tracers write them. 3.0 or newer. Never fetched: without it nlohmann/json reads
# them.
find_package(simdjson CONFIG QUIET)
if(TARGET simdjson::simdjson AND simdjson_VERSION VERSION_GREATER_EQUAL 3.0)
  set(found TRUE)
endif()
