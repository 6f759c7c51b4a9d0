#pragma once
// Everything, in the order in which data flows: a service's calls, the spans they become, the collector, the viewers.

#include "weir/core/version.hpp"
// what is said
#include "weir/core/attribute.hpp"
#include "weir/core/context.hpp"
#include "weir/operation/operation.hpp"
#include "weir/operation/wrap.hpp"
// what may be written down of it
#include "weir/activity/redaction.hpp"
// where what was changed is kept
#include "weir/activity/audit_tracker.hpp"
// what is counted, and where it is reported to
#include "weir/telemetry/emitter.hpp"
#include "weir/telemetry/payload.hpp"
#include "weir/telemetry/process_metrics.hpp"
#include "weir/telemetry/telemetry.hpp"
#include "weir/telemetry/transport.hpp"
// what it becomes
#include "weir/activity/metrics_tracker.hpp"
#include "weir/activity/operation_tracker.hpp"
#include "weir/activity/span_tracker.hpp"
#include "weir/bridge/operations_to_metrics.hpp"
#include "weir/bridge/operations_to_spans.hpp"
#include "weir/bridge/tracer_metrics.hpp"
#include "weir/trace/default_tracer.hpp"
#include "weir/trace/tracer.hpp"
// how it leaves the service
#include "weir/trace/in_memory_sender.hpp"
#include "weir/trace/socket_sender.hpp"
// where it arrives
#include "weir/collect/collector.hpp"
#include "weir/collect/keep_rules.hpp"
#include "weir/trace/event.hpp"
#include "weir/trace/socket_path.hpp"
// who looks at it
#include "weir/view/analysis.hpp"
#include "weir/view/path_groups.hpp"
#include "weir/view/sql_normalize.hpp"
#include "weir/view/tree.hpp"
#include "weir/view/tree_assembler.hpp"
#include "weir/view/view_client.hpp"
#include "weir/view/view_server.hpp"
// how it is changed while it runs
#include "weir/control.hpp"
// all of it in one call
#include "weir/init.hpp"
