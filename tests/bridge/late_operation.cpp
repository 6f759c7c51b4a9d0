// Operations in static destructors and in destructors of thread_local objects, after main's thread_locals are gone.
#include <memory>
#include <string>
#include <weir/bridge/operations_to_spans.hpp>
#include <weir/operation/operation.hpp>
#include <weir/trace/in_memory_sender.hpp>

struct Late {
  struct Args {
    std::string title() const { return "a title that is too long for the inside of a string object"; }
    void describe(weir::AttributeSink& sink) const { sink.set("when", "late"); }
  };
  struct Result {};
};

struct RunsLate {
  ~RunsLate() { weir::Op<Late> operation{{}}; }
};

weir::InMemorySender sink;
weir::Tracer tracer{sink};
RunsLate at_static_destruction;
thread_local RunsLate at_thread_end;

int main() {
  weir::Root root;
  root.observe(std::make_shared<weir::OperationsToSpans>(tracer));
  weir::swap_root(std::move(root));
  (void)&at_thread_end;
  weir::Op<Late> operation{{}};
}
