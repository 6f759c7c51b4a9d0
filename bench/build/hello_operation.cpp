// hello.cpp, with one operation and one listener.

#include <cstdio>

#include "weir/operation/operation.hpp"

struct Greet {
  struct Args {
    const char* greeting;
  };
  struct Result {};
};

int main() {
  weir::Root root;
  root.on_start<Greet>([](const Greet::Args& args) { std::puts(args.greeting); });
  const weir::RootScope installed{std::move(root)};
  const weir::Op<Greet> greet{{"hello"}};
}
