#pragma once
// What a program and the library that it loads have in common.

#include "weir/operation/operation.hpp"

namespace shared_library {

struct Call {
  struct Args {
    int number = 0;
  };
  struct Result {
    int answer = 0;
  };
  int state = 0;
};
struct News {
  int value = 0;
};

/// What the library exports.
struct Library {
  void (*run)(int number);  // a Call, with News inside
  weir::Listener (*listen)(weir::Operation& node, int* finishes);
  bool (*finds)(weir::Operation& operation, int state);
  weir::Operation* (*current)();
  void (*run_unrelated)();  // operations whose types only look like the program's
};

}  // namespace shared_library
