#include "weir/view/sql_normalize.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

namespace weir::inline v0 {

namespace {

constexpr bool digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
constexpr bool blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
constexpr bool hex_digit(char c) { return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
constexpr bool word_start(char c) { return letter(c) || c == '_' || static_cast<unsigned char>(c) >= 0x80; }
constexpr bool word_char(char c) { return word_start(c) || digit(c) || c == '$'; }
constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

/// `word` is written large.
bool is_word(std::string_view text, std::string_view word) {
  return text.size() == word.size() && std::equal(text.begin(), text.end(), word.begin(), [](char a, char b) { return upper(a) == b; });
}

template <std::size_t N>
bool is_any(std::string_view text, const std::array<std::string_view, N>& words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return is_word(text, word); });
}

/// After which a sign belongs to the number behind it, as it does after an operator.
constexpr std::array<std::string_view, 30> keywords_before_values{
    "SELECT", "DISTINCT", "ALL", "WHERE", "AND", "OR",     "NOT", "IN",        "LIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "LIMIT",
    "OFFSET", "VALUES",   "SET", "BY",    "ON",  "HAVING", "IS",  "RETURNING", "AS",   "FROM",    "ANY",  "SOME", "DIV",  "MOD",  "TOP"};
constexpr std::array<std::string_view, 4> value_words{"NULL", "TRUE", "FALSE", "DEFAULT"};
constexpr std::array<std::string_view, 5> typed_literals{"DATE", "TIME", "TIMESTAMP", "INTERVAL", "UUID"};

struct Token {
  enum Kind { value, word, quoted, symbol };
  Kind kind;
  bool spaced;            // white space or a comment stands before it
  std::string_view text;  // "?" for a value
};

/// Decides by what has been put out, never by what it was made of, so that the result reads the same again.
class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text), quotes_left_(plain_quotes(text)) {}

  std::vector<Token> run() {
    while (skip_blanks()) next();
    return std::move(tokens_);
  }

 private:
  char at(std::size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  std::string_view rest() const { return text_.substr(at_); }

  /// Quotes that no backslash stands before.
  static std::size_t plain_quotes(std::string_view text) {
    std::size_t count = 0;
    bool escaped = false;
    for (const char c : text) {
      if (c == '\'' && !escaped) ++count;
      escaped = c == '\\' && !escaped;
    }
    return count;
  }

  void put(Token::Kind kind, std::size_t end) {
    end = std::min(end, text_.size());
    tokens_.push_back({kind, spaced_, kind == Token::value ? "?" : text_.substr(at_, end - at_)});
    move_to(end);
    spaced_ = false;
    line_begins_ = false;
  }
  void move_to(std::size_t end) {
    for (; at_ < end; ++at_) {
      if (text_[at_] == '\'' && !escaped_) --quotes_left_;
      escaped_ = text_[at_] == '\\' && !escaped_;
    }
  }

  /// The character that the next one will stand behind.
  char before() const { return spaced_ || tokens_.empty() ? ' ' : tokens_.back().text.back(); }
  bool glued_to_operand() const {
    const char c = before();
    return word_char(c) || c == '?' || c == ')' || c == ']' || c == '"' || c == '`' || c == '\'';
  }
  /// Whether what comes would be the right side of an operator.
  bool operand_before() const {
    if (tokens_.empty()) return false;
    const Token& last = tokens_.back();
    if (last.kind == Token::word) return !is_any(last.text, keywords_before_values);
    return last.kind != Token::symbol || last.text == ")" || last.text == "]";
  }

  bool skip_blanks() {
    for (;;) {
      if (at_ == text_.size()) return false;
      if (blank(text_[at_])) {
        if (text_[at_] == '\n' || text_[at_] == '\r') line_begins_ = true;
        move_to(at_ + 1);
      } else if (rest().starts_with("--") || (text_[at_] == '#' && line_begins_)) {
        move_to(std::min(text_.find_first_of("\r\n", at_), text_.size()));
      } else if (rest().starts_with("/*")) {
        move_to(comment_end());
      } else {
        return true;
      }
      spaced_ = true;
    }
  }
  /// Comments nest where all of them end, as in PostgreSQL; else they do not, as elsewhere.
  std::size_t comment_end() {
    if (comments_nest_) {
      std::size_t depth = 0;
      for (std::size_t i = at_; i + 1 < text_.size();) {
        if (text_[i] == '/' && text_[i + 1] == '*') {
          ++depth;
          i += 2;
        } else if (text_[i] == '*' && text_[i + 1] == '/') {
          i += 2;
          if (--depth == 0) return i;
        } else {
          ++i;
        }
      }
      comments_nest_ = false;
    }
    const std::size_t end = text_.find("*/", at_ + 2);
    return end == text_.npos ? text_.size() : end + 2;
  }

  void next() {
    const char c = text_[at_];
    if (c == '\'') return put(Token::value, string_end(at_, false));
    if (c == '"' || c == '`') return put(Token::quoted, identifier_end(c));
    if (c == '[') return bracket();
    if (c == '?') return put(Token::value, digits_end(at_ + 1));
    if (c == '$') return dollar();
    if (c == ':') return colon();
    if (c == '@') return put(Token::word, word_end(at(at_ + 1) == '@' ? at_ + 2 : at_ + 1));
    if (c == '%') return percent();
    if (digit(c) || word_start(c)) return word_or_number();
    if (c == '.' && digit(at(at_ + 1)) && !glued_to_operand() && before() != '.') {
      if (const std::size_t end = number_end(at_); end != 0) return put(Token::value, end);
    }
    if ((c == '-' || c == '+') && !operand_before() && (digit(at(at_ + 1)) || (at(at_ + 1) == '.' && digit(at(at_ + 2))))) {
      if (const std::size_t end = number_end(at_ + 1); end != 0) return put(Token::value, end);
    }
    put(Token::symbol, at_ + 1);
  }

  /// Behind the string whose first quote is at `begin`.
  std::size_t string_end(std::size_t begin, bool escapes) const {
    std::size_t quotes = quotes_left_;  // plain ones from i on
    bool escaped = escaped_;
    for (std::size_t i = at_; i < begin; ++i) escaped = text_[i] == '\\' && !escaped;
    if (!escaped) --quotes;
    bool backslash = false;  // an odd number of them stands before i
    for (std::size_t i = begin + 1; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == '\'') {
        if (!backslash) --quotes;
        const bool is_escaped = backslash && (escapes || quotes % 2 == 1);
        if (!is_escaped) {
          if (at(i + 1) != '\'') return i + 1;
          ++i;
          --quotes;
        }
        backslash = false;
      } else {
        backslash = c == '\\' && !backslash;
      }
    }
    return text_.size();
  }
  std::size_t identifier_end(char quote) const {
    for (std::size_t i = at_ + 1; i < text_.size(); ++i) {
      if (text_[i] != quote) continue;
      if (at(i + 1) != quote) return i + 1;
      ++i;
    }
    return text_.size();
  }
  std::size_t word_end(std::size_t i) const {
    while (i < text_.size() && word_char(text_[i])) ++i;
    return i;
  }
  /// Behind the digits from `i` on; `i` when they only begin a word.
  std::size_t digits_end(std::size_t i) const {
    std::size_t end = i;
    while (digit(at(end))) ++end;
    return end < text_.size() && word_char(text_[end]) ? i : end;
  }

  /// [name] where it cannot be a subscript.
  void bracket() {
    if (!glued_to_operand() && (letter(at(at_ + 1)) || at(at_ + 1) == '_')) {
      std::size_t i = at_ + 1;
      while (word_char(at(i)) || at(i) == ' ' || at(i) == '-' || at(i) == '.' || at(i) == '#' || at(i) == '@') ++i;
      if (at(i) == ']' && i < text_.size()) return put(Token::quoted, i + 1);
    }
    put(Token::symbol, at_ + 1);
  }

  void dollar() {
    std::size_t tag = at_ + 1;
    if (tag < text_.size() && word_start(text_[tag])) {
      while (tag < text_.size() && word_char(text_[tag]) && text_[tag] != '$') ++tag;
    }
    if (at(tag) == '$') {
      const std::string_view quote = text_.substr(at_, tag + 1 - at_);
      const std::size_t end = text_.find(quote, tag + 1);
      return put(Token::value, end == text_.npos ? text_.size() : end + quote.size());
    }
    const std::size_t end = word_end(at_ + 1);
    put(end == at_ + 1 ? Token::symbol : Token::value, end);
  }
  void colon() {
    if (at(at_ + 1) == ':') return put(Token::symbol, at_ + 2);
    const std::size_t end = word_end(at_ + 1);
    const bool placeholder = end != at_ + 1 && !glued_to_operand() && before() != ':';
    put(placeholder ? Token::value : Token::symbol, placeholder ? end : at_ + 1);
  }
  /// %s and %(name)s, as Python's drivers write placeholders.
  void percent() {
    std::size_t end = 0;
    if (at(at_ + 1) == 's') {
      end = at_ + 2;
    } else if (at(at_ + 1) == '(') {
      const std::size_t close = word_end(at_ + 2);
      if (close != at_ + 2 && at(close) == ')' && at(close + 1) == 's') end = close + 2;
    }
    if (end != 0 && word_end(end) == end && !operand_before()) return put(Token::value, end);
    put(Token::symbol, at_ + 1);
  }

  void word_or_number() {
    if (const std::size_t end = uuid_end(); end != 0) return put(Token::value, end);
    const std::size_t end = word_end(at_);
    const std::string_view word = text_.substr(at_, end - at_);
    if (digit(word.front())) {
      if (const std::size_t number = number_end(at_); number != 0) return put(Token::value, number);
    }
    if (at(end) == '\'') {
      for (const std::string_view prefix : {"E", "N", "B", "X"}) {
        if (is_word(word, prefix)) return put(Token::value, string_end(end, prefix == "E"));
      }
    }
    if (is_word(word, "U") && at(end) == '&' && at(end + 1) == '\'') return put(Token::value, string_end(end + 1, false));
    const bool long_hex =
        word.size() >= 16 && std::all_of(word.begin(), word.end(), hex_digit) && std::any_of(word.begin(), word.end(), digit);
    put(long_hex ? Token::value : Token::word, end);
  }

  std::size_t uuid_end() const {
    constexpr std::array<std::size_t, 5> groups{8, 4, 4, 4, 12};
    std::size_t i = at_;
    for (std::size_t group = 0; group < groups.size(); ++group) {
      if (group != 0 && at(i++) != '-') return 0;
      for (std::size_t n = 0; n < groups[group]; ++n, ++i) {
        if (!hex_digit(at(i))) return 0;
      }
    }
    return i < text_.size() && word_char(text_[i]) ? 0 : i;
  }

  /// Behind the longest number at `begin` that no word goes on from; 0 when there is none.
  std::size_t number_end(std::size_t begin) const {
    std::size_t i = begin;
    std::size_t end = 0;
    const auto may_end = [&] {
      if (i == text_.size() || !word_char(text_[i])) end = i;
    };
    const auto digits = [&](auto is_digit) {
      const std::size_t from = i;
      while (i < text_.size() && (is_digit(text_[i]) || (text_[i] == '_' && i > from))) ++i;
      return i > from;
    };
    const char radix = upper(at(begin + 1));
    if (at(begin) == '0' && (radix == 'X' || radix == 'B' || radix == 'O') && hex_digit(at(begin + 2))) {
      i += 2;
      digits(hex_digit);
      may_end();
      return end;
    }
    if (digits(digit)) may_end();
    if (at(i) == '.' && at(i + 1) != '.' && !word_start(at(i + 1))) {
      ++i;
      digits(digit);
      may_end();
    }
    if (upper(at(i)) == 'E') {
      ++i;
      if (at(i) == '+' || at(i) == '-') ++i;
      if (digits(digit)) may_end();
    }
    return end;
  }

  std::string_view text_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::size_t quotes_left_;  // plain ones from at_ on
  bool escaped_ = false;     // an odd number of backslashes stands before at_
  bool spaced_ = false;
  bool line_begins_ = true;  // nothing but blanks and comments stands before at_ on its line
  bool comments_nest_ = true;
};

/// Behind the list of values whose parenthesis is tokens[open], with `values` how many there are; 0 when it holds anything else.
std::size_t list_end(const std::vector<Token>& tokens, std::size_t open, std::size_t& values) {
  std::size_t depth = 0;
  values = 0;
  for (std::size_t i = open; i < tokens.size(); ++i) {
    const Token& token = tokens[i];
    if (token.text == "(") {
      ++depth;
    } else if (token.text == ")") {
      if (--depth == 0) return i + 1;
    } else if (token.kind == Token::value || is_any(token.text, value_words)) {
      ++values;
    } else if (token.kind == Token::word && token.text.front() == '@') {
      ++values;
    } else if (token.text == "::" && i + 1 < tokens.size() && (tokens[i + 1].kind == Token::word || tokens[i + 1].kind == Token::quoted)) {
      ++i;
    } else if (is_any(token.text, typed_literals) && i + 1 < tokens.size() && tokens[i + 1].kind == Token::value) {
      // the value follows
    } else if (token.text != "," && token.text != "-" && token.text != "+") {
      return 0;
    }
  }
  return tokens.size();
}

}  // namespace

std::string normalize_sql(std::string_view text) {
  const std::vector<Token> tokens = Lexer(text).run();
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const Token& token = tokens[i];
    if (token.spaced && !out.empty()) out += ' ';
    if (token.kind != Token::word || !is_word(token.text, "IN") || (i > 0 && tokens[i - 1].text == ".")) {
      out += token.text;
      continue;
    }
    out += "IN";
    if (i + 1 == tokens.size() || tokens[i + 1].text != "(") continue;
    std::size_t values = 0;
    const std::size_t end = list_end(tokens, i + 1, values);
    if (end != 0 && values != 0) {
      out += " (?)";
      i = end - 1;
    } else {
      out += " (";
      ++i;
    }
  }
  return out;
}

}  // namespace weir::inline v0
