# spdlog, which runs beside ours in the benchmarks. 1.10 or newer; never fetched.
find_package(spdlog 1.10 CONFIG QUIET)
if(TARGET spdlog::spdlog)
  set(found TRUE)
endif()
