# prometheus-cpp, a peer of the benchmarks. 1.0 or newer; never fetched. Its CMake package asks for what its HTTP server needs.
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(WEIR_PROMETHEUS_CPP QUIET IMPORTED_TARGET GLOBAL prometheus-cpp-core)
endif()
if(TARGET PkgConfig::WEIR_PROMETHEUS_CPP)
  set(found TRUE)
endif()
