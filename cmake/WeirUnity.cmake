# weir_unity(TARGET): compiles a target's sources a directory at a time, which takes about half the time (WEIR_UNITY_BUILD).
# Not for measuring: hot paths are slower so. Call it when all sources are listed.
function(weir_unity target)
  if(NOT WEIR_UNITY_BUILD)
    return()
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  get_target_property(sources ${target} SOURCES)
  foreach(source IN LISTS sources)
    cmake_path(GET source PARENT_PATH directory)
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP "${target}_${directory}")
  endforeach()
endfunction()
