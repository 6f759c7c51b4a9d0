#pragma once
// The version of the headers. Everything public lives in the inline namespace `weir::v0`, so that two versions
// of the library in one process are told apart by the linker instead of being mixed.

#define WEIR_VERSION_MAJOR 0
#define WEIR_VERSION_MINOR 1
#define WEIR_VERSION_PATCH 0
#define WEIR_VERSION_STRING "0.1.0"

#if defined(_WIN32)
#error "weir supports Linux; its operation, activity and telemetry headers also build on macOS"
#endif

/// Marks state that every shared library of a process must see as one object, whatever visibility it is compiled with.
#define WEIR_SHARED_STATE [[gnu::visibility("default")]]
