#include "weir/view/sql_normalize.hpp"

#include <algorithm>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include "support/catch.hpp"

using weir::normalize_sql;

namespace {

struct Case {
  std::string_view text, normalized;
};

constexpr Case cases[] = {
    // numbers
    {"SELECT * FROM users WHERE id = 42", "SELECT * FROM users WHERE id = ?"},
    {"WHERE id=42", "WHERE id=?"},
    {"WHERE price > 1.5", "WHERE price > ?"},
    {"WHERE price > .5", "WHERE price > ?"},
    {"WHERE price > 5.", "WHERE price > ?"},
    {"WHERE x = 1e5 OR x = 1.5E-10 OR x = 2e+3", "WHERE x = ? OR x = ? OR x = ?"},
    {"WHERE x = 1_000_000", "WHERE x = ?"},
    {"WHERE x = -5 AND y = +7", "WHERE x = ? AND y = ?"},
    {"WHERE x = -.5", "WHERE x = ?"},
    {"WHERE x=-5", "WHERE x=?"},
    {"WHERE x BETWEEN -5 AND -3", "WHERE x BETWEEN ? AND ?"},
    {"SELECT -1, (-2), f(-3)", "SELECT ?, (?), f(?)"},
    {"SELECT a-5, a - 5, a -5", "SELECT a-?, a - ?, a -?"},
    {"SELECT (a)-5, b[1]-5, 3-5", "SELECT (a)-?, b[?]-?, ?-?"},
    {"SELECT a - -5", "SELECT a - ?"},
    {"SELECT a->-1, a->5", "SELECT a->?, a->?"},
    {"LIMIT 10 OFFSET 20", "LIMIT ? OFFSET ?"},
    {"generate_series(1..10)", "generate_series(?..?)"},
    {"SELECT 1", "SELECT ?"},
    {"1", "?"},
    {"v1.2.3", "v1.?"},
    {"SELECT 1.5f", "SELECT ?.5f"},
    // digits that are part of a name
    {"SELECT col1, t2.c3 FROM orders_2024 t2", "SELECT col1, t2.c3 FROM orders_2024 t2"},
    {"SELECT * FROM 2024_orders", "SELECT * FROM 2024_orders"},
    {"SELECT größe1 FROM täble2", "SELECT größe1 FROM täble2"},
    {"SELECT * FROM v$session, #temp1", "SELECT * FROM v$session, #temp1"},
    // hex and UUIDs
    {"WHERE h = 0xDEADbeef", "WHERE h = ?"},
    {"WHERE h = x'1F' OR h = X'ab'", "WHERE h = ? OR h = ?"},
    {"WHERE b = b'0101' OR b = 0b0101", "WHERE b = ? OR b = ?"},
    {"WHERE id = 507f1f77bcf86cd799439011", "WHERE id = ?"},
    {"WHERE id = abcdef", "WHERE id = abcdef"},
    {"WHERE id = 550e8400-e29b-41d4-a716-446655440000", "WHERE id = ?"},
    {"WHERE id = A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11 LIMIT 1", "WHERE id = ? LIMIT ?"},
    {"WHERE id = '550e8400-e29b-41d4-a716-446655440000'", "WHERE id = ?"},
    {"WHERE id = '550e8400-e29b-41d4-a716-446655440000'::uuid", "WHERE id = ?::uuid"},
    {"WHERE x = 0xZZ", "WHERE x = 0xZZ"},
    // strings
    {"WHERE name = 'Alice'", "WHERE name = ?"},
    {"WHERE name = 'O''Brien'", "WHERE name = ?"},
    {"WHERE name = ''", "WHERE name = ?"},
    {"WHERE name = '''' AND a = ''''''", "WHERE name = ? AND a = ?"},
    {"WHERE name = 'it''s' AND b = 'x'", "WHERE name = ? AND b = ?"},
    {"WHERE name = 'two\nlines -- no comment /* nor this'", "WHERE name = ?"},
    {"WHERE name = N'Ünïcode'", "WHERE name = ?"},
    {"WHERE name = E'it\\'s' AND a = e'\\\\' AND b = 1", "WHERE name = ? AND a = ? AND b = ?"},
    {"WHERE name = U&'\\0061'", "WHERE name = ?"},
    {"WHERE name = 'it\\'s'", "WHERE name = ?"},
    {"WHERE name = 'it\\'s' AND c = 'that\\'s'", "WHERE name = ? AND c = ?"},
    {"WHERE path = 'C:\\' AND b = 'x'", "WHERE path = ? AND b = ?"},
    {"WHERE name LIKE '10\\%' ESCAPE '\\'", "WHERE name LIKE ? ESCAPE ?"},
    {"WHERE name = 'a\\\\' AND b = 'x'", "WHERE name = ? AND b = ?"},
    {"WHERE name = 'cut off", "WHERE name = ?"},
    {"WHERE name = 'cut''", "WHERE name = ?"},
    {"INTERVAL '1 day' + DATE '2024-01-01'", "INTERVAL ? + DATE ?"},
    {"CONCAT('a', 'b')", "CONCAT(?, ?)"},
    // dollar quotes
    {"SELECT $$it's 5$$, 1", "SELECT ?, ?"},
    {"SELECT $body$ a $$ b $body$, 1", "SELECT ?, ?"},
    {"DO $$ cut off", "DO ?"},
    {"SELECT a$b$c FROM t", "SELECT a$b$c FROM t"},
    // placeholders
    {"WHERE a = $1 AND b = $22", "WHERE a = ? AND b = ?"},
    {"WHERE a = ? AND b = ?2", "WHERE a = ? AND b = ?"},
    {"WHERE a = :name AND b = :p1 AND c = :1", "WHERE a = ? AND b = ? AND c = ?"},
    {"WHERE a = %s AND b = %(name)s", "WHERE a = ? AND b = ?"},
    {"SELECT a %s, a % 5", "SELECT a %s, a % ?"},
    {"WHERE a = @p1 AND @@version > 5", "WHERE a = @p1 AND @@version > ?"},
    {"SELECT x::int, y::numeric(10, 2)", "SELECT x::int, y::numeric(?, ?)"},
    {"SELECT a[1:2], a[lo:hi]", "SELECT a[?:?], a[lo:hi]"},
    {"SET @n := 5", "SET @n := ?"},
    // quoted identifiers
    {"SELECT \"col 1\" FROM \"table2\"", "SELECT \"col 1\" FROM \"table2\""},
    {"SELECT \"it's\", \"a\"\"5\" WHERE b = 5", "SELECT \"it's\", \"a\"\"5\" WHERE b = ?"},
    {"SELECT `order 2` FROM `t``3` WHERE a = 'x'", "SELECT `order 2` FROM `t``3` WHERE a = ?"},
    {"SELECT [Order 2] FROM [dbo].[t 3] WHERE [id]=5", "SELECT [Order 2] FROM [dbo].[t 3] WHERE [id]=?"},
    {"SELECT ARRAY[1, 2]", "SELECT ARRAY[?, ?]"},
    {"SELECT \"cut  off 5", "SELECT \"cut  off 5"},
    // IN
    {"WHERE id IN (1, 2, 3)", "WHERE id IN (?)"},
    {"WHERE id IN (1)", "WHERE id IN (?)"},
    {"WHERE id in (1,2,3)", "WHERE id IN (?)"},
    {"WHERE id In(1,2)AND b=1", "WHERE id IN (?)AND b=?"},
    {"WHERE id NOT in ( 'a' ,\n 'b' )", "WHERE id NOT IN (?)"},
    {"WHERE id IN (?, ?, ?) AND x = 1", "WHERE id IN (?) AND x = ?"},
    {"WHERE id IN ($1, $2, $3)", "WHERE id IN (?)"},
    {"WHERE id IN (:a, :b) OR id IN (@p0, @p1) OR id IN (%s, %s)", "WHERE id IN (?) OR id IN (?) OR id IN (?)"},
    {"WHERE id IN (-1, NULL, true, 'x', 0x1f)", "WHERE id IN (?)"},
    {"WHERE (a, b) IN ((1, 2), (3, 4))", "WHERE (a, b) IN (?)"},
    {"WHERE id IN ('a'::uuid, 'b'::uuid)", "WHERE id IN (?)"},
    {"WHERE d IN (DATE '2024-01-01', DATE '2024-01-02')", "WHERE d IN (?)"},
    {"WHERE id IN (550e8400-e29b-41d4-a716-446655440000, 550e8400-e29b-41d4-a716-446655440001)", "WHERE id IN (?)"},
    {"WHERE id in (select id from t where a = 5)", "WHERE id IN (select id from t where a = ?)"},
    {"WHERE id in(SELECT a FROM t WHERE b in (1,2))", "WHERE id IN (SELECT a FROM t WHERE b IN (?))"},
    {"WHERE id IN (a, 5)", "WHERE id IN (a, ?)"},
    {"WHERE id IN ()", "WHERE id IN ()"},
    {"WHERE id IN (1, 2, 3, ", "WHERE id IN (?)"},
    {"WHERE id IN (1, 'cut o", "WHERE id IN (?)"},
    {"WHERE id IN", "WHERE id IN"},
    {"SELECT t.in, \"in\" FROM interval_in WHERE min in (1, 2)", "SELECT t.in, \"in\" FROM interval_in WHERE min IN (?)"},
    {"position('a' in name)", "position(? IN name)"},
    {"INSERT INTO t (a, b) VALUES (1, 'x')", "INSERT INTO t (a, b) VALUES (?, ?)"},
    // white space and comments
    {"  SELECT\t*\r\n  FROM   t  ", "SELECT * FROM t"},
    {"SELECT 1 -- the one\nFROM t", "SELECT ? FROM t"},
    {"SELECT /* it's 5 */ a/**/b", "SELECT a b"},
    {"/* a /* nested */ b */ SELECT 1", "SELECT ?"},
    {"/* a /* not nested */ SELECT 1", "SELECT ?"},
    {"SELECT 1 /* cut off", "SELECT ?"},
    {"# it's a comment\nSELECT a #> '{b}'", "SELECT a #> ?"},
    {"SELECT a /*traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/", "SELECT a"},
    {"", ""},
    {" \n ", ""},
    // what is kept
    {"SELECT a FROM t WHERE b = TRUE AND c IS NULL;", "SELECT a FROM t WHERE b = TRUE AND c IS NULL;"},
    {"select A from T", "select A from T"},
    {"WHERE j @> '{\"a\":1}' AND j ? 'k' AND j ->> 'x' = '5'", "WHERE j @> ? AND j ? ? AND j ->> ? = ?"},
    {"get user:5", "get user:?"},
};

/// Texts of what normalize_sql treats differently, put together at random.
std::string soup(std::mt19937& random) {
  static constexpr std::string_view pieces[] = {" ",
                                                "  ",
                                                "\n",
                                                "'",
                                                "''",
                                                "\\",
                                                "\\'",
                                                "\"",
                                                "\"\"",
                                                "`",
                                                "[",
                                                "]",
                                                "(",
                                                ")",
                                                ",",
                                                ".",
                                                "..",
                                                ":",
                                                "::",
                                                ":=",
                                                ":a",
                                                "$",
                                                "$$",
                                                "$1",
                                                "$a$",
                                                "?",
                                                "?1",
                                                "@",
                                                "@@",
                                                "@p1",
                                                "%",
                                                "%s",
                                                "%(a)",
                                                "s",
                                                "#",
                                                "-",
                                                "--",
                                                "+",
                                                "/",
                                                "*",
                                                "/*",
                                                "*/",
                                                "in",
                                                "IN",
                                                "In (",
                                                "in(",
                                                "e",
                                                "E'",
                                                "n'",
                                                "x'1f'",
                                                "U&'",
                                                "u",
                                                "0",
                                                "1",
                                                "42",
                                                "0x1f",
                                                "0x",
                                                "0b",
                                                "1e5",
                                                "1.5",
                                                "1.",
                                                ".5",
                                                "_",
                                                "1_0",
                                                "a",
                                                "abc",
                                                "a1",
                                                "1a",
                                                "ab12cd",
                                                "SELECT",
                                                "AND",
                                                "NULL",
                                                "DATE",
                                                "a.b",
                                                "[a b",
                                                "[a b]",
                                                "ä",
                                                "\xff",
                                                "\x01",
                                                ";",
                                                "=",
                                                "->",
                                                "#>",
                                                "&",
                                                "-5",
                                                "+5",
                                                "IN (1, 2)",
                                                "IN (SELECT",
                                                "507f1f77bcf86cd799439011",
                                                "550e8400-e29b-41d4-a716-446655440000",
                                                "550e8400-e29b",
                                                "deadbeef",
                                                "\t",
                                                "\r",
                                                std::string_view("\0", 1)};
  std::string text;
  for (std::size_t n = random() % 24; n > 0; --n) text += pieces[random() % std::size(pieces)];
  return text;
}

}  // namespace

TEST_CASE("queries lose their values and keep the rest") {
  STATIC_REQUIRE(std::size(cases) >= 80);
  for (const Case& one : cases) {
    CAPTURE(one.text);
    CHECK(normalize_sql(one.text) == one.normalized);
    CHECK(normalize_sql(one.normalized) == one.normalized);
  }
}

TEST_CASE("what is normalized stays as it is") {
  std::mt19937 random(1);
  for (int i = 0; i < 200'000; ++i) {
    const std::string text = soup(random);
    const std::string once = normalize_sql(text);
    if (normalize_sql(once) == once) continue;
    CAPTURE(text, once);
    CHECK(normalize_sql(once) == once);
  }
}

TEST_CASE("values of every sort give the same query") {
  std::mt19937 random(2);
  constexpr std::string_view values[] = {"1",           "-1",     "1.5e3", "0xff",  "'a'",     "'O''Brien'",
                                         "'in (1, 2)'", "E'\\''", "N'x'",  "$$a$$", "$t$'$t$", "$1",
                                         "?",           ":name",  "%s",    "x'00'", "'--'",    "550e8400-e29b-41d4-a716-446655440000"};
  const auto any = [&] { return std::string(values[random() % std::size(values)]); };
  for (int i = 0; i < 2000; ++i) {
    std::string list = any();
    for (std::size_t n = random() % 5; n > 0; --n) list += (random() % 2 == 0 ? ", " : ",") + any();
    const std::string text = "SELECT a1 FROM t WHERE b = " + any() + " AND c IN (" + list + ") AND d > " + any() + " LIMIT " + any();
    CAPTURE(text);
    REQUIRE(normalize_sql(text) == "SELECT a1 FROM t WHERE b = ? AND c IN (?) AND d > ? LIMIT ?");
  }
}

TEST_CASE("long texts of any sort are read once") {
  // Quadratic, each of these would take minutes.
  constexpr std::size_t size = 1u << 20;
  for (const std::string_view piece :
       {"/*", "/* */", "[a ", "$a", "$a$ ", "in (", "in (1, ", "(", "'\\'", "\\'", "\"", "1_", "-", "%(a", "a-", "0x", ":"}) {
    std::string text;
    while (text.size() < size) text += piece;
    CAPTURE(piece);
    const std::string once = normalize_sql(text);
    CHECK(once.size() <= text.size() + text.size() / 2);
  }
}
