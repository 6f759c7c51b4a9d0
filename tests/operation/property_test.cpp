// Random single-threaded programs against a naive model: operations start, finish, end; listeners and observers come and
// go, emit, and swap the root, also from inside listeners.
//
// The model is a tree of nodes with vectors of listeners. Whenever the library calls a listener, the model is asked which
// one the innermost event has to call next; when an event is over, there must be none left.
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/operations.hpp"
#include "weir/operation/operation.hpp"

using namespace weir;
using namespace weir::testing;

namespace {

struct A {
  struct Args {};
  struct Result {};
};
struct B {
  struct Args {};
  struct Result {};
};
struct Note {};

enum Kind { start_a, start_b, finish_a, finish_b, note, everything };
enum Action {
  emit_here,
  finish_source,
  finish_other,
  register_here,
  register_above,
  remove_self,
  remove_other,
  nest,
  share,
  swap,
  nothing
};

struct Node {
  Node* parent = nullptr;
  bool is_a = false;
  bool finished = false;  // from the beginning of its finish
  bool dropped = false;   // its listeners are gone
  bool implicit = false;
  Operation* operation = nullptr;  // while it is there
  int below = 0;                   // operations directly below that are there
  std::vector<std::size_t> listeners;
};

struct ModelListener {
  Kind kind;
  Action action;
  Node* node;
  bool removed;
  Listener handle;
};

struct Event {
  Kind kind;
  Node* source;
  Node* node;              // where it is
  std::size_t index;       // of the next listener there
  std::size_t registered;  // listeners that were there when it began
};

struct Any {  // an operation of either type
  std::optional<Op<A>> a;
  std::optional<Op<B>> b;
};

class World {
 public:
  explicit World(unsigned seed) : random_(seed) { swap_the_root(); }
  ~World() {
    while (!stack_.empty()) stack_.pop_back();
    while (!shared_.empty()) shared_.pop_back();
    swap_root(Root{});
  }

  void run(int steps) {
    for (int i = 0; i < steps && problem.empty(); ++i) step();
    while (!stack_.empty() && problem.empty()) end_last();
    while (!shared_.empty() && problem.empty()) release(shared_.size() - 1);
  }

  std::string problem;
  int calls = 0;

 private:
  struct OnStack {
    Node* node;
    std::unique_ptr<Any> real;
  };
  struct Shared {
    Node* node;
    Handle<A> a;
    Handle<B> b;
  };

  std::size_t draw(std::size_t n) { return random_() % n; }
  void expect(bool right, const char* what) {
    if (!right && problem.empty()) problem = what;
  }

  // ---- the model's events

  ModelListener* next() {
    Event& event = events_.back();
    for (; event.node != nullptr; event.node = event.node->parent, event.index = 0)
      while (!event.node->dropped && event.index < event.node->listeners.size()) {
        const std::size_t number = event.node->listeners[event.index++];
        ModelListener& listener = listeners_[number];
        if (number < event.registered && !listener.removed && (listener.kind == event.kind || listener.kind == everything))
          return &listener;
      }
    return nullptr;
  }
  template <class Call>
  void event(Kind kind, Node* source, Node* from, Call call) {
    events_.push_back({kind, source, from, 0, listeners_.size()});
    call();
    expect(!problem.empty() || next() == nullptr, "a listener was not called");
    events_.pop_back();
  }
  void called(std::size_t number, Operation& operation) {
    ++calls;
    if (!problem.empty()) return;
    if (events_.empty()) return expect(false, "a call outside events");
    ModelListener* const expected = next();
    if (expected != &listeners_[number]) return expect(false, "another listener was to be called");
    Node* const source = events_.back().source;
    source->operation = &operation;  // known from its first start listener on
    if (events_.size() < 9 && budget_-- > 0) act(number, source);
  }

  void act(std::size_t number, Node* source) {
    Node* const node = listeners_[number].node;
    switch (listeners_[number].action) {
      case emit_here: return emit(source);
      case finish_source: return finish(source);
      case finish_other: return finish(any());
      case register_here: return add(source);
      case register_above: return add(source->parent);
      case remove_self: return remove(number);
      case remove_other: return remove(draw(listeners_.size()));
      case nest: {
        begin();
        return end_last();
      }
      case share: return begin_shared();
      case swap: return swap_the_root();
      default: (void)node; return;
    }
  }

  // ---- what programs do

  void step() {
    budget_ = 40;
    switch (draw(14)) {
      case 0:
      case 1:
      case 2:
        if (stack_.size() < 30) begin();
        return;
      case 3:
      case 4:
        if (!stack_.empty()) end_last();
        return;
      case 5:
      case 6:
      case 7: {
        Node* node = any();
        for (std::size_t up = draw(4); node != nullptr && up > 0 && node->parent != nullptr; --up) node = node->parent;
        return add(node);
      }
      case 8:
        if (!listeners_.empty()) remove(draw(listeners_.size()));
        return;
      case 9:
      case 10: return emit(any());
      case 11: return finish(any());
      case 12: return begin_shared();
      default:
        if (draw(3) == 0) return swap_the_root();
        if (!shared_.empty()) release(draw(shared_.size()));
    }
  }

  Node* any() {
    const std::size_t n = stack_.size() + shared_.size();
    if (n == 0) return nullptr;
    const std::size_t i = draw(n);
    return i < stack_.size() ? stack_[i].node : shared_[i - stack_.size()].node;
  }
  Node* make_node(Node* parent, bool implicit) {
    Node& node = nodes_.emplace_back();
    node.parent = parent;
    node.is_a = draw(2) == 0;
    node.implicit = implicit;
    ++parent->below;
    return &node;
  }
  static Node* nearest_unfinished(Node* node) {
    while (node != nullptr && node->parent != nullptr && node->finished) node = node->parent;
    return node != nullptr && node->parent != nullptr ? node : nullptr;
  }

  void begin() {
    Node* const node = make_node(current_ != nullptr ? current_ : root_, true);
    current_ = node;
    stack_.push_back({node, std::make_unique<Any>()});
    Any& real = *stack_.back().real;
    event(node->is_a ? start_a : start_b, node, node->parent, [&] {
      if (node->is_a)
        node->operation = &real.a.emplace(A::Args{});
      else
        node->operation = &real.b.emplace(B::Args{});
    });
    expect(node->operation->finished() == node->finished, "wrong state after the start");
    expect(node->operation->parent() == node->parent->operation || node->parent->parent == nullptr, "wrong parent");
    if (node->parent->parent == nullptr) node->parent->operation = node->operation->parent();
    check_current();
  }
  void end_last() {
    OnStack last = std::move(stack_.back());
    stack_.pop_back();
    const auto end = [&] { last.real.reset(); };
    finish_model(last.node, end, end);
    gone(last.node);
    check_current();
  }
  void begin_shared() {
    if (shared_.size() > 8) return;
    Node* parent = root_;
    if (!shared_.empty() && (current_ != nullptr || draw(2) == 0))
      parent = shared_[draw(shared_.size())].node;
    else if (current_ != nullptr)
      return;
    Node* const node = make_node(parent, false);
    Shared real{node, {}, {}};
    event(node->is_a ? start_a : start_b, node, parent, [&] {
      if (parent->parent != nullptr && node->is_a)
        real.a = start<A>(under(*parent->operation), {});
      else if (parent->parent != nullptr)
        real.b = start<B>(under(*parent->operation), {});
      else if (node->is_a)
        real.a = start<A>({});
      else
        real.b = start<B>({});
    });
    node->operation = node->is_a ? static_cast<Operation*>(&*real.a) : &*real.b;
    if (parent->parent == nullptr) parent->operation = node->operation->parent();
    shared_.push_back(std::move(real));
  }
  void release(std::size_t i) {
    if (shared_[i].node->below != 0) return;
    Shared real = std::move(shared_[i]);
    shared_.erase(shared_.begin() + static_cast<std::ptrdiff_t>(i));
    const auto end = [&] {
      real.a = {};
      real.b = {};
    };
    finish_model(real.node, end, end);
    gone(real.node);
  }
  void gone(Node* node) {
    node->operation = nullptr;
    if (--node->parent->below == 0) root_may_be_gone(node->parent);
  }
  void root_may_be_gone(Node* root) {
    if (root->parent == nullptr && root != root_ && root->below == 0) {
      root->dropped = true;
      root->operation = nullptr;
    }
  }

  template <class First, class Again>
  void finish_model(Node* node, First first, Again again) {
    if (node->finished) return again();
    node->finished = true;
    event(node->is_a ? finish_a : finish_b, node, node, first);
    node->dropped = true;
    if (current_ == node) current_ = nearest_unfinished(node->parent);
  }
  void finish(Node* node) {
    if (node == nullptr || node->operation == nullptr) return;
    const auto call = [&] {
      if (node->is_a)
        static_cast<Op<A>*>(node->operation)->finish();
      else
        static_cast<Op<B>*>(node->operation)->finish();
    };
    finish_model(node, call, call);
    expect(node->operation->finished(), "not finished");
  }
  void emit(Node* node) {
    if (node == nullptr || node->operation == nullptr) return;
    if (node->finished) return node->operation->emit(Note{});
    event(note, node, node, [&] { node->operation->emit(Note{}); });
  }
  void add(Node* node) {
    if (node == nullptr || node->operation == nullptr) return;
    const std::size_t number = listeners_.size();
    listeners_.push_back({static_cast<Kind>(draw(6)), static_cast<Action>(std::min<std::size_t>(draw(16), nothing)), node, false, {}});
    const auto call = [this, number](Operation& operation) { called(number, operation); };
    Listener& handle = listeners_.back().handle;
    Operation& on = *node->operation;
    switch (listeners_.back().kind) {
      case start_a: handle = on.on_start<A>(call); break;
      case start_b: handle = on.on_start<B>(call); break;
      case finish_a: handle = on.on_finish<A>(call); break;
      case finish_b: handle = on.on_finish<B>(call); break;
      case note: handle = on.on_data<Note>(call); break;
      case everything: {
        struct Calling : Observer {
          explicit Calling(std::function<void(Operation&)> f) : call_(std::move(f)) {}
          void started(Operation& operation, const EventView&) override { call_(operation); }
          void finished(Operation& operation, const EventView&) override { call_(operation); }
          void data(Operation& operation, const EventView&) override { call_(operation); }
          std::function<void(Operation&)> call_;
        };
        handle = on.observe(std::make_shared<Calling>(call));
      }
    }
    if (node->finished)
      listeners_.back().removed = true;
    else
      node->listeners.push_back(number);
  }
  void remove(std::size_t number) {
    ModelListener& listener = listeners_[number];
    const bool there = !listener.removed && !listener.node->dropped;
    listener.removed = true;
    expect(listener.handle.remove() == there, "remove() was wrong");
  }
  void swap_the_root() {
    Node* const old = std::exchange(root_, &nodes_.emplace_back());
    swap_root(Root{});
    if (old != nullptr) root_may_be_gone(old);
  }
  void check_current() { expect(Operation::current() == (current_ != nullptr ? current_->operation : nullptr), "wrong current operation"); }

  std::mt19937 random_;
  std::deque<Node> nodes_;
  std::deque<ModelListener> listeners_;
  std::deque<Event> events_;
  std::vector<OnStack> stack_;
  std::vector<Shared> shared_;
  Node* root_ = nullptr;
  Node* current_ = nullptr;
  int budget_ = 0;
};

}  // namespace

TEST_CASE("random programs behave as the model") {
  constexpr unsigned programs = sanitized ? 500 : 5'000;
  std::uint64_t calls = 0;
  for (unsigned seed = 1; seed <= programs; ++seed) {
    World world(seed);
    world.run(300);
    calls += static_cast<std::uint64_t>(world.calls);
    INFO("seed " << seed);
    REQUIRE(world.problem == "");
  }
  CHECK(calls > programs * 100);
}
