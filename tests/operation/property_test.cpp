// Random single-threaded programs against a naive model: operations of every sort start, finish, end; listeners and
// observers come and go, emit, throw, and swap roots out and back in, also from inside listeners.
//
// The model is a tree of nodes with vectors of listeners. Whenever the library calls a listener, the model is asked which
// one the innermost event has to call next, and with which value; when an event is over, there must be none left. Those
// listeners are alive that the model has.
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
  struct Args {
    int value = 0;
  };
  struct Result {
    int value = 0;
  };
};
struct B {
  struct Args {
    int value = 0;
  };
  struct Result {
    int value = 0;
  };
};
struct Note {
  int value = 0;  // listeners write to it
};

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
  throw_something,
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
  bool held = false;               // a root to which there is a handle
  std::vector<std::size_t> listeners;
};

struct ModelListener {
  Kind kind;
  Action action;
  Node* node;
  bool removed;
  Listener handle;
  int faults = 0;  // exceptions in a row; the hundredth disables it
};

struct Event {
  Kind kind;
  Node* source;
  Node* node;              // where it is
  std::size_t index;       // of the next listener there
  std::size_t registered;  // listeners that were there when it began
  int value;
  bool refused;  // nested too deep
};

struct Any {  // an operation of either type
  std::optional<Op<A>> a;
  std::optional<Op<B>> b;
};

class World {
 public:
  explicit World(unsigned seed) : random_(seed) {
    set_error_handler([this](const ListenerError&) { ++errors_; });
    swap_the_root();
  }
  ~World() {
    while (!stack_.empty()) stack_.pop_back();
    while (!shared_.empty()) shared_.pop_back();
    kept_.clear();
    swap_root(Root{});
    set_error_handler(nullptr);
  }

  void run(int steps) {
    for (int i = 0; i < steps && problem.empty(); ++i) {
      step();
      if (i % 16 == 0) check_alive();
    }
    while (!stack_.empty() && problem.empty()) end_last();
    while (!shared_.empty() && problem.empty()) release(shared_.size() - 1);
    while (!kept_.empty() && problem.empty()) let_go(kept_.size() - 1);
    check_alive();
    expect(errors_ == thrown_, "the error handler was not called once for each exception");
  }

  bool disabled_one() const {
    return std::any_of(listeners_.begin(), listeners_.end(), [](const ModelListener& listener) { return listener.faults == 100; });
  }

  std::string problem;
  int calls = 0, refused = 0;

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

  struct Kept {
    Node* node;
    Root root;
  };

  std::size_t draw(std::size_t n) { return random_() % n; }
  void expect(bool right, const char* what) {
    if (!right && problem.empty()) problem = what;
  }

  // ---- the model's events

  ModelListener* next() {
    Event& event = events_.back();
    if (event.refused) return nullptr;
    for (; event.node != nullptr; event.node = event.node->parent, event.index = 0)
      while (!event.node->dropped && event.index < event.node->listeners.size()) {
        const std::size_t number = event.node->listeners[event.index++];
        ModelListener& listener = listeners_[number];
        if (number < event.registered && !listener.removed && listener.faults < 100 &&
            (listener.kind == event.kind || listener.kind == everything))
          return &listener;
      }
    return nullptr;
  }
  template <class Call>
  int event(Kind kind, Node* source, Node* from, int value, Call call) {
    const bool too_deep = events_.size() >= 16;
    refused += too_deep;
    events_.push_back({kind, source, from, 0, listeners_.size(), value, too_deep});
    call();
    expect(!problem.empty() || next() == nullptr, "a listener was not called");
    const int last_value = events_.back().value;
    events_.pop_back();
    return last_value;
  }
  /// A call of a listener; observers do not see values.
  void called(std::size_t number, Operation& operation, int* note_value, std::optional<int> value) {
    ++calls;
    if (!problem.empty()) return;
    if (events_.empty()) return expect(false, "a call outside events");
    ModelListener* const expected = next();
    if (expected != &listeners_[number]) return expect(false, "another listener was to be called");
    if (value) expect(events_.back().value == *value, "a listener got another value");
    if (note_value != nullptr) events_.back().value = *note_value += static_cast<int>(number % 100) + 1;
    Node* const source = events_.back().source;
    source->operation = &operation;  // known from its first start listener on
    if (budget_-- > 0) act(number, source);
    listeners_[number].faults = 0;
  }

  void act(std::size_t number, Node* source) {
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
      case throw_something:
        ++thrown_;
        ++listeners_[number].faults;
        throw number;
      default: return;
    }
  }

  // ---- what programs do

  void step() {
    budget_ = 40;
    switch (draw(18)) {
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
      case 13:
      case 14:
        if (stack_.size() < 30) begin_under();
        return;
      case 15: return look_up(any());
      case 16:
        if (!kept_.empty()) let_go(draw(kept_.size()));
        return;
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
    begin(make_node(current_ != nullptr ? current_ : root_, true),
          [](auto& place, int value) { return &place.emplace(args_of(place, value)); });
  }
  void begin_under() {
    const auto start_under = [&](Node* parent, Under explicit_parent) {
      begin(make_node(parent, false),
            [explicit_parent](auto& place, int value) { return &place.emplace(explicit_parent, args_of(place, value)); });
    };
    if (!kept_.empty() && draw(2) == 0) {
      Kept& kept = kept_[draw(kept_.size())];
      return start_under(kept.node, under(kept.root));
    }
    if (Node* parent = any(); parent != nullptr && parent->operation != nullptr) start_under(parent, under(*parent->operation));
  }
  template <class T>
  static typename T::Args args_of(const std::optional<Op<T>>&, int value) {
    return {value};
  }
  template <class Start>
  void begin(Node* node, Start start_it) {
    if (node->implicit) current_ = node;
    stack_.push_back({node, std::make_unique<Any>()});
    Any& real = *stack_.back().real;
    const int value = static_cast<int>(draw(1000));
    event(node->is_a ? start_a : start_b, node, node->parent, value, [&] {
      if (node->is_a)
        node->operation = start_it(real.a, value);
      else
        node->operation = start_it(real.b, value);
    });
    expect(node->operation->finished() == node->finished, "wrong state after the start");
    expect(node->operation->implicit() == node->implicit, "wrong sort of parent");
    expect(node->operation->parent() == node->parent->operation || node->parent->parent == nullptr, "wrong parent");
    if (node->parent->parent == nullptr) node->parent->operation = node->operation->parent();
    check_current();
  }
  void end_last() {
    OnStack last = std::move(stack_.back());
    stack_.pop_back();
    const auto end = [&] { last.real.reset(); };
    finish_model(last.node, 0, end, end);
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
    const int value = static_cast<int>(draw(1000));
    event(node->is_a ? start_a : start_b, node, parent, value, [&] {
      if (parent->parent != nullptr && node->is_a)
        real.a = start<A>(under(*parent->operation), {value});
      else if (parent->parent != nullptr)
        real.b = start<B>(under(*parent->operation), {value});
      else if (node->is_a)
        real.a = start<A>({value});
      else
        real.b = start<B>({value});
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
    finish_model(real.node, 0, end, end);
    gone(real.node);
  }
  void gone(Node* node) {
    node->operation = nullptr;
    if (--node->parent->below == 0) root_may_be_gone(node->parent);
  }
  void root_may_be_gone(Node* root) {
    if (root->parent == nullptr && root != root_ && root->below == 0 && !root->held) {
      root->dropped = true;
      root->operation = nullptr;
    }
  }

  template <class First, class Again>
  void finish_model(Node* node, int value, First first, Again again) {
    if (node->finished) return again();
    node->finished = true;
    event(node->is_a ? finish_a : finish_b, node, node, value, first);
    node->dropped = true;
    if (current_ == node) current_ = nearest_unfinished(node->parent);
  }
  void finish(Node* node) {
    if (node == nullptr || node->operation == nullptr) return;
    const int value = static_cast<int>(draw(1000));
    const auto call = [&] {
      if (node->is_a)
        static_cast<Op<A>*>(node->operation)->finish({value});
      else
        static_cast<Op<B>*>(node->operation)->finish({value});
    };
    finish_model(node, value, call, call);
    expect(node->operation->finished(), "not finished");
  }
  void emit(Node* node) {
    if (node == nullptr || node->operation == nullptr) return;
    Note value{static_cast<int>(draw(1000))};
    const int before = value.value;
    if (node->finished) {
      node->operation->emit(value);
      return expect(value.value == before, "a finished operation let a listener write");
    }
    const int after = event(note, node, node, before, [&] { node->operation->emit(value); });
    expect(value.value == after, "the emitter does not read what listeners wrote");
  }
  void look_up(Node* node) {
    if (node == nullptr || node->operation == nullptr) return;
    std::size_t depth = 0;
    const Node *a = nullptr, *b = nullptr;
    for (const Node* n = node; n->parent != nullptr; n = n->parent, ++depth) {
      if (n->is_a && a == nullptr) a = n;
      if (!n->is_a && b == nullptr) b = n;
    }
    expect(node->operation->depth() == depth, "wrong depth");
    expect(node->operation->find<A>() == (a != nullptr ? a->operation : nullptr), "found another A");
    expect(node->operation->find<B>() == (b != nullptr ? b->operation : nullptr), "found another B");
  }
  void add(Node* node) {
    if (node != nullptr && node->operation != nullptr) add(node, *node->operation);
  }
  /// `on`: the operation, or a handle of the root.
  template <class Place>
  void add(Node* node, Place& on) {
    const std::size_t number = listeners_.size();
    listeners_.push_back({static_cast<Kind>(draw(6)), static_cast<Action>(std::min<std::size_t>(draw(18), nothing)), node, false, {}, 0});
    const auto call = [this, number, life = Life(alive_)](Operation& operation, const auto& event) {
      called(number, operation, nullptr, event.value);
    };
    Listener& handle = listeners_.back().handle;
    switch (listeners_.back().kind) {
      case start_a: handle = on.template on_start<A>(call); break;
      case start_b: handle = on.template on_start<B>(call); break;
      case finish_a: handle = on.template on_finish<A>(call); break;
      case finish_b: handle = on.template on_finish<B>(call); break;
      case note:
        handle = on.template on_data<Note>([this, number, life = Life(alive_)](Operation& operation, Note& event) {
          called(number, operation, &event.value, event.value);
        });
        break;
      case everything: {
        struct Calling : Observer {
          explicit Calling(std::function<void(Operation&)> f) : call_(std::move(f)) {}
          void started(Operation& operation, const EventView&) override { call_(operation); }
          void finished(Operation& operation, const EventView&) override { call_(operation); }
          void data(Operation& operation, const EventView&) override { call_(operation); }
          std::function<void(Operation&)> call_;
        };
        handle = on.observe(std::make_shared<Calling>(
            [this, number, life = Life(alive_)](Operation& operation) { called(number, operation, nullptr, std::nullopt); }));
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
  /// Installs a new root, which may have listeners already, or one that was there before; keeps the previous one, or not.
  void swap_the_root() {
    Node* const old = root_;
    Root next;
    if (!kept_.empty() && draw(2) == 0) {
      const std::size_t i = draw(kept_.size());
      root_ = kept_[i].node;
      root_->held = false;
      next = std::move(kept_[i].root);
      kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      root_ = &nodes_.emplace_back();
      for (std::size_t i = draw(3); i > 0; --i) add(root_, next);
    }
    Root previous = swap_root(std::move(next));
    expect(static_cast<bool>(previous) || old == nullptr, "no previous root");
    if (old != nullptr && kept_.size() < 3 && draw(2) == 0) {
      old->held = true;
      kept_.push_back({old, std::move(previous)});
      if (draw(2) == 0) add(old, kept_.back().root);
      return;
    }
    previous = Root{};
    if (old != nullptr) root_may_be_gone(old);
  }
  void let_go(std::size_t i) {
    Kept kept = std::move(kept_[i]);
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(i));
    kept.root = Root{};
    kept.node->held = false;
    root_may_be_gone(kept.node);
  }
  /// (What an operation finished inside its own listener drops may live until the operation ends.)
  void check_alive() {
    const auto lives = [](const ModelListener& listener) { return !listener.removed && !listener.node->dropped; };
    const auto count = std::count_if(listeners_.begin(), listeners_.end(), lives);
    expect(alive_ >= count, "a closure was destroyed too early");
    if (stack_.empty() && shared_.empty()) expect(alive_ == count, "a closure was not destroyed");
  }
  void check_current() { expect(Operation::current() == (current_ != nullptr ? current_->operation : nullptr), "wrong current operation"); }

  std::mt19937 random_;
  std::deque<Node> nodes_;
  std::deque<ModelListener> listeners_;
  std::deque<Event> events_;
  std::vector<OnStack> stack_;
  std::vector<Shared> shared_;
  std::vector<Kept> kept_;
  Node* root_ = nullptr;
  Node* current_ = nullptr;
  int budget_ = 0;
  int thrown_ = 0, errors_ = 0;
  std::atomic<int> alive_{0};
};

}  // namespace

TEST_CASE("random programs behave as the model") {
  constexpr unsigned programs = sanitized ? 500 : 5'000;
  std::uint64_t calls = 0, refused = 0, disabled = 0;
  for (unsigned seed = 1; seed <= programs; ++seed) {
    World world(seed);
    world.run(300);
    calls += static_cast<std::uint64_t>(world.calls);
    refused += static_cast<std::uint64_t>(world.refused);
    disabled += world.disabled_one();
    INFO("seed " << seed);
    REQUIRE(world.problem == "");
  }
  CHECK(calls > programs * 100);
  CHECK(refused > 0);
  CHECK(disabled > 0);
}
