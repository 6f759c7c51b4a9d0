// LTTng-UST's tracepoints of the rows of spans; read several times by its macros, hence no #pragma once.
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER weir_bench
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "span_tracepoints.hpp"
#if !defined(WEIR_BENCH_SPAN_TRACEPOINTS) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define WEIR_BENCH_SPAN_TRACEPOINTS
#include <lttng/tracepoint.h>
// clang-format off
LTTNG_UST_TRACEPOINT_EVENT(weir_bench, begin,
  LTTNG_UST_TP_ARGS(const char*, name),
  LTTNG_UST_TP_FIELDS(lttng_ust_field_string(name, name)))
LTTNG_UST_TRACEPOINT_EVENT(weir_bench, end,
  LTTNG_UST_TP_ARGS(const char*, method, const char*, path, const char*, customer, long, rows),
  LTTNG_UST_TP_FIELDS(lttng_ust_field_string(method, method) lttng_ust_field_string(path, path)
    lttng_ust_field_string(customer, customer) lttng_ust_field_integer(long, rows, rows)))
// clang-format on
#endif
#include <lttng/tracepoint-event.h>
