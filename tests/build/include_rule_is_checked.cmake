# cmake -DSOURCE_DIR=checkout -DSCRATCH=directory -P include_rule_is_checked.cmake
#
# include_rule.cmake finds an arrow that points the wrong way: it fails when one is added to a copy of the sources.
cmake_minimum_required(VERSION 3.25)

# breaks(FILE INCLUDE...): each INCLUDE in FILE fails the check, which names the file.
function(breaks file)
  file(READ ${SCRATCH}/${file} original)
  foreach(include IN LISTS ARGN)
    file(WRITE ${SCRATCH}/${file} "#include ${include}\n${original}")
    execute_process(COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${SCRATCH} -P ${CMAKE_CURRENT_LIST_DIR}/include_rule.cmake
      RESULT_VARIABLE failed ERROR_VARIABLE message)
    if(NOT failed OR NOT message MATCHES "${file}")
      message(SEND_ERROR "${file} may include ${include}")
    endif()
  endforeach()
  file(WRITE ${SCRATCH}/${file} "${original}")
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
file(COPY ${SOURCE_DIR}/include ${SOURCE_DIR}/src DESTINATION ${SCRATCH})
breaks(include/weir/core/context.hpp "\"weir/operation/operation.hpp\"" "<weir/trace/span.hpp>")
breaks(include/weir/trace/sender.hpp "\"weir/testing.hpp\"")
breaks(include/weir/testing.hpp "\"weir/collect/collector.hpp\"")
breaks(include/weir/operation/wrap.hpp "\"weir/trace/tracer.hpp\"" "\"weir/bridge/operations_to_spans.hpp\"")
breaks(include/weir/activity/redaction.hpp "\"weir/bridge/operations_to_spans.hpp\"" "\"weir/collect/collector.hpp\"")
breaks(include/weir/operation/operation.hpp "\"weir/activity/redaction.hpp\"")
breaks(src/activity/redaction.cpp "\"collect/intake.hpp\"" "\"net/unix_socket.hpp\"")
breaks(include/weir/trace/tracer.hpp "\"weir/activity/activity.hpp\"")
breaks(include/weir/trace/tracer.hpp "\"weir/operation/operation.hpp\"" "\"weir/collect/collector.hpp\"")
breaks(include/weir/collect/collector.hpp "\"weir/view/tree.hpp\"" "\"operation.hpp\"")
breaks(src/collect/intake.cpp "\"cli/output.hpp\"" "\"weir/view/tree.hpp\"")
breaks(src/net/unix_socket.cpp "\"trace/record.hpp\"")
breaks(include/weir/activity/redaction.hpp "\"text/json.hpp\"")
breaks(src/text/time.cpp "\"trace/record.hpp\"" "\"weir/trace/event.hpp\"" "\"net/unix_socket.hpp\"")
breaks(src/trace/batch.cpp "\"collect/intake.hpp\"" "\"cli/output.hpp\"")
