#include <unistd.h>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/commands.hpp"
#include "cli/sessions.hpp"
#include "cli/signals.hpp"
#include "cli/station.hpp"
#include "cli/summary.hpp"
#include "cli/telemetry.hpp"
#include "weir/trace/socket_path.hpp"
#include "weir/view/tree.hpp"

namespace weir::cli {

namespace {

constexpr std::chrono::seconds database_timeout{5};  // for the last batches

ViewServerOptions view_options(const CollectSettings& settings) {
  ViewServerOptions options;
  options.allow_uids = settings.collector.allow_uids;
  options.logger = settings.collector.logger;
  return options;
}

TraceDatabaseOptions database_options(const CollectSettings& settings) {
  TraceDatabaseOptions options;
  options.max_traces = settings.collector.store.max_traces;
  options.max_bytes = settings.collector.store.max_bytes;
  options.max_age = settings.collector.store.max_age;
  options.logger = settings.collector.logger;
  return options;
}

std::string socket_of(const CollectSettings& settings) { return settings.socket.empty() ? default_socket_path() : settings.socket; }

std::string view_socket_of(const CollectSettings& settings) {
  return settings.view_socket.empty() ? view_socket_path(socket_of(settings)) : settings.view_socket;
}

}  // namespace

Station::Station(const CollectSettings& settings, int fd, std::string name)
    : db_(settings.db),
      db_options_(database_options(settings)),
      view_(view_socket_of(settings), view_options(settings)),
      collector_(socket_of(settings), settings.collector) {
  collector_.on_span_complete([this](std::string_view, const Span& span) { view_.broadcast(span); },
                              [this] { return view_.conn_count() > 0; });
  collector_.on_loss([this](std::string_view service, std::uint64_t spans) { view_.broadcast_loss(service, spans); });
  view_.on_replay([this](std::size_t traces, std::size_t max_bytes) { return collector_.last_traces(traces, max_bytes); });
  if (!db_.empty()) collector_.on_trace_changed([this](const Trace& trace) { database_->store(trace); });
  view_.on_stats([this] { return counters(); });
  if (settings.print == Print::none) {
    if (db_.empty()) return;
    collector_.on_trace_complete([this](const Trace& trace) { database_->store(trace); }, [this] { return database_->wanted(); });
    return;
  }
  printer_.emplace(fd, std::move(name));
  const TreeStyle style{.colour = wants_colour(fd)};
  collector_.on_trace_complete([this, style, json = settings.print == Print::json](const Trace& trace) {
    if (database_) database_->store(trace);
    std::string text;
    for (const Span& root : trace.roots) text += json ? to_json(root) + "\n" : format_tree(root, style);
    printer_->print(std::move(text));
  });
}

Station::~Station() = default;

Result<void> Station::restore() {
  Result<TraceDatabase> opened = TraceDatabase::open(db_, db_options_);
  if (!opened) return opened.error();
  database_.emplace(std::move(*opened));
  Result<void> restored;
  Result<void> loaded = database_->load([&](const Trace& trace, Timestamp completed) {
    if (restored) restored = collector_.restore(trace, completed);
  });
  return loaded ? restored : loaded;
}

Result<void> Station::listen() {
  if (!db_.empty()) {
    if (auto restored = restore(); !restored) return restored;
  }
  if (auto bound = collector_.listen(); !bound) return bound;
  return view_.listen();
}

Result<void> Station::serve(const StopToken& stop) {
  Result<void> viewed;
  std::thread viewing([&] { viewed = view_.serve(StopToken{}); });
  Result<void> served = collector_.serve(stop);
  view_.close();
  viewing.join();
  if (database_) database_->close(database_timeout);
  if (printer_) printer_->finish();
  return served ? viewed : served;
}

std::string Station::counters() const {
  auto json = nlohmann::ordered_json::parse(collector_.stats().to_json(), nullptr, false);
  if (!json.is_object()) json = nlohmann::ordered_json::object();
  json["view"] = nlohmann::ordered_json::parse(view_.stats().to_json(), nullptr, false);
  if (database_) json["db"] = nlohmann::ordered_json::parse(database_->stats().to_json(), nullptr, false);
  json["print"] = {{"printed", printer_ ? printer_->printed() : 0}, {"dropped", printer_ ? printer_->dropped() : 0}};
  if (telemetry_) json["telemetry"] = nlohmann::ordered_json::parse(telemetry_(), nullptr, false);
  return json.dump();
}

int collect(const CollectSettings& settings) {
  if (settings.socket.empty()) hint_at_socket_variable();
  Result<Signals> signals = Signals::block({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return say(signals.error().message), exit_failed;
  Result<net::EventFd> end = net::EventFd::create();
  if (!end) return say(end.error().message), exit_failed;
  Station station(settings, STDOUT_FILENO, "stdout");
  if (auto bound = station.listen(); !bound) return say(bound.error().message), exit_failed;
  auto telemetry = TelemetryDesk::open(settings);
  if (!telemetry) return say(telemetry.error().message), exit_failed;
  TelemetryDesk* const desk = telemetry->get();
  if (desk != nullptr) station.also_count([desk] { return desk->counters(); });

  StopSource stop;
  SignalThread on_signal(*signals, std::move(*end), stop_on_signal(stop));
  if (desk != nullptr) desk->start(stop);
  (void)write_all(STDERR_FILENO, "listening socket=" + printable(station.socket()) + " view=" + printable(station.view_socket()) +
                                     (desk != nullptr ? " http=" + printable(desk->address()) : "") +
                                     (settings.db.empty() ? "" : " db=" + printable(settings.db)) + "\n");
  Result<void> served = station.serve(stop.token());
  stop.request_stop();
  if (desk != nullptr) {
    if (Result<void> telemetry_served = desk->finish(); served) served = std::move(telemetry_served);
  }
  if (::isatty(STDERR_FILENO) == 1)
    say_summary(station.stats(), station.not_stored());
  else
    (void)write_all(STDERR_FILENO, station.counters() + "\n");
  if (!served) return say(served.error().message), exit_failed;
  return exit_ok;
}

}  // namespace weir::cli
