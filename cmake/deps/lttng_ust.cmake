# LTTng-UST, a peer of the benchmarks. 2.13 or newer, whose macros have a prefix; never fetched.
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(WEIR_LTTNG_UST QUIET IMPORTED_TARGET GLOBAL lttng-ust>=2.13)
endif()
if(TARGET PkgConfig::WEIR_LTTNG_UST)
  set(found TRUE)
endif()
