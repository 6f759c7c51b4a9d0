// The code of LTTng-UST's tracepoints, which its macros make.
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "span_tracepoints.hpp"
