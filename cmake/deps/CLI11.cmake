# CLI11, for the command line of `weir`. Any 2.x from 2.1 on.
if(fetch)
  FetchContent_Declare(CLI11
    URL https://github.com/CLIUtils/CLI11/archive/v2.1.2.tar.gz
    URL_HASH SHA256=26291377e892ba0e5b4972cdfd4a2ab3bf53af8dac1f4ea8fe0d1376b625c8cb
    SYSTEM
    FIND_PACKAGE_ARGS 2.1)
  FetchContent_MakeAvailable(CLI11)
else()
  find_package(CLI11 2.1 QUIET)
endif()
if(TARGET CLI11::CLI11)
  set(found TRUE)
endif()
