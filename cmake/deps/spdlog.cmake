# spdlog, for the test of include/weir/activity/spdlog_sink.hpp, and as a peer of the benchmarks. 1.10 or newer; never fetched: programs
# that have it bring it.
find_package(spdlog 1.10 CONFIG QUIET)
if(TARGET spdlog::spdlog)
  set(found TRUE)
endif()
