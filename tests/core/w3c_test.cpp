// The rules of W3C Trace Context, level 2, and W3C Baggage, as tables.
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "weir/core/context.hpp"

using weir::Context;

namespace {

const std::string trace = "0af7651916cd43dd8448eb211c80319c", span = "b7ad6b7169203331";
const std::string good = "00-" + trace + "-" + span + "-01";

std::string list(std::size_t count, const std::string& prefix = "k") {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += (i == 0 ? "" : ",") + prefix + std::to_string(i) + "=" + std::to_string(i);
  return text;
}
std::string tracestate(std::string_view header) { return std::string(Context::from_traceparent(good, header).tracestate()); }
std::string baggage(std::string_view header) { return std::string(Context::from_traceparent(good, {}, header).baggage()); }

}  // namespace

TEST_CASE("a traceparent is taken as it is") {
  struct Row {
    const char* what;
    std::string header;
    bool sampled;
    int flags;
  };
  const std::string ids = trace + "-" + span;
  const Row rows[] = {
      {"sampled", "00-" + ids + "-01", true, 1},
      {"not sampled", "00-" + ids + "-00", false, 0},
      {"random trace id", "00-" + ids + "-02", false, 2},
      {"both", "00-" + ids + "-03", true, 3},
      {"unknown flags are left out", "00-" + ids + "-ff", true, 3},
      {"unknown flags alone", "00-" + ids + "-fc", false, 0},
      {"an unknown version", "01-" + ids + "-01", true, 1},
      {"the last version", "fe-" + ids + "-00", false, 0},
      {"an unknown version's flags: only sampled is known", "cc-" + ids + "-ff", true, 1},
      {"an unknown version's further fields", "cc-" + ids + "-01-what-the-future-will-be-like", true, 1},
      {"an unknown version's empty further field", "cc-" + ids + "-01-", true, 1},
      {"white space around it", " \t" + good + "\t ", true, 1},
  };
  for (const Row& row : rows) {
    INFO(row.what << ": " << row.header);
    const auto before = weir::malformed_traceparents();
    const Context context = Context::from_traceparent(row.header);
    CHECK(weir::malformed_traceparents() == before);
    CHECK(context.trace_id().hex() == trace);
    CHECK(context.span_id().hex() == span);
    CHECK(context.sampled() == row.sampled);
    CHECK(context.trace_flags() == row.flags);
    CHECK(context.traceparent() == "00-" + ids + "-0" + std::to_string(row.flags));
  }
}

TEST_CASE("a malformed traceparent yields a new trace without tracestate, and is counted") {
  std::vector<std::string> headers = {
      "x",
      "-",
      good.substr(0, 54),
      good.substr(1),
      good + ".",
      good + "0",
      good + "-",
      good + "-what-the-future-will-be-like",
      good + "," + good,
      good + ", ",
      std::string("00-") + std::string(32, '0') + "-" + span + "-01",
      "00-" + trace + "-" + std::string(16, '0') + "-01",
      "cc-" + std::string(32, '0') + "-" + span + "-01",
      "ff-" + trace + "-" + span + "-01",
      "ff-" + trace + "-" + span + "-01-more",
      "cc-" + trace + "-" + span + "-01.more",
      "cc-" + trace + "-" + span + "-011",
      "cc-" + trace + "-" + span + "-0",
      "FE-" + trace + "-" + span + "-01",
      "0-" + trace + "-" + span + "-01",
      "000-" + trace + "-" + span + "-01",
      "0000-" + trace + "-" + span + "-01",
      "00-" + trace + "0-" + span + "-01",
      "00-" + trace.substr(1) + "-" + span + "-01",
      "00-" + trace + "-" + span + "0-01",
      "00-" + trace + "-" + span.substr(1) + "-01",
      "00-" + trace + "-" + span + "-1",
      "00-" + trace + "-" + span + "-001",
      "00--" + trace + "-" + span + "-01",
      "00 " + trace + "-" + span + "-01",
      "00-" + trace + " " + span + "-01",
      "00-" + trace + "-" + span + " 01",
      "00-" + trace + "-" + span + "-0 ",
      "00\n" + good.substr(3),
  };
  for (std::size_t i = 0; i < good.size(); ++i)  // no byte but hex digits, and dashes where they belong
    for (const char bad : {'g', 'A', 'F', '.', ' ', '\0', '/', ':', '`', '\x80', good[i] == '-' ? '0' : '-'})
      headers.push_back(good.substr(0, i) + bad + good.substr(i + 1));
  for (const std::string& header : headers) {
    INFO(header);
    const auto before = weir::malformed_traceparents();
    const Context context = Context::from_traceparent(header, "congo=t61rcWkgMzE", "user=ada");
    CHECK(weir::malformed_traceparents() == before + 1);
    CHECK(context.valid());
    CHECK(context.trace_id().hex() != trace);
    CHECK_FALSE(context.span_id().valid());
    CHECK(context.trace_flags() == 3);  // sampled, and its id is random
    CHECK(context.tracestate().empty());
    CHECK(context.baggage() == "user=ada");
    CHECK(Context::from_traceparent(header).trace_id() != context.trace_id());
  }
}

TEST_CASE("no traceparent yields a new trace, too, but is not malformed") {
  const auto before = weir::malformed_traceparents();
  for (const char* header : {"", " ", "\t"}) {
    const Context context = Context::from_traceparent(header, "congo=t61rcWkgMzE", "user=ada");
    CHECK(context.valid());
    CHECK(context.sampled());
    CHECK(context.tracestate().empty());
    CHECK(context.baggage() == "user=ada");
  }
  CHECK(weir::malformed_traceparents() == before);
}

TEST_CASE("a context without a span gets one in its traceparent, one without a trace has none") {
  const std::string header = Context::from_traceparent({}).traceparent();
  const Context read = Context::from_traceparent(header);
  CHECK(header.size() == good.size());
  CHECK(read.span_id().valid());
  CHECK(read.traceparent() == header);
  CHECK(Context{}.traceparent().empty());
}

TEST_CASE("a tracestate is kept, or left out as a whole") {
  std::string all_of_key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/@", all_of_value;
  for (char c = 0x20; c < 0x7f; ++c)
    if (c != ',' && c != '=') all_of_value += c;
  const std::string k256(256, 'z'), v256(256, '~');
  struct Row {
    const char* what;
    std::string header, kept;
  };
  const Row rows[] = {
      {"nothing", "", ""},
      {"one", "congo=t61rcWkgMzE", "congo=t61rcWkgMzE"},
      {"order is kept", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"},
      {"all characters", all_of_key + "=" + all_of_value, all_of_key + "=" + all_of_value},
      {"white space around members", " \tfoo=1 \t , \t bar=2,\t\tbaz=3\t", "foo=1,bar=2,baz=3"},
      {"white space in front of a value is part of it", "foo= 1 ,bar=2", "foo= 1,bar=2"},
      {"empty members", ",foo=1,, \t,bar=2,", "foo=1,bar=2"},
      {"only empty members", " , ,\t,", ""},
      {"32 members", list(32), list(32)},
      {"33 members", list(33), ""},
      {"32 members and empty ones", ",," + list(32) + ", ,", list(32)},
      {"the first of a key counts", "foo=1,bar=2,foo=3", "foo=1,bar=2"},
      {"key of 256", k256 + "=1", k256 + "=1"},
      {"key of 257", "foo=1,z" + k256 + "=1", ""},
      {"value of 256", "foo=" + v256, "foo=" + v256},
      {"value of 257", "foo=~" + v256 + ",bar=1", ""},
      {"a digit first", "1foo=1", "1foo=1"},
      {"tenant and system", "fw529a3039@dt=FfAAAAAAAAA", "fw529a3039@dt=FfAAAAAAAAA"},
      {"as long as level 1 has it", std::string(241, 't') + "@" + std::string(14, 'v') + "=1",
       std::string(241, 't') + "@" + std::string(14, 'v') + "=1"},
      {"signs that level 1 did not have", "foo@=1,foo@@bar=2,foo@bar@baz=3", "foo@=1,foo@@bar=2,foo@bar@baz=3"},
      {"@ first", "@foo=1,bar=2", ""},
      {"_ first", "_foo=1,bar=2", ""},
      {"upper case", "FOO=1,bar=2", ""},
      {"a dot in a key", "foo.bar=1,bar=2", ""},
      {"a space in a key", "foo =1,bar=2", ""},
      {"no key", "=1,bar=2", ""},
      {"no value", "foo=,bar=2", ""},
      {"a value of spaces", "foo=  ,bar=2", ""},
      {"no =", "foo,bar=2", ""},
      {"two =", "foo=bar=baz,bar=2", ""},
      {"a tab in a value", "foo=1\t2,bar=2", ""},
      {"CR LF in a value", "foo=1\r\nset-cookie: 2,bar=2", ""},
      {"a byte above 0x7e in a value", "foo=\x7f,bar=2", ""},
      {"no ASCII", "foo=\xc3\xa9,bar=2", ""},
  };
  for (const Row& row : rows) {
    INFO(row.what << ": " << row.header);
    CHECK(tracestate(row.header) == row.kept);
    CHECK(Context::from_traceparent(good, row.header).traceparent() == good);  // it never touches the trace
  }
}

TEST_CASE("a key of the tracestate that is set goes to the left, once") {
  const Context context = Context::from_traceparent(good, "rojo=1,congo=2,mono=3");
  CHECK(context.with_tracestate("congo", "4").tracestate() == "congo=4,rojo=1,mono=3");
  CHECK(context.with_tracestate("rojo", "4").tracestate() == "rojo=4,congo=2,mono=3");
  CHECK(context.with_tracestate("new@one", "4").tracestate() == "new@one=4,rojo=1,congo=2,mono=3");
  CHECK(Context::from_traceparent(good).with_tracestate("a", "b").tracestate() == "a=b");
  CHECK(context.tracestate() == "rojo=1,congo=2,mono=3");
}

TEST_CASE("the 33rd member of a tracestate pushes the last one out") {
  const Context full = Context::from_traceparent(good, list(32));
  CHECK(full.with_tracestate("new", "1").tracestate() == "new=1," + list(31));
  CHECK(full.with_tracestate("k31", "1").tracestate() == "k31=1," + list(31));
}

TEST_CASE("what may not stand in a tracestate is not set") {
  const Context context = Context::from_traceparent(good, "rojo=1");
  const std::pair<std::string, std::string> pairs[] = {{"", "1"},
                                                       {"Foo", "1"},
                                                       {"a b", "1"},
                                                       {"@a", "1"},
                                                       {"a", ""},
                                                       {"a", "1,b=2"},
                                                       {"a", "1=2"},
                                                       {"a", "1 "},
                                                       {"a", "\r\n"},
                                                       {"a", "\xff"},
                                                       {"a=b", "1"},
                                                       {std::string(257, 'a'), "1"},
                                                       {"a", std::string(257, 'a')}};
  for (const auto& [key, value] : pairs) {
    INFO(key << " = " << value);
    CHECK(context.with_tracestate(key, value) == context);
  }
}

TEST_CASE("members of the baggage are kept, or left out alone") {
  struct Row {
    const char* what;
    std::string header, kept;
  };
  const Row rows[] = {
      {"nothing", "", ""},
      {"one", "userId=alice", "userId=alice"},
      {"the example of the standard", "key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue",
       "key1=value1;property1;property2,key2 = value2,key3=value3; propertyKey=propertyValue"},
      {"percent-encoded", "userId=Am%C3%A9lie,serverNode=DF%2028", "userId=Am%C3%A9lie,serverNode=DF%2028"},
      {"= in a value", "a=b=c==", "a=b=c=="},
      {"= in a property", "a=b;c=d=e", "a=b;c=d=e"},
      {"an empty value", "a=,b=1", "a=,b=1"},
      {"two of a key", "a=1,a=2", "a=1,a=2"},
      {"white space and empty members", " , a=1 ,\t,b=2,", "a=1,b=2"},
      {"all of a token", "!#$%&'*+-.^_`|~09azAZ=1", "!#$%&'*+-.^_`|~09azAZ=1"},
      {"no =", "a,b=1", "b=1"},
      {"no key", "=1,b=1", "b=1"},
      {"no token", "a(b)=1,b=1", "b=1"},
      {"a space in a key", "a b=1,b=1", "b=1"},
      {"a space in a value", "a=1 2,b=1", "b=1"},
      {"quotes", "a=\"1\",b=1", "b=1"},
      {"a backslash", "a=\\,b=1", "b=1"},
      {"an empty property", "a=1;,b=1", "b=1"},
      {"a property that is no token", "a=1;p q,b=1", "b=1"},
      {"a space in a property's value", "a=1;p=q r,b=1", "b=1"},
      {"no value but a property", "a;b=1,b=1", "b=1"},
      {"CR LF", "a=1\r\nset-cookie: 2,b=1", "b=1"},
      {"a zero byte", std::string("a=\0,b=1", 7), "b=1"},
      {"no ASCII", "a=\xc3\xa9,\xc3\xa9=a,b=1", "b=1"},
  };
  for (const Row& row : rows) {
    INFO(row.what << ": " << row.header);
    CHECK(baggage(row.header) == row.kept);
  }
}

TEST_CASE("64 members, and up to 180, and 8,192 bytes of baggage are kept; of more, whole members go") {
  CHECK(baggage(list(64)) == list(64));
  CHECK(baggage(list(180)) == list(180));
  CHECK(baggage(list(181)) == list(180));
  const std::string all = "a=" + std::string(8190, 'x');
  CHECK(baggage(all) == all);
  CHECK(baggage(all + "x").empty());
  CHECK(baggage(all + "x,b=1") == "b=1");
  const std::string two = "a=" + std::string(4093, 'x') + ",b=" + std::string(4094, 'y');
  REQUIRE(two.size() == 8192);
  CHECK(baggage(two) == two);
  CHECK(baggage(two + "y,c=1") == two.substr(0, 4095) + ",c=1");
}

TEST_CASE("any bytes come back from the baggage as they were set") {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  const Context context = Context{}.with_baggage("all", bytes).with_baggage("second", "a,b;c=d%41 \r\n");
  CHECK(context.baggage("all") == bytes);
  CHECK(context.baggage("second") == "a,b;c=d%41 \r\n");
  for (const char c : context.baggage()) CHECK((c > 0x20 && c < 0x7f));
  const Context read = Context::from_traceparent({}, {}, context.baggage());
  CHECK(read.baggage() == context.baggage());
  CHECK(read.baggage("all") == bytes);
  for (int i = 0; i < 256; ++i) {
    const std::string byte(1, static_cast<char>(i));
    CHECK(Context::from_traceparent({}, {}, Context{}.with_baggage("k", byte).baggage()).baggage("k") == byte);
  }
}

TEST_CASE("a value of the baggage is decoded without its properties and the white space around it") {
  const Context context = Context::from_traceparent({}, {}, "a = 1%2C2 ;p=3, b=%4a%4B%, c=%zz%4, d=,e=first,e=second,f=a+b");
  CHECK(context.baggage("a") == "1,2");
  CHECK(context.baggage("b") == "JK%");
  CHECK(context.baggage("c") == "%zz%4");
  CHECK(context.baggage("d") == "");
  CHECK(context.baggage("e") == "first");
  CHECK(context.baggage("f") == "a+b");
  CHECK_FALSE(context.baggage("p"));
  CHECK_FALSE(context.baggage("A"));
  CHECK_FALSE(Context{}.baggage("a"));
}

TEST_CASE("a key of the baggage is set once, or dropped") {
  const Context context = Context::from_traceparent({}, {}, "a=1;p,b=2,a=3");
  CHECK(context.with_baggage("a", "4").baggage() == "b=2,a=4");
  CHECK(context.with_baggage("c", "4").baggage() == "a=1;p,b=2,a=3,c=4");
  CHECK(context.with_baggage("a", "").baggage() == "b=2");
  CHECK(context.with_baggage("a", "").with_baggage("b", "").baggage().empty());
  CHECK(context.with_baggage("c", "") == context);
  CHECK(context.baggage() == "a=1;p,b=2,a=3");
}

TEST_CASE("what would break the bounds of the baggage is not set") {
  for (const char* key : {"", "a b", "a=b", "a,b", "a;b", "\r\n", "\xc3\xa9", "\"a\""})
    CHECK(Context{}.with_baggage(key, "1") == Context{});
  const Context most = Context::from_traceparent({}, {}, list(179)), full = most.with_baggage("last", "1");
  CHECK(full.baggage() == list(179) + ",last=1");
  CHECK(full.with_baggage("one_more", "1") == full);
  CHECK(full.with_baggage("last", "2").baggage() == list(179) + ",last=2");
  CHECK(Context{}.with_baggage("a", std::string(8190, 'x')).baggage().size() == 8192);
  CHECK(Context{}.with_baggage("a", std::string(8191, 'x')) == Context{});
  CHECK(Context{}.with_baggage("a", std::string(2730, ' ')).baggage().size() == 8192);
  CHECK(Context{}.with_baggage("a", std::string(2731, ' ')) == Context{});
}
