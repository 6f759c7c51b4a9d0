#include "weir/view/tree_assembler.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace std::chrono_literals;
using weir::Span;
using weir::TreeAssembler;
using weir::TreeAssemblerOptions;

namespace {

Span make(std::string id, std::string parent, int start = 0, std::string trace = "t") {
  Span span;
  span.id = std::move(id);
  span.trace_id = std::move(trace);
  span.parent_id = std::move(parent);
  span.start_time += std::chrono::seconds{start};
  return span;
}

/// "root(a b(c))".
std::string shape(const Span& span) {
  std::string text = span.id;
  if (span.children.empty()) return text;
  text += '(';
  for (const Span& child : span.children) text += (text.back() == '(' ? "" : " ") + shape(child);
  return text + ')';
}

using Shapes = std::vector<std::string>;

struct Fixture {
  Shapes out;
  TreeAssembler::TimePoint now{};
  TreeAssembler trees;
  explicit Fixture(TreeAssemblerOptions options = {}) : trees([this](const Span& tree) { out.push_back(shape(tree)); }, options) {}
  void add(Span span) { trees.add(std::move(span), now); }
};

TreeAssemblerOptions with_age(std::chrono::milliseconds age) {
  TreeAssemblerOptions options;
  options.max_age = age;
  return options;
}

TreeAssemblerOptions with_spans(std::size_t spans) {
  TreeAssemblerOptions options;
  options.max_spans = spans;
  return options;
}

}  // namespace

TEST_CASE("a tree comes out when its root comes, children by start time") {
  Fixture f;
  f.add(make("c", "b", 3));
  f.add(make("b2", "root", 5));
  f.add(make("b", "root", 2));
  f.add(make("d", "b", 1));
  CHECK(f.out.empty());
  CHECK(f.trees.stats().waiting == 4);
  f.add(make("root", ""));
  CHECK(f.out == Shapes{"root(b(d c) b2)"});
  CHECK(f.trees.stats().waiting == 0);
  CHECK(f.trees.stats().given_up == 0);
}

TEST_CASE("a trace may have several roots, and traces do not mix") {
  Fixture f;
  f.add(make("a", "r1"));
  f.add(make("b", "r2"));
  f.add(make("a", "r1", 0, "other"));
  f.add(make("r1", ""));
  f.add(make("r2", ""));
  CHECK(f.out == Shapes{"r1(a)", "r2(b)"});
  f.add(make("r1", "", 0, "other"));
  CHECK(f.out.back() == "r1(a)");
}

TEST_CASE("a late span comes out as a tree of its own, with what waited for it") {
  Fixture f;
  f.add(make("a", "root"));
  f.add(make("root", ""));
  f.add(make("y", "x"));
  CHECK(f.out.size() == 1);  // its parent may still come
  f.add(make("x", "a"));
  CHECK(f.out == Shapes{"root(a)", "x(y)"});
  f.add(make("z", "y"));
  CHECK(f.out.back() == "z");
  CHECK(f.trees.stats().late == 2);
}

TEST_CASE("the first of two spans with one id counts") {
  Fixture f;
  f.add(make("a", "root"));
  f.add(make("a", "elsewhere"));
  f.add(make("root", ""));
  f.add(make("root", ""));
  f.add(make("a", "root"));
  CHECK(f.out == Shapes{"root(a)"});
  CHECK(f.trees.stats().duplicates == 3);
}

TEST_CASE("a span that is its own parent is a root") {
  Fixture f;
  f.add(make("b", "a"));
  f.add(make("a", "a"));
  CHECK(f.out == Shapes{"a(b)"});
}

TEST_CASE("orphans are given up when nothing comes for their trace") {
  Fixture f(with_age(10s));
  f.add(make("b", "a", 2));
  f.add(make("a", "gone", 1));
  f.add(make("z", "lost", 0));
  f.now += 9s;
  f.trees.advance(f.now);
  CHECK(f.out.empty());
  f.add(make("c", "a", 3));  // the trace is alive
  f.now += 9s;
  f.trees.advance(f.now);
  CHECK(f.out.empty());
  f.now += 1s;
  f.trees.advance(f.now);
  CHECK(f.out == Shapes{"z", "a(b c)"});
  CHECK(f.trees.stats().given_up == 2);
  CHECK(f.trees.stats().waiting == 0);
}

TEST_CASE("cycles come out once they are given up") {
  Fixture f;
  f.add(make("a", "b", 1));
  f.add(make("b", "a", 2));
  f.add(make("c", "b", 3));
  f.add(make("p", "q", 5));
  f.add(make("q", "p", 4));
  f.trees.finish();
  CHECK(f.out == Shapes{"a(b(c))", "q(p)"});
  CHECK(f.trees.stats().waiting == 0);
}

TEST_CASE("the ids of what came out are forgotten with their trace") {
  Fixture f(with_age(10s));
  f.add(make("root", ""));
  f.now += 10s;
  f.add(make("a", "root"));
  CHECK(f.out == Shapes{"root"});
  f.trees.finish();
  CHECK(f.out == Shapes{"root", "a"});
  CHECK(f.trees.stats().late == 0);
}

TEST_CASE("the bounds hold whatever comes") {
  SECTION("traces: the one quiet for longest is given up") {
    TreeAssemblerOptions options;
    options.max_traces = 3;
    Fixture f(options);
    for (int i = 0; i < 3; ++i) f.add(make("s" + std::to_string(i), "p", 0, std::to_string(i)));
    f.add(make("again", "p", 0, "0"));
    f.add(make("s3", "p", 0, "3"));
    CHECK(f.out == Shapes{"s1"});
  }
  SECTION("spans that wait") {
    Fixture f(with_spans(100));
    for (int i = 0; i < 20'000; ++i) {
      f.add(make(std::to_string(i), "p" + std::to_string(i), 0, std::to_string(i % 10)));
      REQUIRE(f.trees.stats().waiting <= 100);
    }
    f.trees.finish();
    CHECK(f.out.size() == 20'000);
    CHECK(f.trees.stats().given_up == 20'000);
  }
  SECTION("ids of one endless trace") {
    Fixture f(with_spans(2));
    f.add(make("0", ""));
    f.add(make("1", ""));
    f.add(make("1", ""));
    CHECK(f.trees.stats().duplicates == 1);
    f.add(make("2", ""));  // one too many: the trace is forgotten
    f.add(make("1", ""));
    CHECK(f.out.size() == 4);
  }
}

TEST_CASE("a chain of 100,000 spans is assembled and let go without recursion") {
  const int depth = 100'000;
  int seen = 0;
  TreeAssembler trees([&](const Span& tree) {
    for (const Span* span = &tree; span != nullptr; span = span->children.empty() ? nullptr : &span->children.front()) ++seen;
  });
  SECTION("with a root") {
    for (int i = depth - 1; i > 0; --i) trees.add(make(std::to_string(i), std::to_string(i - 1)));
    trees.add(make("0", ""));
  }
  SECTION("given up") {
    for (int i = 1; i <= depth; ++i) trees.add(make(std::to_string(i), std::to_string(i - 1)));
    trees.finish();
  }
  SECTION("a cycle") {
    for (int i = 0; i < depth; ++i) trees.add(make(std::to_string(i), std::to_string((i + 1) % depth)));
    trees.finish();
  }
  CHECK(seen == depth);
}

TEST_CASE("children that a span brings along stay, beside those that waited") {
  Fixture f;
  f.add(make("b", "root", 2));
  Span root = make("root", "");
  root.children.push_back(make("a", "root", 1));
  f.add(root);
  CHECK(f.out == Shapes{"root(a b)"});
}
