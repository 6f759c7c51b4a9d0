// Events and spans from JSON. The reader below receives the tokens of one document and fills the Event or Span directly:
// no document tree, no recursion, whatever the nesting. nlohmann::json only finds the tokens; it is named in this file alone.
#include "trace/decode.hpp"

#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "text/json.hpp"
#include "text/utf8.hpp"

namespace weir::inline v0 {

namespace detail {

namespace {

constexpr std::size_t max_depth = 16;  // containers below the object of an event or span, its children aside

enum Field : unsigned { unknown, type, id, trace_id, parent_id, name, kind, time, end_time, attrs, children };

/// Where the fields of one object go; a null pointer means that the object has no such field.
struct Target {
  EventType* type = nullptr;
  std::string* id = nullptr;
  std::string* trace_id = nullptr;
  std::string* parent_id = nullptr;
  std::string* name = nullptr;
  SpanKind* kind = nullptr;
  Timestamp* time = nullptr;
  Timestamp* end_time = nullptr;
  StringAttributes* attrs = nullptr;
  std::vector<Span>* children = nullptr;
  unsigned seen = 0;  // bit n: the field n has a value

  explicit Target(Event& event)
      : type(&event.type),
        id(&event.span_id),
        trace_id(&event.trace_id),
        parent_id(&event.parent_id),
        name(&event.name),
        kind(&event.kind),
        time(&event.time),
        attrs(&event.attrs) {}
  explicit Target(Span& span)
      : id(&span.id),
        trace_id(&span.trace_id),
        parent_id(&span.parent_id),
        name(&span.name),
        kind(&span.kind),
        time(&span.start_time),
        end_time(&span.end_time),
        attrs(&span.attrs),
        children(&span.children) {}

  bool is_event() const { return type != nullptr; }

  Field field(std::string_view key) const {
    if (key == "trace_id") return Field::trace_id;
    if (key == "parent_id") return Field::parent_id;
    if (key == "name") return Field::name;
    if (key == "kind") return Field::kind;
    if (key == "attrs") return Field::attrs;
    if (is_event()) return key == "type" ? Field::type : key == "span_id" ? Field::id : key == "time" ? Field::time : Field::unknown;
    return key == "id"           ? Field::id
           : key == "start_time" ? Field::time
           : key == "end_time"   ? Field::end_time
           : key == "children"   ? Field::children
                                 : Field::unknown;
  }

  const char* key(Field field) const {
    switch (field) {
      case Field::type: return "type";
      case Field::id: return is_event() ? "span_id" : "id";
      case Field::trace_id: return "trace_id";
      case Field::parent_id: return "parent_id";
      case Field::name: return "name";
      case Field::kind: return "kind";
      case Field::time: return is_event() ? "time" : "start_time";
      case Field::end_time: return "end_time";
      case Field::attrs: return "attrs";
      case Field::children: return "children";
      case Field::unknown: break;
    }
    return "unknown field";
  }
};

/// Receives tokens. Every function returns false to end the parse, after noting why in error().
class Reader {
 public:
  explicit Reader(Event& event) : document_(event) {}
  explicit Reader(Span& span) : document_(span) {}

  /// The reason why parsing ended; an empty message if the document was fine.
  Error& error() { return error_; }

  // Called by the parser.
  bool null() {
    return scalar("null", [this] { return null_field(); });
  }
  bool boolean(bool value) {
    return scalar(value ? "true" : "false", [this] { return wrong_type(); });
  }
  bool number_integer(std::int64_t value) {
    return scalar_number(value, [&] { return integer_field(value); });
  }
  bool number_unsigned(std::uint64_t value) {
    return scalar_number(value, [&] {
      return integer_field(value > std::uint64_t{std::numeric_limits<std::int64_t>::max()} ? std::numeric_limits<std::int64_t>::max()
                                                                                           : static_cast<std::int64_t>(value));
    });
  }
  bool number_float(double, const std::string& text) {
    return scalar(text, [this] { return wrong_type(); });
  }
  bool string(std::string& text) {
    if (in_attrs_ && raw_depth_ == 0) {
      open_.back().attrs->insert_or_assign(std::move(key_), std::move(text));
      return true;
    }
    if (raw_depth_ > 0) {
      if (keep_raw_) {
        begin_raw_value();
        append_json_string(raw_, text, JsonEscapes::no_html);
      }
      return true;
    }
    return open_.empty() ? no_object() : in_children_ ? wrong_type() : string_field(text);
  }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool key(std::string& text) {
    if (raw_depth_ > 0) {
      if (keep_raw_) {
        begin_raw_value();
        append_json_string(raw_, text, JsonEscapes::no_html);
        raw_ += ':';
        raw_comma_ = false;
      }
    } else if (in_attrs_) {
      key_ = std::move(text);
    } else {
      field_ = open_.back().field(text);
    }
    return true;
  }
  bool start_object(std::size_t) {
    if (raw_depth_ > 0 || in_attrs_) return start_raw('{');
    if (open_.empty()) {
      open_.push_back(document_);
      return true;
    }
    if (in_children_) return start_child();
    if (field_ == Field::unknown) return start_raw('{');
    if (field_ != Field::attrs) return wrong_type();
    open_.back().attrs->clear();
    in_attrs_ = true;
    return true;
  }
  bool end_object() {
    if (raw_depth_ > 0) return end_raw('}');
    if (in_attrs_) {
      in_attrs_ = false;
      return true;
    }
    if (!complete(open_.back())) return false;
    open_.pop_back();
    in_children_ = !open_.empty();
    return true;
  }
  bool start_array(std::size_t) {
    if (raw_depth_ > 0 || in_attrs_) return start_raw('[');
    if (open_.empty()) return no_object();
    if (in_children_) return wrong_type();
    if (field_ == Field::unknown) return start_raw('[');
    if (field_ != Field::children) return wrong_type();
    open_.back().children->clear();
    in_children_ = true;
    return true;
  }
  bool end_array() {
    if (raw_depth_ > 0) return end_raw(']');
    in_children_ = false;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const std::exception&) {
    return malformed("not valid JSON at byte " + std::to_string(position));
  }

 private:
  bool malformed(std::string message) {
    error_ = {std::make_error_code(std::errc::bad_message), std::move(message)};
    return false;
  }
  bool no_object() { return malformed("not a JSON object"); }
  bool bad_field(Field field, std::string_view problem) {
    std::string message = open_.back().key(field);
    message.append(": ").append(problem);
    error_ = {std::make_error_code(std::errc::invalid_argument), std::move(message)};
    return false;
  }
  bool wrong_type() {
    if (in_children_) return bad_field(Field::children, "must hold objects");
    switch (field_) {
      case Field::unknown: return true;
      case Field::type: return bad_field(field_, "must be an integer of 32 bits");
      case Field::kind: return bad_field(field_, "must be an integer of 32 bits");
      case Field::attrs: return bad_field(field_, "must be an object");
      case Field::children: return bad_field(field_, "must be an array");
      default: return bad_field(field_, "must be a string");
    }
  }

  /// A value without parts: as an attribute, within a value that is kept as text, or for the field through `assign`.
  template <class Assign>
  bool scalar(std::string_view text, Assign assign) {
    if (raw_depth_ > 0) {
      if (keep_raw_) {
        begin_raw_value();
        raw_ += text;
      }
      return true;
    }
    if (in_attrs_) {
      open_.back().attrs->insert_or_assign(std::move(key_), std::string(text));
      return true;
    }
    return open_.empty() ? no_object() : assign();
  }
  template <class Number, class Assign>
  bool scalar_number(Number number, Assign assign) {
    if (raw_depth_ > 0 || in_attrs_) return scalar(std::to_string(number), assign);
    return open_.empty() ? no_object() : assign();
  }

  bool null_field() {
    if (in_children_) return wrong_type();
    Target& target = open_.back();
    target.seen &= ~(1u << field_);  // as if the key were not there, nor an earlier one of the same name
    switch (field_) {
      case Field::id: target.id->clear(); break;
      case Field::trace_id: target.trace_id->clear(); break;
      case Field::parent_id: target.parent_id->clear(); break;
      case Field::name: target.name->clear(); break;
      case Field::kind: *target.kind = SpanKind::function; break;
      case Field::attrs: target.attrs->clear(); break;
      case Field::children: target.children->clear(); break;
      default: break;
    }
    return true;
  }
  bool integer_field(std::int64_t value) {
    const bool fits = value >= std::numeric_limits<std::int32_t>::min() && value <= std::numeric_limits<std::int32_t>::max();
    if (in_children_ || (field_ != Field::type && field_ != Field::kind) || !fits) return wrong_type();
    Target& target = open_.back();
    target.seen |= 1u << field_;
    if (field_ == Field::type) {
      *target.type = static_cast<EventType>(value);
    } else {
      *target.kind = static_cast<SpanKind>(value);
    }
    return true;
  }
  bool string_field(std::string& text) {
    Target& target = open_.back();
    target.seen |= 1u << field_;
    switch (field_) {
      case Field::id: *target.id = std::move(text); return true;
      case Field::trace_id: *target.trace_id = std::move(text); return true;
      case Field::parent_id: *target.parent_id = std::move(text); return true;
      case Field::name: *target.name = std::move(text); return true;
      case Field::time: return time_field(text, *target.time);
      case Field::end_time: return time_field(text, *target.end_time);
      default: return wrong_type();
    }
  }
  bool time_field(std::string_view text, Timestamp& time) {
    const Result<Timestamp> parsed = parse_time(text);
    if (!parsed) return bad_field(field_, parsed.error().message);
    time = *parsed;
    return true;
  }
  bool start_child() {
    if (open_.size() >= max_span_depth) {
      return malformed("spans nested deeper than " + std::to_string(max_span_depth));
    }
    open_.push_back(Target(open_.back().children->emplace_back()));
    in_children_ = false;
    return true;
  }
  /// Whether everything that must be there was there.
  bool complete(const Target& target) {
    if (target.is_event() && !(target.seen & 1u << Field::type)) return bad_field(Field::type, "missing");
    if (target.id->empty()) return bad_field(Field::id, target.seen & 1u << Field::id ? "empty" : "missing");
    if (target.trace_id->empty()) return bad_field(Field::trace_id, target.seen & 1u << Field::trace_id ? "empty" : "missing");
    if (!(target.seen & 1u << Field::time)) return bad_field(Field::time, "missing");
    if (!target.is_event() && !(target.seen & 1u << Field::end_time)) return bad_field(Field::end_time, "missing");
    return true;
  }

  // A container that is skipped (an unknown field) or kept as text (the value of an attribute).
  bool start_raw(char bracket) {
    if (raw_depth_ == 0) {
      keep_raw_ = in_attrs_;
      raw_.clear();
      raw_comma_ = false;
    }
    if (++raw_depth_ + (in_attrs_ ? 1 : 0) > max_depth) return malformed("nested deeper than " + std::to_string(max_depth));
    if (keep_raw_) {
      begin_raw_value();
      raw_ += bracket;
      raw_comma_ = false;
    }
    return true;
  }
  bool end_raw(char bracket) {
    if (keep_raw_) {
      raw_ += bracket;
      raw_comma_ = true;
    }
    if (--raw_depth_ == 0 && keep_raw_) open_.back().attrs->insert_or_assign(std::move(key_), std::move(raw_));
    return true;
  }
  void begin_raw_value() {
    if (raw_comma_) raw_ += ',';
    raw_comma_ = true;
  }

  Target document_;
  std::vector<Target> open_;  // the objects around the current token, outermost first
  Field field_ = Field::unknown;
  bool in_attrs_ = false, in_children_ = false;
  std::string key_;  // of the attribute whose value comes next
  std::size_t raw_depth_ = 0;
  bool keep_raw_ = false, raw_comma_ = false;
  std::string raw_;
  Error error_;
};

template <class T>
Result<T> decode_valid(std::string_view json) {
  T value;
  Reader reader(value);
  if (nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) return value;
  return std::move(reader.error());
}

/// The code of the escape \uXXXX at `position`; 0 if there is none.
unsigned unicode_escape(std::string_view json, std::size_t position) {
  if (json.size() < position + 6 || json[position] != '\\' || json[position + 1] != 'u') return 0;
  unsigned code = 0;
  const char* const digits = json.data() + position + 2;
  const auto [end, problem] = std::from_chars(digits, digits + 4, code, 16);
  return problem == std::errc{} && end == digits + 4 ? code : 0;
}

/// `json` with every surrogate escape that has no partner (\ud800 alone) replaced by \ufffd, as Go reads it.
std::string repair_surrogates(std::string json) {
  const auto leads = [](unsigned code) { return code >= 0xd800 && code < 0xdc00; };
  const auto trails = [](unsigned code) { return code >= 0xdc00 && code < 0xe000; };
  for (std::size_t i = 0; i < json.size(); ++i) {
    if (json[i] != '\\') continue;
    const unsigned code = unicode_escape(json, i);
    if (leads(code) && trails(unicode_escape(json, i + 6))) {
      i += 11;
    } else if (leads(code) || trails(code)) {
      json.replace(i + 2, 4, "fffd");
      i += 5;
    } else {
      ++i;  // the escaped character, which may be a backslash
    }
  }
  return json;
}

template <class T>
Result<T> decode(std::string_view json, bool& repaired) {
  repaired = false;
  Result<T> result = decode_valid<T>(json);
  if (result || result.error().code != std::errc::bad_message) return result;
  const std::string better = repair_surrogates(valid_utf8(json) ? std::string(json) : repair_utf8(json));
  if (better == json) return result;
  Result<T> second = decode_valid<T>(better);
  repaired = second.has_value();
  return second;
}

}  // namespace

Result<Event> decode_event(std::string_view json, bool& repaired) { return decode<Event>(json, repaired); }

}  // namespace detail

Result<Event> parse_event(std::string_view json) {
  bool repaired = false;
  return detail::decode<Event>(json, repaired);
}

Result<Span> parse_span(std::string_view json) {
  bool repaired = false;
  return detail::decode<Span>(json, repaired);
}

}  // namespace weir::inline v0
