// Names are matched by an Aho-Corasick automaton (Aho and Corasick, 1975) whose transitions are all in one table; text is
// scanned once, with bounded looks back and ahead.
#include "weir/activity/redaction.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <iterator>
#include <utility>

#include "text/ascii.hpp"

namespace weir::inline v0 {

namespace {

using detail::lower;

constexpr char fold(char c) noexcept { return c == '-' || c == ' ' ? '_' : lower(c); }
constexpr bool is_lower(char c) noexcept { return c >= 'a' && c <= 'z'; }
constexpr bool is_upper(char c) noexcept { return c >= 'A' && c <= 'Z'; }
constexpr bool is_alphanumeric(char c) noexcept { return is_lower(lower(c)) || (c >= '0' && c <= '9'); }
constexpr bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }
constexpr bool is_space(char c) noexcept { return is_blank(c) || (c >= '\n' && c <= '\r'); }
constexpr bool is_quote(char c) noexcept { return c == '"' || c == '\''; }
constexpr bool is_word(char c) noexcept {
  return is_alphanumeric(c) || c == '_' || c == '-' || c == '.' || static_cast<unsigned char>(c) >= 0x80;
}
constexpr bool is_base64url(char c) noexcept { return is_alphanumeric(c) || c == '-' || c == '_'; }
/// Of an RFC 6750 b64token.
constexpr bool is_bearer_token(char c) noexcept { return is_base64url(c) || c == '.' || c == '~' || c == '+' || c == '/' || c == '='; }

/// Whether `text` is `lower_case` in any case.
constexpr bool equal_word(std::string_view text, std::string_view lower_case) noexcept {
  return text.size() == lower_case.size() &&
         std::equal(text.begin(), text.end(), lower_case.begin(), [](char a, char b) { return lower(a) == b; });
}
constexpr bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) noexcept {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return equal_word(text, word); });
}

/// The entries of a list, folded, each also without the '_' between its words.
std::vector<std::string> spellings(const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) {
    if (name.empty()) continue;
    std::string folded, joined;
    std::transform(name.begin(), name.end(), std::back_inserter(folded), fold);
    for (std::size_t i = 0; i < folded.size(); ++i)
      if (folded[i] != '_' || i == 0 || i + 1 == folded.size()) joined += folded[i];
    if (joined != folded) all.push_back(std::move(joined));
    all.push_back(std::move(folded));
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

}  // namespace

std::vector<std::string> default_sensitive_names() {
  return {"password",    "passwd",     "passphrase",    "pass_phrase",   "_pwd",        "userpwd", "dbpwd",
          "secret",      "credential", "authorization", "authorisation", "private_key", "api_key", "access_key",
          "signing_key", "session_id", "jwt",           "bearer",        "token"};
}

std::vector<std::string> default_accounting_names() {
  return {"max_token",     "max_tokens",        "max_new_tokens",    "min_tokens",        "num_tokens",       "n_tokens",
          "prompt_tokens", "input_tokens",      "output_tokens",     "completion_tokens", "total_tokens",     "cached_tokens",
          "audio_tokens",  "text_tokens",       "image_tokens",      "reasoning_tokens",  "thinking_tokens",  "prediction_tokens",
          "used_tokens",   "tokens_used",       "remaining_tokens",  "tokens_remaining",  "generated_tokens", "context_tokens",
          "token_count",   "token_counts",      "tokens_count",      "count_tokens",      "token_limit",      "token_budget",
          "token_usage",   "tokens_per_second", "tokens_per_minute", "token_length",      "estimated_tokens", "token_cost"};
}

struct Redactor::Rules {
  explicit Rules(const RedactorOptions& options);

  bool is_sensitive(std::string_view name) const noexcept {
    std::uint32_t state = 0;
    for (std::size_t i = 0; i < name.size(); ++i) {
      state = next[state + column[static_cast<unsigned char>(name[i])]];
      if (state & found) {
        state &= ~found;
        if (!is_accounting(name, i + 1, state)) return true;
      }
    }
    return false;
  }

 private:
  static constexpr std::uint32_t found = 0x8000'0000u;

  /// An accounting name that contains a sensitive one: where.
  struct Cover {
    std::uint32_t accounting;  // index
    std::size_t offset;
  };
  struct Entry {
    std::size_t size;
    std::vector<Cover> covers;
  };

  /// Whether every sensitive name that ends at `end`, where the automaton is in `state`, is part of an accounting name.
  bool is_accounting(std::string_view name, std::size_t end, std::uint32_t state) const noexcept {
    for (const std::uint32_t index : ending[state / columns]) {
      const Entry& entry = entries[index];
      const bool covered = std::any_of(entry.covers.begin(), entry.covers.end(), [&](const Cover& cover) {
        const std::size_t start = end - entry.size;
        return cover.offset <= start && stands_at(name, start - cover.offset, accounting[cover.accounting]);
      });
      if (!covered) return false;
    }
    return true;
  }
  /// Whether `words` stand at `at`, with no further letter or digit of the same word before or after them.
  static bool stands_at(std::string_view name, std::size_t at, std::string_view words) noexcept {
    if (name.size() - at < words.size()) return false;
    const std::size_t end = at + words.size();
    for (std::size_t i = 0; i < words.size(); ++i)
      if (fold(name[at + i]) != words[i]) return false;
    const auto joined = [&](std::size_t i) {  // name[i - 1] and name[i] are of one word
      return is_alphanumeric(name[i - 1]) && is_alphanumeric(name[i]) && !(is_lower(name[i - 1]) && is_upper(name[i]));
    };
    return (at == 0 || !joined(at)) && (end == name.size() || !joined(end));
  }

  std::uint32_t columns = 1;                // column 0: bytes that are in no entry
  std::array<std::uint32_t, 256> column{};  // of each byte, folded
  std::vector<std::uint32_t> next;          // state + column -> state, with `found` if entries end there; states are multiples of columns
  std::vector<std::vector<std::uint32_t>> ending;  // state / columns -> entries
  std::vector<Entry> entries;
  std::vector<std::string> accounting;
};

Redactor::Rules::Rules(const RedactorOptions& options) : accounting(spellings(options.accounting_names)) {
  const std::vector<std::string> names = spellings(options.sensitive_names);
  for (const std::string& name : names) {
    Entry entry{name.size(), {}};
    for (std::uint32_t i = 0; i < accounting.size(); ++i)
      for (std::size_t at = accounting[i].find(name); at != std::string::npos; at = accounting[i].find(name, at + 1))
        entry.covers.push_back({i, at});
    entries.push_back(std::move(entry));
    for (const char c : name)
      if (std::uint32_t& of = column[static_cast<unsigned char>(c)]; of == 0) of = columns++;
  }
  for (unsigned c = 0; c < 256; ++c) column[c] = column[static_cast<unsigned char>(fold(static_cast<char>(c)))];

  next.assign(columns, 0);  // while the trie grows, 0: no such state
  ending.resize(1);
  for (std::uint32_t index = 0; index < names.size(); ++index) {
    std::uint32_t state = 0;
    for (const char c : names[index]) {
      const std::size_t edge = state + column[static_cast<unsigned char>(c)];
      if (next[edge] == 0) {
        next[edge] = static_cast<std::uint32_t>(next.size());
        next.resize(next.size() + columns, 0);
        ending.emplace_back();
      }
      state = next[edge];
    }
    ending[state / columns].push_back(index);
  }
  // Breadth first: where an edge is missing, the one of the longest proper suffix that is a state.
  std::vector<std::uint32_t> suffix(ending.size(), 0), queue{0};
  for (std::size_t at = 0; at < queue.size(); ++at) {
    const std::uint32_t state = queue[at], shorter = suffix[state / columns];
    for (std::uint32_t c = 0; c < columns; ++c) {
      const std::uint32_t to = next[state + c], otherwise = state == 0 ? 0 : next[shorter + c];
      if (to == 0) {
        next[state + c] = otherwise;
        continue;
      }
      suffix[to / columns] = otherwise;
      const std::vector<std::uint32_t>& inherited = ending[otherwise / columns];
      ending[to / columns].insert(ending[to / columns].end(), inherited.begin(), inherited.end());
      queue.push_back(to);
    }
  }
  for (std::uint32_t& state : next)
    if (!ending[state / columns].empty()) state |= found;
}

namespace {

constexpr std::size_t max_key_size = 256;
constexpr std::size_t max_gap = 4;        // blanks between a key and its separator
constexpr std::size_t max_next_key = 64;  // how far a key is looked for after a comma

/// Where something that may be a secret begins.
constexpr std::array<bool, 256> is_start = [] {
  std::array<bool, 256> starts{};
  for (const char c : {':', '=', '-', 'e', 'b', 'B', Redactor::mark[0]}) starts[static_cast<unsigned char>(c)] = true;
  return starts;
}();

/// One scan of one text. `at_` only grows; each look back is bounded and stops at `floor_`, the end of the last secret, and
/// each look ahead is bounded or over what is then consumed.
template <class IsSensitive>
class TextScan {
 public:
  TextScan(std::string_view text, std::string& out, IsSensitive is_sensitive) : text_(text), out_(out), is_sensitive_(is_sensitive) {}

  /// Whether something was replaced; if so, the text is in `out`.
  bool run() {
    while (at_ < text_.size()) {
      if (!is_start[static_cast<unsigned char>(text_[at_])]) {
        ++at_;
        continue;
      }
      switch (text_[at_]) {
        case ':':
        case '=': separator(); break;
        case '-': private_key(); break;
        case 'e': jwt(); break;
        case Redactor::mark[0]: redacted_before(); break;
        default: bearer();
      }
    }
    if (changed_) out_.append(text_.substr(copied_));
    return changed_;
  }

 private:
  char at(std::size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  template <class Is>
  std::size_t end_of(std::size_t i, Is is) const {
    while (i < text_.size() && is(text_[i])) ++i;
    return i;
  }
  bool begins_word() const { return at_ == floor_ || !is_base64url(text_[at_ - 1]); }

  /// Replaces what is from `begin` to `end`, and goes on behind it.
  void replace(std::size_t begin, std::size_t end) {
    at_ = floor_ = end;
    const std::string_view secret = text_.substr(begin, end - begin);
    if (secret.empty() || secret == Redactor::mark) return;
    if (!changed_) {
      out_.clear();
      out_.reserve(text_.size() + 2 * Redactor::mark.size());
    }
    out_.append(text_.substr(copied_, begin - copied_)).append(Redactor::mark);
    copied_ = end;
    changed_ = true;
  }

  /// A mark is a secret whose place is known, so that a second scan sees what the first saw.
  void redacted_before() {
    if (text_.substr(at_).starts_with(Redactor::mark)) return replace(at_, at_ + Redactor::mark.size());
    ++at_;
  }

  // key=value, key: value, "key": value, key=>value, and scheme://user:password@
  void separator() {
    const std::size_t position = at_;
    if (position + 1 == password_begin_) {
      replace(password_begin_, password_end_);
    } else if (key_is_sensitive(position)) {
      std::size_t begin = end_of(position + 1, [](char c) { return c == '=' || c == '>'; });
      begin = end_of(begin, [&](char c) { return quoted_key_ ? is_space(c) : is_blank(c); });
      value(begin);
    } else if (text_.substr(position).starts_with("://")) {
      user_info(position + 3);
    } else {
      ++at_;
    }
  }
  bool key_is_sensitive(std::size_t position) {
    std::size_t end = position;
    for (std::size_t gap = 0; end > floor_ && is_blank(text_[end - 1]); --end)
      if (++gap > max_gap) return false;
    if (end == floor_) return false;
    const std::size_t limit = end - std::min(end - floor_, max_key_size);
    quoted_key_ = is_quote(text_[end - 1]);
    if (quoted_key_) {
      const char quote = text_[--end];
      while (end > limit && text_[end - 1] == '\\') --end;
      std::size_t begin = end;
      while (begin > limit && text_[begin - 1] != quote) --begin;
      return is_sensitive_(text_.substr(begin, end - begin));
    }
    const auto word_before = [&](std::size_t i) {
      while (i > limit && is_word(text_[i - 1])) --i;
      return i;
    };
    const std::size_t begin = word_before(end);
    const std::string_view word = text_.substr(begin, end - begin);
    if (word.empty()) return false;
    const bool sensitive = is_sensitive_(word);
    if (begin == limit || text_[begin - 1] != ' ') return sensitive;
    const std::size_t first = word_before(begin - 1);
    if (first == begin - 1) return sensitive;
    const bool both = is_sensitive_(text_.substr(first, end - first));
    return sensitive ? both  // "max tokens: 5" is none
                     : both && !is_sensitive_(text_.substr(first, begin - 1 - first));
  }

  void value(std::size_t begin) {
    if (text_.substr(begin).starts_with(Redactor::mark)) return replace(begin, begin + Redactor::mark.size());
    const std::size_t opening = end_of(begin, [](char c) { return c == '\\'; });
    if (is_quote(at(opening))) {
      replace(opening + 1, end_of_quoted(opening + 1, text_[opening], opening - begin));
      return;
    }
    const std::size_t end = at(begin) == '[' || at(begin) == '{' ? end_of_bare(end_of_brackets(begin)) : end_of_bare(begin);
    // A scheme and its credentials, as in an Authorization header.
    const std::string_view word = text_.substr(begin, end - begin);
    const std::size_t credentials = end_of(end, is_blank);
    if (credentials > end && credentials < text_.size()) {
      if (is_one_of(word, {"basic", "bearer", "token", "negotiate", "ntlm", "apikey"})) return replace(begin, end_of_bare(credentials));
      if (is_one_of(word, {"digest", "hawk", "oauth", "signature", "aws4-hmac-sha256"}))
        return replace(begin, end_of(credentials, [](char c) { return c != '\n' && c != '\r'; }));
    }
    replace(begin, end);
  }
  /// Where the text in quotes that begins at `i` ends: before a quote that has as many backslashes as the one before it, which
  /// are `level` (1 for a string in a string), or fewer, or more in such number that the last are themselves escaped.
  std::size_t end_of_quoted(std::size_t i, char quote, std::size_t level) const {
    for (std::size_t backslashes = 0; i < text_.size(); ++i) {
      if (text_[i] == '\\') {
        ++backslashes;
        continue;
      }
      if (text_[i] == quote) {
        if (backslashes < level) return i - backslashes;
        if ((backslashes - level) / (level + 1) % 2 == 0) return i - level;
      }
      backslashes = 0;
    }
    return i;
  }
  /// Behind the bracket that belongs to the one at `i`, or the end of the text.
  std::size_t end_of_brackets(std::size_t i) const {
    for (std::size_t depth = 0; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == '"') {
        i = end_of_quoted(i + 1, '"', 0);
      } else if (c == '[' || c == '{') {
        ++depth;
      } else if ((c == ']' || c == '}') && --depth == 0) {
        return i + 1;
      }
    }
    return text_.size();
  }
  /// The end of a value without quotes.
  std::size_t end_of_bare(std::size_t i) const {
    while (i < text_.size()) {
      const char c = text_[i];
      if (is_space(c) || is_quote(c) || c == '`' || c == ')' || c == ']' || c == '}' || static_cast<unsigned char>(c) < 0x20) break;
      if ((c == ',' || c == ';' || c == '&' || c == '|') && ends_value(i + 1)) break;
      if (c == '\\') {
        const std::size_t end = end_of(i, [](char d) { return d == '\\'; });
        if (is_quote(at(end))) break;
        i = end;
      } else {
        ++i;
      }
    }
    return i;
  }
  /// Whether a value ends before a comma or the like, behind which comes what is at `i`; if not, it is part of the value.
  bool ends_value(std::size_t i) const {
    if (i == text_.size() || is_space(text_[i]) || is_quote(text_[i])) return true;
    std::size_t end = i;
    while (end < text_.size() && end - i < max_next_key && is_word(text_[end])) ++end;
    if (text_.substr(end).starts_with(Redactor::mark)) return true;  // it may have been such a key
    return end > i && (at(end) == '=' || at(end) == ':');
  }

  void user_info(std::size_t begin) {
    const std::size_t end = end_of(
        begin, [](char c) { return !is_space(c) && !is_quote(c) && c != '/' && c != '?' && c != '#' && c != '<' && c != '>' && c != '`'; });
    std::string_view authority = text_.substr(begin, end - begin);
    authority = authority.substr(0, authority.find(Redactor::mark));
    const std::size_t host = authority.rfind('@');
    const std::size_t password = authority.substr(0, host).find(':');
    if (host != authority.npos && password != authority.npos && password + 1 < host)
      password_begin_ = begin + password + 1, password_end_ = begin + host;
    at_ = begin;  // the user may be a token
  }

  void private_key() {
    constexpr std::string_view begins = "-----BEGIN ", ends = "-----END ", dashes = "-----";
    if (!text_.substr(at_).starts_with(begins)) {
      ++at_;
      return;
    }
    const std::size_t label = at_ + begins.size();
    const std::size_t size = text_.substr(label, 64).find(dashes);
    if (size == text_.npos || text_.substr(label, size).find("PRIVATE KEY") == text_.npos) {
      at_ = label;
      return;
    }
    const std::size_t body = label + size + dashes.size();
    replace(body, std::min(text_.find(ends, body), text_.size()));
  }

  void jwt() {
    if (!begins_word() || !text_.substr(at_).starts_with("eyJ")) {
      ++at_;
      return;
    }
    const std::size_t begin = at_;
    const std::size_t header = end_of(begin, is_base64url);
    const std::size_t payload = at(header) == '.' ? end_of(header + 1, is_base64url) : header;
    if (payload <= header + 1 || at(payload) != '.') {
      at_ = header;
      return;
    }
    std::size_t end = end_of(payload + 1, is_base64url);                                      // an unsigned one has no third part
    while (at(end) == '.' && is_base64url(at(end + 1))) end = end_of(end + 1, is_base64url);  // an encrypted one has five
    replace(begin, end);
  }

  void bearer() {
    constexpr std::size_t size = 6;
    if (!begins_word() || !equal_word(text_.substr(at_, size), "bearer")) {
      ++at_;
      return;
    }
    const std::size_t begin = end_of(at_ + size, is_blank);
    if (begin == at_ + size) {
      at_ += size;
      return;
    }
    const std::size_t end = end_of(begin, is_bearer_token);
    if (end == begin || is_one_of(text_.substr(begin, end - begin), {"token", "tokens", "auth", "authentication", "authorization"})) {
      at_ = begin;
      return;
    }
    replace(begin, end);
  }

  std::string_view text_;
  std::string& out_;
  IsSensitive is_sensitive_;
  std::size_t at_ = 0, floor_ = 0;
  std::size_t copied_ = 0;                             // what is before it is in out_, once something changed
  std::size_t password_begin_ = 0, password_end_ = 0;  // in the URL at at_
  bool changed_ = false, quoted_key_ = false;
};

}  // namespace

Redactor::Redactor(const RedactorOptions& options) : rules_(std::make_shared<const Rules>(options)) {}

bool Redactor::is_sensitive(std::string_view name) const noexcept { return rules_->is_sensitive(name); }

bool Redactor::redact_text(std::string_view text, std::string& out) const noexcept try {
  return TextScan(text, out, [this](std::string_view key) { return rules_->is_sensitive(key); }).run();
} catch (const std::exception&) {  // no memory; so short a text needs none
  out = mark;
  return true;
}

std::string Redactor::redact_text(std::string_view text) const noexcept try {
  std::string out;
  if (!redact_text(text, out)) out = text;
  return out;
} catch (const std::exception&) {
  return std::string(mark);
}

}  // namespace weir::inline v0
