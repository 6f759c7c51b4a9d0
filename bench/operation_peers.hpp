#pragma once
// What runs beside operations. None of it gives what an operation gives (see README.md): each tells a number of listeners
// that something started and finished, and no more. weir's listeners and all of these do the same with what they hear: use() it.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <vector>

#if WEIR_HAVE_BOOST
#include <boost/signals2.hpp>
#endif

#include "support/bench.hpp"

namespace bench::peers {

/// What virtual_call calls, and what the bare array holds. There are two kinds, so that the compiler does not guess which.
struct Listener {
  virtual ~Listener() = default;
  virtual void hear(std::uint64_t value) = 0;
};
struct UsingListener final : Listener {
  void hear(std::uint64_t value) override { use(value); }
};
struct OtherListener final : Listener {
  void hear(std::uint64_t value) override { use(value + 1); }
};
inline Listener* listener() {
  static UsingListener listener;
  static OtherListener other;
  return hide(true) ? static_cast<Listener*>(&listener) : &other;
}

template <int calls>
void virtual_call(benchmark::State& state) {
  Listener* const called = listener();
  measure(state, [&](std::uint64_t i) {
    for (int call = 0; call < calls; ++call) hide(called)->hear(i);
  });
}

/// Calls through a pointer to a function that takes an instance, as every type-erased listener is in the end.
template <int calls>
void indirect_call(benchmark::State& state) {
  struct Call {
    void (*function)(void* self, std::uint64_t value);
    void* self;
  };
  std::array<Call, calls> listeners;
  listeners.fill({hide(+[](void*, std::uint64_t value) { use(value); }), nullptr});
  escape(&listeners);
  measure(state, [&](std::uint64_t i) {
    for (const Call& listener : listeners) listener.function(listener.self, i);
  });
}

/// The limit of emission: an array of listeners that may be replaced at any time (an atomic pointer, loaded for every event),
/// at the end of a chain of parents that have none. `emissions` events to `listeners` each.
template <int depth, int emissions, std::size_t listeners>
void bare_array(benchmark::State& state) {
  struct Array {
    std::size_t size = listeners;
    std::array<Listener*, listeners> items;
  };
  struct Node {
    Node* parent = nullptr;
    std::atomic<const Array*> heard_by{nullptr};
  };
  static Array array;
  static std::array<Node, depth> chain;
  if (state.thread_index() == 0) {  // the loop begins when all threads have come to it
    array.items.fill(listener());
    for (int i = 0; i + 1 < depth; ++i) chain[i].parent = &chain[i + 1];
    chain.back().heard_by.store(&array);
  }
  measure(state, [](std::uint64_t i) {
    for (int emission = 0; emission < emissions; ++emission) {
      const Node* node = hide(&chain.front());
      const Array* found;
      while ((found = node->heard_by.load(std::memory_order_acquire)) == nullptr) node = node->parent;
      for (std::size_t k = 0; k < found->size; ++k) found->items[k]->hear(i);
    }
  });
}

/// The limit where nobody listens: an object that knows its parent, its type, whether it has listeners and has finished, that
/// is its thread's current one while it lives, and asks twice whether anybody listens to its type. One thread's business.
inline void bare_node(benchmark::State& state) {
  struct Node {
    Node* parent;
    const void* type;
    void* heard_by;
    std::uint64_t finished;
  };
  static constinit thread_local Node* current = nullptr;
  static constinit std::atomic<bool> started_heard{false}, finished_heard{false};
  escape(&started_heard);
  escape(&finished_heard);
  measure(state, [](std::uint64_t) {
    Node node{current, &started_heard, nullptr, 0};
    current = &node;
    if (started_heard.load(std::memory_order_relaxed)) std::abort();
    escape(&node);
    if (finished_heard.load(std::memory_order_relaxed)) std::abort();
    node.finished = 1;
    current = node.parent;
    escape(&node);
  });
}

template <int emissions, int listeners>
void functions(benchmark::State& state) {
  std::vector<std::function<void(std::uint64_t)>> called(listeners, [](std::uint64_t value) { use(value); });
  escape(&called);
  measure(state, [&](std::uint64_t i) {
    for (int emission = 0; emission < emissions; ++emission)
      for (const auto& listener : called) listener(i);
  });
}

inline void register_function(benchmark::State& state) {
  measure(state, [](std::uint64_t i) {
    std::vector<std::function<void()>> listeners;
    listeners.emplace_back([i] { use(i); });
    escape(&listeners);
  });
}

/// The limit of registering: one small block from the heap, and back.
inline void allocate(benchmark::State& state) {
  measure(state, [](std::uint64_t) { std::free(hide(std::malloc(64))); });
}

#if WEIR_HAVE_BOOST
template <int emissions, int listeners>
void signals2(benchmark::State& state) {
  static boost::signals2::signal<void(std::uint64_t)> signal;
  if (state.thread_index() == 0 && signal.empty())
    for (int i = 0; i < listeners; ++i) signal.connect([](std::uint64_t value) { use(value); });
  measure(state, [](std::uint64_t i) {
    for (int emission = 0; emission < emissions; ++emission) signal(i);
  });
}

inline void register_with_signals2(benchmark::State& state) {
  boost::signals2::signal<void()> signal;
  measure(state, [&](std::uint64_t i) { boost::signals2::scoped_connection{signal.connect([i] { use(i); })}; });
}
#else
template <int, int>
inline constexpr void (*signals2)(benchmark::State&) = nullptr;
inline constexpr void (*register_with_signals2)(benchmark::State&) = nullptr;
#endif

}  // namespace bench::peers
