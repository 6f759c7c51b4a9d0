#include "collect/intake.hpp"

#include <limits>
#include <new>

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
               const CollectorOptions& options, net::BufferBudget& budget, Logger& logger)
    : store_(store),
      stats_(stats),
      held_(held),
      on_loss_(on_loss),
      logger_(logger),
      native_(options.native),
      shared_memory_(options.shared_memory),
      max_line_(options.max_line),
      bounds_{options.max_rings, options.max_ring_bytes},
      budget_(budget),
      buffer_(std::make_unique<RingReader::Buffer>()) {}

bool Intake::take_usual(std::string_view& data, Source& source, TimePoint now) {
  const std::size_t all = data.size();
  std::size_t behind = all;
  try {
    const EventView* const event = decoder_.decode_next(data, max_line_);
    if (event == nullptr) return false;
    ++stats_.lines;
    behind = data.size();
    apply(*event, data, source, now);
  } catch (const std::bad_alloc&) {
    if (behind == all) return false;
    if (data.size() != behind) ++stats_.rejected_no_room;  // two lines
    refuse(stats_.rejected_no_room, "out of memory", {}, source, now);
  }
  return true;
}

bool Intake::take(std::string_view line, std::string_view& following, Source& source, TimePoint now) {
  ++stats_.lines;
  const std::size_t begin = line.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return refuse(stats_.rejected_malformed, "empty", line, source, now);
  const std::size_t behind = following.size();
  try {
    return line[begin] == '[' ? take_control(line, source, now) : take_event(line, following, source, now);
  } catch (const std::bad_alloc&) {
    if (following.size() != behind) ++stats_.rejected_no_room;  // two lines
    return refuse(stats_.rejected_no_room, "out of memory", {}, source, now);
  }
}

bool Intake::take_event(std::string_view line, std::string_view& following, Source& source, TimePoint now) {
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
  apply(event, following, source, now);
  return true;
}

/// Of a start that has its end behind it, both.
void Intake::apply(const EventView& event, std::string_view& following, Source& source, TimePoint now) {
  if (!source.service_id) source.service_id = store_.intern_service(source.service);
  const EventView* const end = decoder_.decode_end(following, max_line_);
  if (end != nullptr) {
    ++stats_.lines;
    store_.apply(event, *end, *source.service_id, now);
  } else {
    store_.apply(event, *source.service_id, now);
  }
  if (end != nullptr || event.type == EventType::span_end) GapTracker::read_spans(source.place, 1);
}

/// `["weir",version,{"service":…}]` or `["dropped",n]`; of a native service more.
bool Intake::take_control(std::string_view line, Source& source, TimePoint now) {
  const auto malformed = [&](std::string_view reason) { return refuse(stats_.rejected_malformed, reason, line, source, now); };
  if (line.size() > max_control_line) return malformed("a control line longer than 4 KiB");
  std::optional<ControlLine> control = parse_control_line(line);
  if (!control && !valid_utf8(line)) {
    control = parse_control_line(repair_utf8(line));
    if (control) ++stats_.repaired_utf8;
  }
  if (!control) return malformed("not a JSON array that begins with a name");
  if (control->name == "dropped" && control->value(0).unsigned_integer()) {
    take_drops(*control, source, now);
    return true;
  }
  if (control->name == "weir" && control->value(0).integer()) {
    take_hello(*control, source);
    return true;
  }
  if (!source.native) return malformed("an unknown control line");
  const Result<void> taken = source.native->take_line(*control, source.passed);
  if (source.native->gave_up_memory()) source.reply = answer_of(false);
  return taken || malformed(taken.error().message);
}

void Intake::take_drops(const ControlLine& line, const Source& source, TimePoint now) {
  const std::uint64_t spans = line.value(0).unsigned_integer().value_or(0);
  add_up(stats_.reported_drops, spans);
  add_up(stats_.reported_full, line.option("full").unsigned_integer().value_or(0));
  add_up(stats_.reported_too_large, line.option("too_large").unsigned_integer().value_or(0));
  add_up(stats_.reported_no_ring, line.option("no_ring").unsigned_integer().value_or(0));
  add_up(stats_.reported_reentrant, line.option("reentrant").unsigned_integer().value_or(0));
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

void Intake::take_hello(const ControlLine& hello, Source& source) {
  const std::string* const name = hello.option("service").string();
  if (name != nullptr && !name->empty()) {
    source.service = service_name(*name);
    source.service_id.reset();
  }
  const bool known_version = hello.value(0).unsigned_integer() == 1u;
  if (native_ && known_version && hello.option("native").unsigned_integer() >= 1u && !source.native) {
    source.native = std::make_unique<NativeSource>(store_, stats_, bounds_, budget_, *buffer_);
    source.native->set_service(store_.intern_service(source.service));
    source.reply = answer_of(shared_memory_ && hello.option("memory").is_true());
  }
  const std::optional<std::uint64_t> pid = hello.option("pid").unsigned_integer(), sequence = hello.option("sequence").unsigned_integer();
  const std::string* const start = hello.option("start_time").string();
  if (!pid || !sequence || start == nullptr || start->size() > max_start_time) return;
  add_lost(source, gaps_.hello(source.place, {*pid, *start}, *sequence));
}

void Intake::take_raw(std::string_view& data, Source& source, TimePoint now) {
  try {
    if (const Result<void> taken = source.native->take_raw(data, now); !taken) {
      const bool no_room = taken.error().code == std::errc::not_enough_memory;
      refuse(no_room ? stats_.rejected_no_room : stats_.rejected_malformed, taken.error().message, {}, source, now);
    }
  } catch (const std::bad_alloc&) {
    ++stats_.rejected_no_room;
  }
  GapTracker::read_spans(source.place, source.native->read_spans());
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

void Intake::look_for_open(Source& source, TimePoint now) {
  try {
    source.native->look_for_open(now);
  } catch (const std::bad_alloc&) {  // the next look finds them
  }
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
