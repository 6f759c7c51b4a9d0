#include "view/path_pattern.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "weir/core/text.hpp"

namespace weir::inline v0::detail {

namespace {

using Instruction = PathPattern::Instruction;
using CharSet = PathPattern::CharSet;
using Code = std::vector<Instruction>;

constexpr char32_t last_character = 0x10ffff;

/// The character that `text`, which is not empty, begins with; a byte that is not UTF-8 is one of its own.
char32_t take_character(std::string_view& text) {
  const std::size_t size = utf8_length(text);
  const char32_t c = size == 0 ? 0xdc00 + static_cast<unsigned char>(text[0]) : code_point(text.substr(0, size));
  text.remove_prefix(std::max<std::size_t>(size, 1));
  return c;
}

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
bool is_letter(char32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::optional<unsigned> hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

/// What \d, \w and \s stand for; nothing for other letters.
std::optional<CharSet> named_set(char letter) {
  CharSet set;
  switch (letter) {
    case 'd':
    case 'D': set.ranges = {{'0', '9'}}; break;
    case 'w':
    case 'W': set.ranges = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}; break;
    case 's':
    case 'S': set.ranges = {{'\t', '\r'}, {' ', ' '}}; break;
    default: return std::nullopt;
  }
  set.negated = letter < 'a';
  return set;
}

/// Adds what `part` contains. Requires: the ranges of `part` are sorted and apart.
void add(CharSet& set, const CharSet& part) {
  if (!part.negated) {
    set.ranges.insert(set.ranges.end(), part.ranges.begin(), part.ranges.end());
    return;
  }
  char32_t from = 0;
  for (const auto& [first, last] : part.ranges) {
    if (first > from) set.ranges.emplace_back(from, first - 1);
    from = last + 1;
  }
  set.ranges.emplace_back(from, last_character);
}

/// Recursive descent; each part leaves the code for what it has read, whose jumps are relative.
class Compiler {
 public:
  explicit Compiler(std::string_view pattern) : pattern_(pattern), rest_(pattern) {}

  Result<Code> run() {
    Code code = alternatives();
    if (!error_ && !rest_.empty()) fail("a ) without its (", rest_);
    if (error_) return *error_;
    return code;
  }
  std::vector<CharSet> take_sets() { return std::move(sets_); }

 private:
  void fail(std::string_view what, std::string_view where) {
    if (error_) return;
    const std::size_t offset = pattern_.size() - where.size();
    std::size_t character = 1;
    for (std::string_view before = pattern_.substr(0, offset); !before.empty(); ++character) take_character(before);
    std::string message(what);
    message += where.empty() ? " at its end" : " at character " + std::to_string(character) + " ('" + std::string(where) + "')";
    error_ = Error{std::make_error_code(std::errc::invalid_argument), std::move(message)};
  }
  bool taken(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  bool ended() const { return error_ || rest_.empty(); }

  void append(Code& code, const Code& part, std::string_view where) {
    if (code.size() + part.size() > PathPattern::max_size) return fail("the expression is too large", where);
    code.insert(code.end(), part.begin(), part.end());
  }
  static std::int32_t length(const Code& code) { return static_cast<std::int32_t>(code.size()); }

  Code alternatives() {
    Code code = sequence();
    while (!ended() && taken("|")) {
      const std::string_view where = rest_;
      const Code other = sequence();
      Code both{{Instruction::split, 1, length(code) + 2, 0}};
      append(both, code, where);
      append(both, {{Instruction::jump, length(other) + 1, 0, 0}}, where);
      append(both, other, where);
      code = std::move(both);
    }
    return code;
  }

  Code sequence() {
    Code code;
    while (!ended() && rest_.front() != '|' && rest_.front() != ')') {
      const std::string_view where = rest_;
      append(code, repeated(), where);
    }
    return code;
  }

  Code repeated() {
    const std::string_view where = rest_;
    Code code = atom();
    std::size_t min = 0, max = 0;
    if (ended() || !quantifier(min, max)) return code;
    (void)taken("?");  // the lazy form matches the same whole texts
    std::size_t again = 0;
    const std::string_view second = rest_;
    if (quantifier(again, again)) fail("nothing to repeat", second);
    return repeat(code, min, max, where);
  }

  static constexpr std::size_t unlimited = static_cast<std::size_t>(-1);

  /// Takes * + ? {n} {n,} {n,m}.
  bool quantifier(std::size_t& min, std::size_t& max) {
    min = 0;
    max = unlimited;
    if (taken("*")) return true;
    if (taken("+")) return (min = 1), true;
    if (taken("?")) return (max = 1), true;
    const std::string_view where = rest_;
    if (!taken("{")) return false;
    if (!number(min)) return (rest_ = where), false;
    max = min;
    if (taken(",") && !number(max)) max = unlimited;
    if (!taken("}")) return (rest_ = where), false;
    if (max < min) fail("a repetition whose end is below its beginning", where);
    return true;
  }
  /// At most PathPattern::max_size + 1.
  bool number(std::size_t& value) {
    if (rest_.empty() || !is_digit(static_cast<unsigned char>(rest_.front()))) return false;
    value = 0;
    while (!rest_.empty() && is_digit(static_cast<unsigned char>(rest_.front()))) {
      value = std::min(value * 10 + static_cast<std::size_t>(rest_.front() - '0'), PathPattern::max_size + 1);
      rest_.remove_prefix(1);
    }
    return true;
  }

  Code repeat(const Code& code, std::size_t min, std::size_t max, std::string_view where) {
    Code result;
    for (std::size_t i = 0; i < min && !error_; ++i) append_repeated(result, code, where);
    if (max == unlimited) {
      append(result, {{Instruction::split, 1, length(code) + 2, 0}}, where);
      append(result, code, where);
      append(result, {{Instruction::jump, -(length(code) + 1), 0, 0}}, where);
      return result;
    }
    for (std::size_t i = min; i < max && !error_; ++i) {
      append(result, {{Instruction::split, 1, length(code) + 1, 0}}, where);
      append(result, code, where);
    }
    return result;
  }
  /// Code of no length counts as well: {4000} of nothing is refused as soon as anything else.
  void append_repeated(Code& result, const Code& code, std::string_view where) {
    append(result, code.empty() ? Code{{Instruction::jump, 1, 0, 0}} : code, where);
  }

  Code atom() {
    const std::string_view where = rest_;
    switch (rest_.front()) {
      case '(': return group();
      case '[': return set(bracket());
      case '.': return rest_.remove_prefix(1), set({{{0, last_character}}, false});
      case '^': return rest_.remove_prefix(1), Code{{Instruction::begin}};
      case '$': return rest_.remove_prefix(1), Code{{Instruction::end}};
      case '*':
      case '+':
      case '?': return fail("nothing to repeat", where), Code{};
      case '\\': return escape();
      default: break;
    }
    const char32_t c = take_character(rest_);
    return set({{{c, c}}, false});
  }

  Code set(CharSet chars) {
    sets_.push_back(std::move(chars));
    return {{Instruction::one_of, 0, 0, static_cast<std::uint32_t>(sets_.size() - 1)}};
  }

  Code group() {
    const std::string_view where = rest_;
    rest_.remove_prefix(1);
    if (taken("?") && !taken(":") && !name()) return fail("this sort of group is not known", where), Code{};
    if (++nesting_ > PathPattern::max_nesting) return fail("too many groups in each other", where), Code{};
    Code code = alternatives();
    --nesting_;
    if (!error_ && !taken(")")) fail("a ( without its )", where);
    return code;
  }
  /// P<name> or <name>
  bool name() {
    (void)taken("P");
    if (!taken("<")) return false;
    const std::size_t end = rest_.find('>');
    const auto is_word = [](char c) {
      return c == '_' || is_digit(static_cast<unsigned char>(c)) || is_letter(static_cast<unsigned char>(c));
    };
    if (end == rest_.npos || end == 0 || !std::all_of(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(end), is_word))
      return false;
    rest_.remove_prefix(end + 1);
    return true;
  }

  Code escape() {
    const std::string_view where = rest_;
    if (rest_.size() > 1) {
      if (auto chars = named_set(rest_[1])) return rest_.remove_prefix(2), set(std::move(*chars));
      if (rest_[1] == 'A' || rest_[1] == 'z')
        return rest_.remove_prefix(2), Code{{where[1] == 'A' ? Instruction::begin : Instruction::end}};
    }
    const char32_t c = escaped_character();
    return set({{{c, c}}, false});
  }

  char32_t escaped_character() {
    const std::string_view where = rest_;
    rest_.remove_prefix(1);
    if (rest_.empty()) return fail("a \\ with nothing behind it", where), 0;
    constexpr std::string_view names = "tnrfva", values = "\t\n\r\f\v\a";
    if (const std::size_t i = names.find(rest_.front()); i != names.npos)
      return rest_.remove_prefix(1), static_cast<unsigned char>(values[i]);
    if (taken("x")) return hex_character(where);
    const char32_t c = take_character(rest_);
    if (is_digit(c) || is_letter(c)) fail("this escape is not known", where);
    return c;
  }
  char32_t hex_character(std::string_view where) {
    const bool braces = taken("{");
    const std::size_t size = braces ? std::min(rest_.find('}'), rest_.size()) : 2;
    char32_t c = 0;
    bool good = size >= 1 && size <= 6 && rest_.size() >= size + (braces ? 1 : 0);
    for (std::size_t i = 0; good && i < size; ++i) {
      const auto value = hex_value(rest_[i]);
      good = value.has_value();
      c = c << 4 | value.value_or(0);
    }
    if (!good || c > last_character) return fail("this is no \\xHH and no \\x{HHHH}", where), 0;
    rest_.remove_prefix(size + (braces ? 1 : 0));
    return c;
  }

  CharSet bracket() {
    const std::string_view where = rest_;
    rest_.remove_prefix(1);
    CharSet result;
    result.negated = taken("^");
    for (bool first = true; !error_; first = false) {
      if (rest_.empty()) return fail("a [ without its ]", where), result;
      if (!first && taken("]")) return result;
      if (rest_.starts_with("[:")) return fail("classes with a name are not known", rest_), result;
      if (rest_.size() > 1 && rest_.front() == '\\') {
        if (const auto chars = named_set(rest_[1])) {
          rest_.remove_prefix(2);
          add(result, *chars);
          continue;
        }
      }
      const std::string_view range = rest_;
      const char32_t from = class_character();
      char32_t to = from;
      if (rest_.size() > 1 && rest_[0] == '-' && rest_[1] != ']') {
        rest_.remove_prefix(1);
        to = class_character();
      }
      if (to < from) fail("a range whose end is below its beginning", range);
      result.ranges.emplace_back(from, to);
    }
    return result;
  }
  char32_t class_character() { return rest_.front() == '\\' ? escaped_character() : take_character(rest_); }

  std::string_view pattern_;
  std::string_view rest_;
  std::vector<CharSet> sets_;
  std::size_t nesting_ = 0;
  std::optional<Error> error_;
};

}  // namespace

bool PathPattern::CharSet::contains(char32_t c) const {
  return negated != std::any_of(ranges.begin(), ranges.end(), [&](const auto& range) { return range.first <= c && c <= range.second; });
}

Result<PathPattern> PathPattern::compile(std::string_view pattern) {
  Compiler compiler(pattern);
  Result<Code> code = compiler.run();
  if (!code) return code.error();
  PathPattern result;
  result.program_ = std::move(*code);
  result.sets_ = compiler.take_sets();
  return result;
}

bool PathPattern::matches(std::string_view text) const {
  std::vector<std::size_t> now, next, pending;            // instructions; those in `now` take a character, or are the end
  std::vector<std::size_t> seen(program_.size() + 1, 0);  // the step in which an instruction was reached last
  std::size_t step = 0;
  const auto reach = [&](std::vector<std::size_t>& states, std::size_t first, bool at_begin, bool at_end) {
    pending.push_back(first);
    while (!pending.empty()) {
      const std::size_t here = pending.back();
      pending.pop_back();
      if (std::exchange(seen[here], step) == step) continue;
      if (here == program_.size()) {
        states.push_back(here);
        continue;
      }
      const Instruction& instruction = program_[here];
      const auto to = [&](std::int32_t distance) { return static_cast<std::size_t>(static_cast<std::ptrdiff_t>(here) + distance); };
      switch (instruction.op) {
        case Instruction::one_of: states.push_back(here); break;
        case Instruction::split: pending.push_back(to(instruction.y)); [[fallthrough]];
        case Instruction::jump: pending.push_back(to(instruction.x)); break;
        case Instruction::begin:
          if (at_begin) pending.push_back(here + 1);
          break;
        case Instruction::end:
          if (at_end) pending.push_back(here + 1);
          break;
      }
    }
  };
  ++step;
  reach(now, 0, true, text.empty());
  while (!text.empty() && !now.empty()) {
    const char32_t c = take_character(text);
    ++step;
    next.clear();
    for (const std::size_t state : now) {
      if (state != program_.size() && sets_[program_[state].set].contains(c)) reach(next, state + 1, false, text.empty());
    }
    now.swap(next);
  }
  return std::find(now.begin(), now.end(), program_.size()) != now.end();
}

}  // namespace weir::inline v0::detail
