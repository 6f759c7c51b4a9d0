# {fmt}: text formatting in src. Any version from 9.1 on.
#
# Sets weir_fmt, what the library links: the installed fmt::fmt, which the package then names as a dependency; or, when
# fmt is built here, the header-only variant, so that nothing besides libweir has to be installed.
FetchContent_Declare(fmt
  URL https://github.com/fmtlib/fmt/archive/9.1.0.tar.gz
  URL_HASH SHA256=5dea48d1fcddc3ec571ce2058e13910a0d4a6bab4cc09a809d8b1dd1c88ae6f2
  SYSTEM
  FIND_PACKAGE_ARGS 9.1)
FetchContent_MakeAvailable(fmt)
if(fmt_FOUND)
  set(weir_fmt fmt::fmt)
else()
  set(weir_fmt $<BUILD_INTERFACE:fmt::fmt-header-only>)
endif()
