// checkout: a small HTTP service with a SQLite database, instrumented with weir.
//
//   checkout [--port N] [--db FILE] [--telemetry URL]
//
// The collector is found through $WEIR_SOCKET, else at the default path. Telemetry goes to the URL: what was done how often and how
// long it took, from weir::OperationsToMetrics and weir::MetricsTracker.
//
//   FILE.log and FILE.audit.jsonl, next to the database, say what it did, and what it changed
//
//   GET  /orders?limit=N    the newest orders with their items (one query for the orders, one more for each of them)
//   GET  /orders/:id        one order; 404 if there is none
//   POST /orders            {"customer":"ada","product":1,"quantity":2}; 409 when the stock does not suffice
//
// A request's headers traceparent, tracestate, baggage and x-request-id say what it belongs to; the answer names the request.

#include <httplib.h>
#include <signal.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <weir/activity/audit_tracker.hpp>
#include <weir/activity/log_tracker.hpp>
#include <weir/activity/metrics_tracker.hpp>
#include <weir/activity/span_tracker.hpp>
#include <weir/activity/tracker.hpp>
#include <weir/bridge/operations_to_metrics.hpp>
#include <weir/bridge/operations_to_spans.hpp>
#include <weir/control.hpp>
#include <weir/core/propagation.hpp>
#include <weir/operation/wrap.hpp>
#include <weir/telemetry/emitter.hpp>
#include <weir/telemetry/http_transport.hpp>
#include <weir/telemetry/process_metrics.hpp>
#include <weir/trace/socket_sender.hpp>
#include <weir/trace/tracer.hpp>

#include "database.hpp"
#include "operations.hpp"
#include "orders.hpp"

namespace checkout {
namespace {

using nlohmann::json;

/// One answer to a request.
struct Reply {
  int status = 200;
  json body;
};
using Handler = std::function<Reply(Database&, const httplib::Request&)>;

/// All that a request says under one name, as HTTP joins it.
std::string header(const httplib::Request& request, const char* name) {
  std::string values;
  for (auto [at, end] = request.headers.equal_range(name); at != end; ++at) (values += values.empty() ? "" : ",") += at->second;
  return values;
}

/// What a request belongs to: the caller's trace, or a new one.
weir::Context context_of(const httplib::Request& request) {
  const weir::Context context = weir::extract([&](const char* name) { return header(request, name); });
  return context.request_id().empty() ? context.with_new_request_id() : context;
}

/// Serves `path` (":name" stands for one segment) with `handler`, as an operation.
httplib::Server::Handler instrumented(const char* method, std::string route, std::string db_path, Handler handler) {
  return [=](const httplib::Request& request, httplib::Response& response) {
    const weir::ContextScope scope(context_of(request));
    response.set_header("x-request-id", std::string(weir::Context::current().request_id()));
    weir::wrap<HandleRequest>({method, route, request.path}, [&] {
      thread_local Database db(db_path);  // one connection per server thread
      Reply reply = handler(db, request);
      response.status = reply.status;
      response.set_content(reply.body.dump(), "application/json");
      return HandleRequest::Result{reply.status};
    });
  };
}

json items_of(Database& db, std::int64_t order) {
  json items = json::array();
  db.run("SELECT name, quantity, price FROM items JOIN products ON id = product_id WHERE order_id = ?", {order}, [&](const Row& row) {
    items.push_back({{"product", row.text(0)}, {"quantity", row.integer(1)}, {"price", row.integer(2)}});
  });
  return items;
}

Reply list_orders(Database& db, const httplib::Request& request) {
  std::int64_t limit = 5;
  if (request.has_param("limit")) {
    const std::string text = request.get_param_value("limit");
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
    if (error != std::errc{} || *end != '\0' || limit < 1 || limit > 100) return {400, {{"error", "limit must be 1 to 100"}}};
  }
  json orders = json::array();
  db.run("SELECT id, customer FROM orders ORDER BY id DESC LIMIT ?", {limit}, [&](const Row& row) {
    orders.push_back({{"id", row.integer(0)}, {"customer", row.text(1)}});
  });
  for (json& order : orders) order["items"] = items_of(db, order["id"]);  // N+1
  return {200, std::move(orders)};
}

Reply show_order(Database& db, const httplib::Request& request) {
  std::int64_t id = 0;
  const std::string text = request.matches[1];
  std::from_chars(text.data(), text.data() + text.size(), id);
  json order;
  db.run("SELECT id, customer FROM orders WHERE id = ?", {id}, [&](const Row& row) {
    order = {{"id", row.integer(0)}, {"customer", row.text(1)}};
  });
  if (order.is_null()) return {404, {{"error", "no such order"}}};
  order["items"] = items_of(db, id);
  return {200, std::move(order)};
}

Reply create_order(Database& db, weir::ActivityTracker& tracker, const httplib::Request& request) {
  const json wanted = json::parse(request.body, nullptr, false);
  const auto integer = [&](const char* key) {
    return wanted.contains(key) && wanted[key].is_number_integer() ? wanted[key].get<std::int64_t>() : 0;
  };
  const bool named = wanted.is_object() && wanted.contains("customer") && wanted["customer"].is_string();
  const NewOrder order{named ? wanted["customer"].get<std::string>() : "", integer("product"), integer("quantity")};
  if (!named || order.product < 1 || order.quantity < 1)
    return {400, {{"error", "expected {\"customer\":text,\"product\":id,\"quantity\":number above 0}"}}};
  const auto placed = place_order(db, tracker, order);
  if (const auto* refused = std::get_if<Refused>(&placed)) return {refused->status, {{"error", refused->reason}}};
  return {201, {{"id", std::get<std::int64_t>(placed)}}};
}

json to_json(const weir::TracerStats& stats) {
  return {{"emitted", stats.emitted},
          {"delivered", stats.delivered},
          {"dropped", stats.dropped()},
          {"in_flight", stats.in_flight},
          {"unacknowledged", stats.unacknowledged}};
}

int complain(const weir::Error& error) {
  std::fprintf(stderr, "checkout: %s\n", error.message.c_str());
  return 1;
}

int serve(int port, const std::string& db_path, const std::string& telemetry_url) {
  // 1. Where spans go: to the collector, by a background thread.
  weir::Tracer tracer{weir::SocketSender{}, {.service_name = "checkout"}};
  // 2. What is counted, and where it is reported to.
  const auto instance = weir::InstanceId::from_file(db_path + ".instance");
  if (!instance) return complain(instance.error());
  if (const auto begun = weir::init_telemetry(*instance); !begun) return complain(begun.error());
  const weir::Telemetry& telemetry = weir::telemetry();
  telemetry.at_emit(weir::process_metrics);
  weir::Emitter emitter{telemetry, weir::HttpTransport{telemetry_url}};
  if (!telemetry_url.empty())
    if (const auto started = emitter.start(); !started) return complain(started.error());
  // 3. Who listens: bridges that turn every operation into a span, and into metrics of its type.
  weir::Root root;
  root.observe(std::make_shared<weir::OperationsToSpans>(tracer));
  root.observe(std::make_shared<weir::OperationsToMetrics>(telemetry));
  weir::RootScope installed{std::move(root)};
  // 4. What becomes of what the business code says: a span, lines in a log, metrics, and in the audit trail what was changed.
  weir::SpanTracker spans(tracer);
  const auto log_file = weir::FileSink::open(db_path + ".log");
  if (!log_file) return complain(log_file.error());
  weir::LogTracker log(*log_file, {.asynchronous = true});
  const auto audit = weir::AuditTracker::open(db_path + ".audit.jsonl");
  if (!audit) return complain(audit.error());
  weir::MetricsTracker metrics(telemetry);
  weir::ChainedTracker activities(spans, log, metrics, **audit);
  // 5. Who may change sampling, level and keys while it runs: `weir agent`.
  if (const auto listening = weir::enable_control({.service = "checkout"}); !listening) (void)complain(listening.error());
  // 6. The service.
  {
    Database db(db_path);
    create_schema(db);
  }
  httplib::Server server;
  server.set_tcp_nodelay(true);  // else each answer waits for the acknowledgement of its headers
  server.Get("/orders", instrumented("GET", "/orders", db_path, list_orders));
  server.Get(R"(/orders/(\d+))", instrumented("GET", "/orders/:id", db_path, show_order));
  server.Post("/orders", instrumented("POST", "/orders", db_path, [&](Database& db, const httplib::Request& request) {
                return create_order(db, activities, request);
              }));
  server.set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
    response.status = 500;
    response.set_content(R"({"error":"internal error"})", "application/json");
  });
  const int bound = port != 0 ? (server.bind_to_port("127.0.0.1", port) ? port : -1) : server.bind_to_any_port("127.0.0.1");
  if (bound < 0) {
    std::fprintf(stderr, "checkout: cannot listen on 127.0.0.1:%d; is another service on that port? Choose one with --port\n", port);
    return 1;
  }
  std::fprintf(stderr, "listening http=127.0.0.1:%d\n", bound);

  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  std::thread stopper([&] {
    int signal = 0;
    sigwait(&stop_signals, &signal);
    server.stop();
  });
  server.listen_after_bind();
  stopper.join();

  if (!emitter.stop()) std::fprintf(stderr, "checkout: not all telemetry was delivered\n");
  tracer.stop();
  std::fprintf(stderr, "%s\n", to_json(tracer.stats()).dump().c_str());
  return 0;
}

}  // namespace
}  // namespace checkout

int main(int argc, char** argv) {
  int port = 0;
  std::string db = "checkout.db", telemetry;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--port" && i + 1 < argc) {
      port = std::atoi(argv[++i]);
    } else if (option == "--db" && i + 1 < argc) {
      db = argv[++i];
    } else if (option == "--telemetry" && i + 1 < argc) {
      telemetry = argv[++i];
    } else {
      std::fprintf(option == "--help" ? stdout : stderr,
                   "usage: checkout [--port N (default: any free one)] [--db FILE (default: checkout.db)]\n"
                   "                [--telemetry URL (as http://127.0.0.1:4318/v1/update/; default: reports nothing)]\n");
      return option == "--help" ? 0 : 2;
    }
  }
  sigset_t signals;  // before any thread starts, so that only the stopper takes them
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  try {
    return checkout::serve(port, db, telemetry);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "checkout: %s\n", error.what());
    return 1;
  }
}
