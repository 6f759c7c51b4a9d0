#pragma once
// Redaction: takes secrets out of what is about to be written down. Whoever makes lines of activities (a log, an audit
// trail) asks it three things, of every attribute, error message and piece of change data, before anything is cut:
//
//   name of a field ─▶ is_sensitive ─▶ yes: write Redactor::mark in place of the value
//   free text       ─▶ redact_text  ─▶ the same text, only its secrets replaced by the mark
//   JSON            ─▶ redact_json  ─▶ the same document; truncate_json also bounds it
//
// It finds what is named or shaped like a secret, no more: a password in a field called "note" stays.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weir/core/result.hpp"
#include "weir/core/version.hpp"

namespace weir::inline v0 {

/// password, passwd, passphrase, secret, credential, authorization, private_key, api_key, access_key, signing_key,
/// session_id, jwt, bearer, token, and close spellings. A plain "pwd" is not there (it is also a working directory), "_pwd" is.
std::vector<std::string> default_sensitive_names();
/// Names that count tokens: max_tokens, token_count, prompt_tokens, total_tokens and the like.
std::vector<std::string> default_accounting_names();

/// Assign to replace a list, push_back to extend it. Both are folded: lower case, '_' for '-' and ' '. An entry also matches
/// without the '_' between its words (api_key: apikey, hence apiKey). Empty entries are ignored.
struct RedactorOptions {
  /// A field is sensitive if its folded name contains one of these. More: safer, and more harmless values are lost.
  std::vector<std::string> sensitive_names = default_sensitive_names();
  /// Where one of these stands as whole words, what it contains is not sensitive: max_tokens is not, access_token_max_tokens
  /// is. More: fewer harmless values are lost.
  std::vector<std::string> accounting_names = default_accounting_names();
};

/// Made once, never changed, cheap to copy: copies share the compiled lists. Making one may throw std::bad_alloc; nothing
/// else throws. All work is linear in the size of what is given.
///
/// Thread-safety: Distinct objects: safe. Shared: safe to use, unsafe to assign.
class Redactor {
 public:
  static constexpr std::string_view mark = "[REDACTED]";
  static constexpr std::size_t max_depth = 64;                ///< containers in containers; what is deeper is redacted whole
  static constexpr std::size_t max_json_bytes = 32u << 10;    ///< truncate_json leaves up to this much as it is
  static constexpr std::size_t max_preview_bytes = 4u << 10;  ///< of the JSON text in a summary

  explicit Redactor(const RedactorOptions& options = {});

  /// Whether the value of a field of this name is to be replaced by the mark. One table look-up per byte, no allocation.
  bool is_sensitive(std::string_view name) const noexcept;

  /// Replaces by the mark:
  ///   - what follows "Bearer "; JWTs; the body of PEM private keys (to the end of the text if it is not closed)
  ///   - the value in key=value, key: value and "key": value if the key is sensitive. A key is the word before the
  ///     separator, or the last two if only together they are a name (api key: x); or a quoted text. Its last 256 bytes count.
  ///   - the password in scheme://user:password@host
  /// A second time changes nothing. Without memory for the result, the whole text becomes the mark.
  std::string redact_text(std::string_view text) const noexcept;
  /// The same without a copy when there is nothing to do: false, and `out` is as it was. True: `out` is the redacted text.
  /// Requires: `text` is not in `out`.
  bool redact_text(std::string_view text, std::string& out) const noexcept;

  /// The document without white space between its tokens; keys, their order and numbers (to the digit) are as they were. The
  /// value of a sensitive key becomes the mark, whatever it is; other strings go through redact_text. Bytes that are not
  /// UTF-8 become U+FFFD. Errors: std::errc::bad_message with the position if this is not JSON (nothing of the text is in the
  /// message), std::errc::not_enough_memory. A string that alone finds no memory becomes the mark, as in redact_text.
  Result<std::string> redact_json(std::string_view json) const noexcept;

  /// redact_json, and if the result has more than max_json_bytes, a summary of that result in its place:
  ///   {"truncated":true,"original_size":bytes,"sha256":"hex digits","preview":"its first max_preview_bytes or a little less"}
  /// The preview ends between two characters. Errors: as redact_json.
  Result<std::string> truncate_json(std::string_view json) const noexcept;

 private:
  struct Rules;
  std::shared_ptr<const Rules> rules_;
};

}  // namespace weir::inline v0
