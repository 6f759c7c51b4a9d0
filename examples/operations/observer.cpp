// Hears every operation without knowing any type: an outline of the calls, and a bridge to a table of durations.

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <weir/operation/wrap.hpp>

#include "service.hpp"

// Prints what it hears, indented by depth.
class Outline : public weir::Observer {
 public:
  void started(weir::Operation& operation, const weir::EventView& args) override {
    std::string buffer;
    print(operation, std::string(operation.name()) + " '" + std::string(args.title(buffer)) + "'", args);
  }
  void finished(weir::Operation& operation, const weir::EventView& result) override {
    print(operation, operation.unwinding() ? "left by an exception" : "finished", result);
  }
  void data(weir::Operation& operation, const weir::EventView& event) override { print(operation, std::string(event.type_name()), event); }

 private:
  struct Attributes final : weir::AttributeSink {
    void set(weir::Name key, weir::AttributeValue value) override {
      text += " " + std::string(key.view()) + "=";
      switch (value.type()) {
        case weir::AttributeValue::Type::string: text += value.text(); break;
        case weir::AttributeValue::Type::integer: text += std::to_string(value.integer()); break;
        case weir::AttributeValue::Type::real: text += std::to_string(value.real()); break;
        case weir::AttributeValue::Type::boolean: text += value.boolean() ? "true" : "false"; break;
      }
    }
    std::string text;
  };
  static void print(const weir::Operation& operation, const std::string& what, const weir::EventView& event) {
    Attributes attributes;
    event.describe(attributes);
    std::printf("%*s%s%s\n", static_cast<int>(2 * operation.depth()), "", what.c_str(), attributes.text.c_str());
  }
};

// What another system wants to know: how often each kind of call ran, and how long.
class Durations {
 public:
  void add(std::string_view name, std::chrono::nanoseconds duration) {
    std::lock_guard lock(mutex_);
    Row& row = rows_[std::string(name)];
    ++row.calls;
    row.total += duration;
  }
  void print() {
    std::lock_guard lock(mutex_);
    for (const auto& [name, row] : rows_)
      std::printf("%s: %d calls, %.3f ms\n", name.c_str(), row.calls, std::chrono::duration<double, std::milli>(row.total).count());
  }

 private:
  struct Row {
    int calls = 0;
    std::chrono::nanoseconds total{};
  };
  std::mutex mutex_;
  std::map<std::string, Row> rows_;  // guarded by mutex_
};

// The bridge to it: keeps on each operation when it started.
class OperationsToDurations : public weir::Observer {
 public:
  explicit OperationsToDurations(Durations& durations) : durations_(durations) {}

  void started(weir::Operation& operation, const weir::EventView&) override {
    if (auto* begun = new (std::nothrow) Begun) operation.attach(this, *begun);
  }
  void finished(weir::Operation& operation, const weir::EventView&) override {
    // None: the operation started before this observer was registered.
    if (auto* begun = static_cast<Begun*>(operation.attachment(this))) durations_.add(operation.name(), Clock::now() - begun->at);
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Begun : weir::Attachment {
    Clock::time_point at = Clock::now();
  };
  Durations& durations_;
};

void run() {
  weir::Op<HandleRequest> request{{"GET /orders"}};
  weir::wrap<QuerySql>({"SELECT name FROM items"}, [] { return QuerySql::Result{.rows = 3}; });
  try {
    weir::wrap<QuerySql>({"SELECT nonsense"}, []() -> QuerySql::Result { throw std::runtime_error("no such column"); });
  } catch (const std::exception&) {
    request.finish({.status = 500});
  }
}

int main() {
  Durations durations;
  {
    weir::Root root;
    root.observe(std::make_shared<Outline>());
    root.observe(std::make_shared<OperationsToDurations>(durations));
    weir::RootScope installed{std::move(root)};
    run();
  }
  durations.print();
}
