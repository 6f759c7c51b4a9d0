// Compiled with -fvisibility=hidden and loaded with dlopen.
#include "shared_library/operation_types.hpp"

using namespace weir;
using shared_library::Call;
using shared_library::News;

namespace {

struct Unnamed {
  struct Args {};
  struct Result {};
  long payload[8] = {};
};

void run(int number) {
  Op<Call> call{{number}};
  News news{number};
  call.emit(news);
  call.finish({news.value});
}
Listener listen(Operation& node, int* finishes) {
  return node.on_finish<Call>([finishes](Op<Call>& call, const Call::Result& result) { *finishes += result.answer + call->state; });
}
bool finds(Operation& operation, int state) {
  Op<Call>* call = operation.find<Call>();
  return call != nullptr && (*call)->state == state;
}
Operation* current() { return Operation::current(); }
void run_unrelated() {
  struct Local {
    struct Args {};
    struct Result {};
  };
  Op<Unnamed> unnamed{{}};
  Op<Local> local{{}};
}

}  // namespace

extern "C" [[gnu::visibility("default")]] const shared_library::Library weir_test_library;
const shared_library::Library weir_test_library{run, listen, finds, current, run_unrelated};
