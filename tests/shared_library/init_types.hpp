#pragma once
// What a program and a library that it loads say to each other about sessions.

#include "weir/init.hpp"

namespace shared_library {

/// What the library exports.
struct InitLibrary {
  const weir::Tracer* (*tracer)();
  void (*make_span)();
  bool (*init)();  // true: it got a session
};

}  // namespace shared_library
