# cpp-httplib, for the HTTP side of examples/checkout. 0.11 or newer, as the target httplib::httplib.
#
# Debian ships it compiled, with a pkg-config file that names the macros it was compiled with, and without a CMake package.
find_package(httplib CONFIG QUIET)
if(NOT TARGET httplib::httplib AND NOT FETCHCONTENT_SOURCE_DIR_HTTPLIB)
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(WEIR_HTTPLIB QUIET IMPORTED_TARGET GLOBAL cpp-httplib>=0.11)
  endif()
  if(TARGET PkgConfig::WEIR_HTTPLIB)
    add_library(httplib::httplib ALIAS PkgConfig::WEIR_HTTPLIB)
  endif()
endif()
if(fetch AND NOT TARGET httplib::httplib)
  FetchContent_Declare(httplib
    URL https://github.com/yhirose/cpp-httplib/archive/refs/tags/v0.18.7.tar.gz
    URL_HASH SHA256=b7b1e9e4e77565a5a9bc95e761d5df3e7c0e8ca37c90fd78b1b031bc6cb90fc1
    SYSTEM)
  set(HTTPLIB_INSTALL OFF)
  FetchContent_MakeAvailable(httplib)
endif()
if(TARGET httplib::httplib)
  set(found TRUE)
endif()
