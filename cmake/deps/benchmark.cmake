# Google Benchmark, for the benchmarks. 1.7 or newer; never fetched: only who measures needs it.
find_package(benchmark 1.7 QUIET)
if(NOT benchmark_FOUND)
  message(FATAL_ERROR "weir: WEIR_BUILD_BENCH=${WEIR_BUILD_BENCH}, but Google Benchmark was not found.\nInstall it (Debian: libbenchmark-dev; or script/bootstrap --with bench) or set WEIR_BUILD_BENCH=OFF.")
endif()
