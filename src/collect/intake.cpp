#include "collect/intake.hpp"

#include <limits>
#include <new>
#include <nlohmann/json.hpp>

#include "text/utf8.hpp"

namespace weir::inline v0::detail {

namespace {

constexpr std::chrono::seconds log_interval{1};
constexpr std::size_t max_excerpt = 80;
constexpr std::size_t max_control_line = 4096;
constexpr std::size_t max_service_name = 256;
constexpr std::size_t max_start_time = 64;

/// Requires: valid UTF-8.
std::string service_name(std::string name) {
  if (name.size() > max_service_name) name.resize(max_service_name);
  while (!valid_utf8(name)) name.pop_back();
  return name;
}

/// To a hello.
std::string answer_of(bool memory) { return std::string(R"(["weir",1,{"native":1,"memory":)") + (memory ? "true" : "false") + "}]\n"; }

void add_up(std::uint64_t& counter, std::uint64_t more) noexcept {
  counter += std::min(more, std::numeric_limits<std::uint64_t>::max() - counter);
}

}  // namespace

bool LogLimiter::allow(TimePoint now, std::uint64_t& suppressed) {
  if (now < next_) {
    ++suppressed_;
    return false;
  }
  next_ = now + log_interval;
  suppressed = std::exchange(suppressed_, 0);
  return true;
}

std::string excerpt_of(std::string_view line) {
  constexpr char hex[] = "0123456789abcdef";
  constexpr std::string_view more = "...";
  std::string text;
  for (const char c : line) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x20 && byte < 0x7f;
    if (text.size() + (plain ? 1 : 4) > max_excerpt) {
      text.resize(std::min(text.size(), max_excerpt - more.size()));
      return text.append(more);
    }
    if (plain) {
      text += c;
    } else {
      text.append({'\\', 'x', hex[byte >> 4], hex[byte & 15]});
    }
  }
  return text;
}

Intake::Intake(SpanStore& store, CollectorStats& stats, std::unique_lock<std::mutex>& held, const LossCallback& on_loss,
               const CollectorOptions& options, Logger& logger)
    : store_(store),
      stats_(stats),
      held_(held),
      on_loss_(on_loss),
      logger_(logger),
      native_(options.native),
      shared_memory_(options.shared_memory),
      bounds_{options.max_rings, options.max_ring_bytes},
      buffer_(std::make_unique<RingReader::Buffer>()) {}

bool Intake::take(std::string_view line, Source& source, TimePoint now) {
  ++stats_.lines;
  const std::size_t begin = line.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return refuse(stats_.rejected_malformed, "empty", line, source, now);
  try {
    return line[begin] == '[' ? take_control(line, source, now) : take_event(line, source, now);
  } catch (const std::bad_alloc&) {
    return refuse(stats_.rejected_no_room, "out of memory", {}, source, now);
  }
}

bool Intake::take_event(std::string_view line, Source& source, TimePoint now) {
  const Result<const EventView*> decoded = decoder_.decode(line);
  if (!decoded) {
    const bool malformed = decoded.error().code == std::errc::bad_message;
    return refuse(malformed ? stats_.rejected_malformed : stats_.rejected_field, decoded.error().message, line, source, now);
  }
  const EventView& event = **decoded;
  if (event.type != EventType::span_start && event.type != EventType::span_end) {
    return refuse(stats_.rejected_field, "type: neither 0 nor 1", line, source, now);
  }
  if (decoder_.repaired()) ++stats_.repaired_utf8;
  if (event.type == EventType::span_end) GapTracker::read_spans(source.place, 1);
  if (!source.service_id) source.service_id = store_.intern_service(source.service);
  store_.apply(event, *source.service_id, now);
  return true;
}

/// `["weir",version,{"service":…}]` or `["dropped",n]`.
bool Intake::take_control(std::string_view line, Source& source, TimePoint now) {
  using nlohmann::json;
  const auto malformed = [&](std::string_view reason) { return refuse(stats_.rejected_malformed, reason, line, source, now); };
  if (line.size() > max_control_line) return malformed("a control line longer than 4 KiB");
  json control = json::parse(line.begin(), line.end(), nullptr, false);
  if (control.is_discarded()) {
    const std::string repaired = repair_utf8(line);
    control = json::parse(repaired.begin(), repaired.end(), nullptr, false);
    if (control.is_discarded()) return malformed("not valid JSON");
    ++stats_.repaired_utf8;
  }
  if (control.size() >= 2 && control[0] == "dropped" && control[1].is_number_unsigned()) {
    take_drops(control, source, now);
    return true;
  }
  if (control.size() >= 2 && control[0] == "weir" && control[1].is_number_integer()) {
    if (control.size() >= 3 && control[2].is_object()) take_hello(control[2], control[1] == 1, source);
    return true;
  }
  if (source.native && !control.empty() && control[0].is_string()) {
    const Result<void> taken = source.native->take_line(control[0].get_ref<const std::string&>(), control, source.passed);
    if (source.native->gave_up_memory()) source.reply = answer_of(false);
    return taken || malformed(taken.error().message);
  }
  return malformed("an unknown control line");
}

void Intake::take_drops(const nlohmann::json& line, const Source& source, TimePoint now) {
  const auto spans = line[1].get<std::uint64_t>();
  add_up(stats_.reported_drops, spans);
  if (line.size() >= 3 && line[2].is_object()) {
    const std::pair<const char*, std::uint64_t*> reasons[] = {{"full", &stats_.reported_full},
                                                              {"too_large", &stats_.reported_too_large},
                                                              {"no_ring", &stats_.reported_no_ring},
                                                              {"reentrant", &stats_.reported_reentrant}};
    for (const auto& [reason, counter] : reasons) {
      const auto found = line[2].find(reason);
      if (found != line[2].end() && found->is_number_unsigned()) add_up(*counter, found->get<std::uint64_t>());
    }
  }
  if (on_loss_ && spans != 0) on_loss_(source.service, spans);
  if (std::uint64_t suppressed = 0; drops_limiter_.allow(now, suppressed)) {
    const std::string from = excerpt_of(source.service);
    const Attribute attributes[] = {{"service", from}, {"spans", spans}, {"all_services_so_far", stats_.reported_drops}};
    const Unlocked unlocked(held_);
    logger_.log(Logger::Level::warning, "a service dropped spans", attributes);
  }
}

void Intake::add_lost(const Source& source, std::uint64_t spans) {
  add_up(stats_.lost_spans, spans);
  if (on_loss_ && spans != 0) on_loss_(source.service, spans);
}

void Intake::take_hello(const nlohmann::json& hello, bool known_version, Source& source) {
  const auto name = hello.find("service"), pid = hello.find("pid"), start = hello.find("start_time"), sequence = hello.find("sequence");
  if (name != hello.end() && name->is_string() && !name->get_ref<const std::string&>().empty()) {
    source.service = service_name(name->get<std::string>());
    source.service_id.reset();
  }
  const auto native = hello.find("native"), memory = hello.find("memory");
  if (native_ && known_version && native != hello.end() && native->is_number_unsigned() && *native >= 1 && !source.native) {
    source.native = std::make_unique<NativeSource>(store_, stats_, bounds_, *buffer_);
    source.native->set_service(store_.intern_service(source.service));
    const bool shared = shared_memory_ && memory != hello.end() && memory->is_boolean() && memory->get<bool>();
    source.reply = answer_of(shared);
  }
  if (pid == hello.end() || !pid->is_number_unsigned() || sequence == hello.end() || !sequence->is_number_unsigned()) return;
  if (start == hello.end() || !start->is_string() || start->get_ref<const std::string&>().size() > max_start_time) return;
  GapTracker::Key key{pid->get<std::uint64_t>(), start->get<std::string>()};
  add_lost(source, gaps_.hello(source.place, std::move(key), sequence->get<std::uint64_t>()));
}

void Intake::take_raw(std::string_view& data, Source& source, TimePoint now) {
  const Result<void> taken = source.native->take_raw(data, now);
  GapTracker::read_spans(source.place, source.native->read_spans());
  if (!taken) refuse(stats_.rejected_malformed, taken.error().message, {}, source, now);
}

std::size_t Intake::drain(Source& source, std::size_t limit, TimePoint now) {
  std::size_t bytes = 0;
  try {
    bytes = source.native->drain(limit, now);
  } catch (const std::bad_alloc&) {  // what was not acknowledged is read again
    ++stats_.rejected_no_room;
  }
  GapTracker::read_spans(source.place, source.native->read_spans());
  return bytes;
}

void Intake::ended(Source& source, TimePoint now) {
  if (source.native) {
    try {
      source.native->finish(now);
    } catch (const std::bad_alloc&) {
      ++stats_.rejected_no_room;
    }
    GapTracker::read_spans(source.place, source.native->read_spans());
    source.native.reset();
  }
  add_lost(source, gaps_.ended(source.place));
}

void Intake::refuse_too_long(const Source& source, TimePoint now) {
  ++stats_.lines;
  refuse(stats_.rejected_too_long, "longer than max_line", {}, source, now);
}

void Intake::refuse_no_room(const Source& source, TimePoint now) {
  ++stats_.lines;
  refuse(stats_.rejected_no_room, "no room for half a line (max_buffered)", {}, source, now);
}

bool Intake::refuse(std::uint64_t& counter, std::string_view reason, std::string_view line, const Source& source, TimePoint now) {
  ++counter;
  GapTracker::read_spans(source.place, 1);
  std::uint64_t suppressed = 0;
  if (!limiter_.allow(now, suppressed)) return false;
  const std::string excerpt = excerpt_of(line), from = excerpt_of(source.service), why = excerpt_of(reason);
  const Attribute attributes[] = {{"reason", why}, {"service", from}, {"line", excerpt}, {"suppressed", suppressed}};
  const Unlocked unlocked(held_);
  logger_.log(Logger::Level::warning, "the collector refused a line", attributes);
  return false;
}

}  // namespace weir::inline v0::detail
