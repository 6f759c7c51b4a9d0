// `weir stats`: the counters of a running collector, asked for on its view socket.
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "cli/sessions.hpp"
#include "weir/view/tree.hpp"
#include "weir/view/view_client.hpp"

namespace weir::cli {

namespace {

using Json = nlohmann::ordered_json;

enum class Unit { count, bytes };

/// A counter that we know. `path`: where it is in the JSON.
struct Counter {
  std::string_view group, path, label;
  Unit unit = Unit::count;
};

/// In the order in which they are shown. A counter that is not here comes last, under its own name.
constexpr std::array counters{
    Counter{"spans", "/store/spans", "completed"},
    Counter{"spans", "/store/traces", "traces completed"},
    Counter{"spans", "/store/open_traces", "traces open now"},
    Counter{"spans", "/store/pending", "waiting for start or end now"},
    Counter{"spans", "/store/events", "events"},
    Counter{"spans", "/native_spans", "came natively"},
    Counter{"spans", "/store/unfinished", "unfinished"},
    Counter{"spans", "/store/late", "late"},
    Counter{"spans", "/store/duplicates", "duplicates"},
    Counter{"spans", "/store/orphans", "orphans"},
    Counter{"spans", "/store/cycles", "cycles"},
    Counter{"spans", "/store/flattened", "flattened"},
    Counter{"spans", "/store/negative_durations", "negative durations"},
    Counter{"spans", "/store/failed_callbacks", "failed callbacks"},
    Counter{"traces kept", "/store/kept_traces", "now"},
    Counter{"traces kept", "/store/restored_traces", "restored from the database"},
    Counter{"traces kept", "/store/kept_by_rule", "by a rule"},
    Counter{"traces kept", "/store/evicted_traces", "left for newer ones"},
    Counter{"traces kept", "/store/completed_early", "completed early"},
    Counter{"lines", "/lines", "read"},
    Counter{"lines", "/bytes", "bytes read", Unit::bytes},
    Counter{"lines", "/repaired_utf8", "repaired UTF-8"},
    Counter{"rejected", "/rejected_malformed", "malformed lines"},
    Counter{"rejected", "/rejected_field", "lines with a wrong field"},
    Counter{"rejected", "/rejected_too_long", "lines too long"},
    Counter{"rejected", "/rejected_no_room", "lines without room"},
    Counter{"rejected", "/rejected_records", "records"},
    Counter{"rejected", "/broken_rings", "broken rings"},
    Counter{"rejected", "/refused_descriptors", "descriptors"},
    Counter{"dropped", "/reported_drops", "spans, by services"},
    Counter{"dropped", "/reported_full", "  ring full"},
    Counter{"dropped", "/reported_too_large", "  too large"},
    Counter{"dropped", "/reported_no_ring", "  no ring"},
    Counter{"dropped", "/reported_reentrant", "  in a signal handler"},
    Counter{"dropped", "/lost_spans", "spans lost on the way"},
    Counter{"dropped", "/store/dropped_spans", "spans, their trace was full"},
    Counter{"dropped", "/store/dropped_by_rule", "traces, by a rule"},
    Counter{"dropped", "/store/dropped_by_ratio", "traces, by the ratio"},
    Counter{"dropped", "/store/unkept_spans", "  their spans"},
    Counter{"dropped", "/store/ends_without_start", "ends without a start"},
    Counter{"dropped", "/store/given_up_early", "halves given up early"},
    Counter{"dropped", "/store/dropped_attributes", "attributes"},
    Counter{"dropped", "/store/cut_attributes", "attributes cut"},
    Counter{"dropped", "/store/overflowed_texts", "names without room"},
    Counter{"connections", "/open_connections", "open now"},
    Counter{"connections", "/connections", "accepted"},
    Counter{"connections", "/refused_peers", "refused users"},
    Counter{"connections", "/dropped_idle", "dropped, idle"},
    Counter{"connections", "/listener_pauses", "pauses of the listener"},
    Counter{"memory", "/store/bytes", "traces", Unit::bytes},
    Counter{"viewers", "/view/open_clients", "connected now"},
    Counter{"viewers", "/view/clients", "served"},
    Counter{"viewers", "/view/broadcast", "spans broadcast"},
    Counter{"viewers", "/view/queued", "lines queued"},
    Counter{"viewers", "/view/sent", "lines sent"},
    Counter{"viewers", "/view/waiting", "lines waiting now"},
    Counter{"viewers", "/view/dropped", "lines dropped, read too slowly"},
    Counter{"viewers", "/view/abandoned", "lines abandoned"},
    Counter{"viewers", "/view/replays", "asked for the last traces"},
    Counter{"viewers", "/view/inquiries", "asked for the counters"},
    Counter{"viewers", "/view/stalled", "disconnected, stalled"},
    Counter{"viewers", "/view/flooding", "disconnected, flooding"},
    Counter{"viewers", "/view/refused", "refused"},
    Counter{"database", "/db/kept_traces", "traces now"},
    Counter{"database", "/db/bytes", "of JSON", Unit::bytes},
    Counter{"database", "/db/traces", "traces to store"},
    Counter{"database", "/db/stored", "stored"},
    Counter{"database", "/db/updated", "updated"},
    Counter{"database", "/db/queued", "waiting now"},
    Counter{"database", "/db/evicted", "left for newer ones"},
    Counter{"database", "/db/loaded", "loaded"},
    Counter{"database", "/db/unreadable", "unreadable"},
    Counter{"database", "/db/dropped_full", "dropped, the disk too slow"},
    Counter{"database", "/db/dropped_unwritable", "dropped, the disk full"},
    Counter{"database", "/db/dropped_too_large", "dropped, too large"},
    Counter{"database", "/db/dropped_closed", "dropped at the end"},
    Counter{"database", "/db/failed_batches", "failed writes"},
    Counter{"printed", "/print/printed", "traces"},
    Counter{"printed", "/print/dropped", "traces not printed"},
};

struct Row {
  std::string label, number;
};
struct RowGroup {
  std::string name;
  std::vector<Row> rows;
};

std::string bytes_text(double bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < units.size(); ++unit) bytes /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 || bytes >= 100 ? "%.0f%s" : "%.1f%s", bytes, units[unit]);
  return text.data();
}

class Table {
 public:
  explicit Table(bool all) : all_(all) {}

  void add(std::string_view group, std::string label, const Json& value, Unit unit = Unit::count) {
    if (!value.is_primitive() || (!all_ && value.is_number() && value.get<double>() == 0)) return;
    std::string number = value.is_string() ? printable(value.get_ref<const std::string&>()) : value.dump();
    if (value.is_number() && unit == Unit::bytes) number = bytes_text(value.get<double>());
    auto found = std::find_if(groups_.begin(), groups_.end(), [&](const RowGroup& known) { return known.name == group; });
    if (found == groups_.end()) found = groups_.insert(groups_.end(), RowGroup{std::string(group), {}});
    found->rows.push_back({std::move(label), std::move(number)});
  }
  std::string text() const {
    std::size_t labels = 0, numbers = 0;
    for (const RowGroup& group : groups_) {
      for (const Row& row : group.rows) labels = std::max(labels, row.label.size()), numbers = std::max(numbers, row.number.size());
    }
    std::string text;
    for (const RowGroup& group : groups_) {
      text += (text.empty() ? "" : "\n") + group.name + "\n";
      for (const Row& row : group.rows) {
        text += "  " + row.label + std::string(labels + 2 - row.label.size() + numbers - row.number.size(), ' ') + row.number + "\n";
      }
    }
    return text;
  }

 private:
  const bool all_;
  std::vector<RowGroup> groups_;
};

/// What is left of an object: its own numbers under `group`, what is in its objects under their names.
void add_rest(Table& table, const std::string& group, const std::string& prefix, const Json& rest) {
  for (const auto& [name, value] : rest.items()) {
    if (value.is_object()) {
      add_rest(table, prefix.empty() ? printable(name) : group, prefix.empty() ? "" : prefix + printable(name) + ".", value);
    } else if (value.is_array()) {
      for (std::size_t i = 0; i < value.size(); ++i) table.add(group, prefix + printable(name) + " " + std::to_string(i + 1), value[i]);
    } else {
      table.add(group, prefix + printable(name), value);
    }
  }
}

std::string as_text(Json json, bool all) {
  Table table(all);
  for (const Counter& counter : counters) {
    const Json::json_pointer at{std::string(counter.path)};
    if (!json.contains(at)) continue;
    table.add(counter.group, std::string(counter.label), json[at], counter.unit);
    json[at.parent_pointer()].erase(at.back());
  }
  add_rest(table, "other", "", json);
  const std::string text = table.text();
  return text.empty() ? "all counters are zero\n" : text;
}

}  // namespace

int stats(const StatsSettings& settings) {
  std::string path = settings.view_socket;
  if (path.empty()) {
    Result<std::string> found = find_session(false);
    if (!found) return say(found.error().message), exit_failed;
    path = std::move(*found);
  } else if (const std::string mistaken = socket_for_services(path); !mistaken.empty()) {
    say(mistaken);
  }
  const Result<std::string> answer = ViewClient(path).stats(settings.timeout);
  if (!answer) return say(answer.error().message), exit_failed;
  std::string text = *answer + "\n";
  if (!settings.json) {
    Json json = Json::parse(*answer, nullptr, false);
    if (!json.is_object())
      return say("the collector on '" + path + "' answers with something else than counters; see them with --json"), exit_failed;
    text = as_text(std::move(json), settings.all);
  }
  if (const int error = write_all(STDOUT_FILENO, text); error != 0) {
    return say("cannot write to stdout: " + std::system_category().message(error)), exit_failed;
  }
  return exit_ok;
}

}  // namespace weir::cli
