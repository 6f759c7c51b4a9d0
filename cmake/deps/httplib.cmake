# cpp-httplib, for the HTTP server. 0.11 or newer, as the target httplib::httplib. One that is built here is header-only and without
# compression: nothing besides libweir-http has to be installed.
set(WEIR_HTTPLIB_INSTALLED FALSE)
if(NOT FETCHCONTENT_SOURCE_DIR_HTTPLIB)
  include(${CMAKE_CURRENT_LIST_DIR}/find_httplib.cmake)
  if(TARGET httplib::httplib)
    set(WEIR_HTTPLIB_INSTALLED TRUE)
  endif()
endif()
set(WEIR_HTTPLIB_INSTALLED ${WEIR_HTTPLIB_INSTALLED} PARENT_SCOPE)  # of the function that includes this
if(fetch AND NOT TARGET httplib::httplib)
  FetchContent_Declare(httplib
    URL https://github.com/yhirose/cpp-httplib/archive/refs/tags/v0.18.7.tar.gz
    URL_HASH SHA256=b7b1e9e4e77565a5a9bc95e761d5df3e7c0e8ca37c90fd78b1b031bc6cb90fc1
    SYSTEM)
  set(HTTPLIB_INSTALL OFF)
  set(HTTPLIB_USE_OPENSSL_IF_AVAILABLE OFF)
  set(HTTPLIB_USE_ZLIB_IF_AVAILABLE OFF)
  set(HTTPLIB_USE_BROTLI_IF_AVAILABLE OFF)
  set(HTTPLIB_USE_ZSTD_IF_AVAILABLE OFF)
  FetchContent_MakeAvailable(httplib)
endif()
if(TARGET httplib::httplib)
  set(found TRUE)
endif()
