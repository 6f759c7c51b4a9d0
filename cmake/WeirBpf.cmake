# Programs for the kernel. cmake/deps/BPF.cmake has found what they are built with.
#
# weir_add_bpf(weir_instrument instrument/bpf/process_events.bpf.c): compiles the source and makes <weir_process_events.skel.h> of it, with
# which libbpf loads it, for the sources of the target. The compiler sees that header as a system's: it is not ours.
include_guard(GLOBAL)

# The command that compiles, but for what and where to. linux/bpf.h asks for headers that Debian keeps by architecture. No path
# of the build machine goes into the object.
function(weir_bpf_compiler result)
  set(architecture "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(architecture -D__TARGET_ARCH_x86)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(architecture -D__TARGET_ARCH_arm64)
  endif()
  set(includes "")
  foreach(directory IN LISTS WEIR_LIBBPF_INCLUDE_DIRS)
    list(APPEND includes -isystem ${directory})
  endforeach()
  if(CMAKE_LIBRARY_ARCHITECTURE)
    list(APPEND includes -idirafter /usr/include/${CMAKE_LIBRARY_ARCHITECTURE})
  endif()
  set(${result} ${WEIR_BPF_CLANG} -target bpf -O2 -g -Wall -Wextra -Wno-unused-parameter -fdebug-compilation-dir=. ${architecture} ${includes}
    PARENT_SCOPE)
endfunction()

# Sets `result` to why a small program cannot be built, in a few words; to nothing if it can.
function(weir_try_bpf result)
  set(directory ${CMAKE_BINARY_DIR}/CMakeFiles/weir_bpf)
  file(WRITE ${directory}/try.bpf.c "#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
struct task_struct { int tgid; } __attribute__((preserve_access_index));
int seen = 0;
SEC(\"tp_btf/sched_process_exec\") int BPF_PROG(on_exec, struct task_struct *task) { seen = BPF_CORE_READ(task, tgid); return 0; }
char LICENSE[] SEC(\"license\") = \"Dual MIT/GPL\";
")
  weir_bpf_compiler(compiler)
  set(${result} "" PARENT_SCOPE)
  execute_process(COMMAND ${compiler} -c try.bpf.c -o try.o WORKING_DIRECTORY ${directory}
    RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT status EQUAL 0)
    string(REGEX REPLACE "\n.*" "" line "${text}")
    set(${result} "${WEIR_BPF_CLANG} cannot compile for BPF (status ${status}) ${line}" PARENT_SCOPE)
    return()
  endif()
  foreach(command IN ITEMS "object;try.bpf.o;try.o" "skeleton;try.bpf.o;name;try")
    execute_process(COMMAND ${WEIR_BPFTOOL} gen ${command} WORKING_DIRECTORY ${directory}
      RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text)
    if(NOT status EQUAL 0)
      string(REGEX REPLACE "\n.*" "" line "${text}")
      set(${result} "${WEIR_BPFTOOL} does not work (status ${status}) ${line}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

function(weir_add_bpf target source)
  cmake_path(ABSOLUTE_PATH source OUTPUT_VARIABLE source)
  cmake_path(GET source PARENT_PATH from)
  cmake_path(GET source FILENAME file)
  string(REPLACE ".bpf.c" "" name ${file})
  set(directory ${CMAKE_CURRENT_BINARY_DIR}/${target}_bpf)
  set(skeleton ${directory}/weir_${name}.skel.h)
  file(MAKE_DIRECTORY ${directory})
  weir_bpf_compiler(compiler)
  add_custom_command(OUTPUT ${directory}/${name}.bpf.o
    COMMAND ${compiler} -MD -MF ${directory}/${name}.d -MT ${directory}/${name}.bpf.o -c ${file} -o ${directory}/${name}.o
    COMMAND ${WEIR_BPFTOOL} gen object ${directory}/${name}.bpf.o ${directory}/${name}.o  # keeps the BTF and drops the rest of -g
    DEPENDS ${source} DEPFILE ${directory}/${name}.d WORKING_DIRECTORY ${from}
    COMMENT "Compiling ${file} for the kernel" VERBATIM)
  add_custom_command(OUTPUT ${skeleton}
    COMMAND ${WEIR_BPFTOOL} gen skeleton ${directory}/${name}.bpf.o name weir_${name} > ${skeleton}.new
    COMMAND ${CMAKE_COMMAND} -E rename ${skeleton}.new ${skeleton}
    DEPENDS ${directory}/${name}.bpf.o VERBATIM)
  target_sources(${target} PRIVATE ${skeleton})
  target_include_directories(${target} SYSTEM PRIVATE ${directory})
endfunction()
