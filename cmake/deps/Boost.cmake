# Boost's headers, for Boost.Signals2, which runs beside ours in the benchmarks. 1.70 or newer; never fetched.
find_package(Boost 1.70 CONFIG QUIET)
if(TARGET Boost::headers)
  set(found TRUE)
endif()
