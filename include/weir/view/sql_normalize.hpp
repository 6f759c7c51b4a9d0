#pragma once
// normalize_sql: a query without its values, so that queries which differ in nothing else are one. What analysis groups by
// (weir/view/analysis.hpp).
//
//   select *  from t where id in (1, 2, 3)   ─▶   select * from t where id IN (?)
//   … where name = 'O''Brien' and n > -5     ─▶   … where name = ? and n > ?
//
//   becomes ?    numbers (sign, fraction, exponent, 0x1f, 1_000), quoted strings ('O''Brien', E'it\'s', N'…', x'1f'),
//                dollar quotes ($$…$$, $tag$…$tag$), UUIDs, hex of 16 digits and more, placeholders ($1, ?1, :name, %s)
//   IN (…)       a list of values becomes IN (?), rows of values too; the keyword IN is written large everywhere
//   white space  and comments (--, /* */, # at the beginning of a line) become one space, none at either end
//   kept         everything else, "identifiers", `identifiers` and [identifiers] as they are inside
//
// A backslash before the quote of a plain string is an escape in MySQL and none elsewhere: it is taken for one when else the
// quotes that follow would not pair. What is cut off (in a string, a comment, a list) reads as if it ended there.

#include <string>
#include <string_view>

#include "weir/core/version.hpp"

namespace weir::inline v0 {

/// Any text, valid SQL or not; what it gives, it leaves as it is: normalize_sql(normalize_sql(x)) == normalize_sql(x). Time and
/// memory grow with the length of the text, whatever is in it. Thread-safe.
std::string normalize_sql(std::string_view text);

}  // namespace weir::inline v0
