# Every option of the build (docs/building.md lists them), and the private target that carries warnings and sanitizers.
option(WEIR_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(WEIR_BUILD_EXAMPLES "Build the examples" ${PROJECT_IS_TOP_LEVEL})
option(WEIR_BUILD_BENCH "Build the benchmarks (script/bench runs them)" OFF)
option(WEIR_INSTALL "Create the install rules" ${PROJECT_IS_TOP_LEVEL})
option(WEIR_UNITY_BUILD "Compile library and command a directory at a time: builds faster, runs slower" OFF)
option(WEIR_WARNINGS_AS_ERRORS "Treat warnings as errors" ${PROJECT_IS_TOP_LEVEL})
set(WEIR_SANITIZE "" CACHE STRING "Sanitizers to build with, as -fsanitize takes them (address,undefined or thread)")

option(WEIR_FUZZ "Build the fuzzers (script/fuzz runs them); needs clang" OFF)

set(CMAKE_CXX_EXTENSIONS OFF)

# Read by this project alone: who builds weir as a part of something else decides these.
if(PROJECT_IS_TOP_LEVEL)
  get_property(weir_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  if(NOT weir_multi_config AND NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
  endif()
  find_program(WEIR_CCACHE ccache DOC "Compiler cache, used when found")
  mark_as_advanced(WEIR_CCACHE)
  if(WEIR_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${WEIR_CCACHE}")
  endif()
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

add_library(weir_private INTERFACE)
target_compile_options(weir_private INTERFACE -Wall -Wextra -Wpedantic -Wnon-virtual-dtor $<$<BOOL:${WEIR_WARNINGS_AS_ERRORS}>:-Werror>)
# Where files are compiled together, what is one's own is taken for the others'.
set(weir_unity $<BOOL:$<TARGET_PROPERTY:UNITY_BUILD>>)
target_compile_options(weir_private INTERFACE $<IF:${weir_unity},$<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>,-Wshadow>)
# GCC 12 warns of its own std::string (bug 105329).
target_compile_options(weir_private INTERFACE $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
if(WEIR_SANITIZE)
  target_compile_options(weir_private INTERFACE -fsanitize=${WEIR_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  # GCC documents false positives of this warning together with sanitizers; it has them in its own <regex>.
  target_compile_options(weir_private INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(weir_private INTERFACE -fsanitize=${WEIR_SANITIZE})
endif()
if(WEIR_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "WEIR_FUZZ needs clang's libFuzzer: configure with -DCMAKE_CXX_COMPILER=clang++, or leave it off; the tests fuzz.* need no clang")
  endif()
  target_compile_options(weir_private INTERFACE -fsanitize=fuzzer-no-link)
endif()
