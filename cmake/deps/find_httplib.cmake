# An installed cpp-httplib, 0.11 or newer, as the target httplib::httplib; also for who links an installed weir::http.
#
# Debian ships it compiled, with a pkg-config file that names the macros it was compiled with, and without a CMake package.
find_package(httplib CONFIG QUIET)
if(NOT TARGET httplib::httplib)
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(WEIR_HTTPLIB QUIET IMPORTED_TARGET GLOBAL cpp-httplib>=0.11)
  endif()
  if(TARGET PkgConfig::WEIR_HTTPLIB)
    add_library(httplib::httplib ALIAS PkgConfig::WEIR_HTTPLIB)
  endif()
endif()
