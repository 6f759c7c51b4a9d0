# SQLite 3.40 or newer. Its upstream has no CMake build, so it is never fetched: install it.
find_package(SQLite3 3.40 QUIET)
if(SQLite3_FOUND)
  set(found TRUE)
endif()
