// Changes who listens while the program runs: swaps the root, silences, and puts the old root back.

#include <cstdio>
#include <memory>
#include <utility>

#include "service.hpp"

weir::Root listeners(const char* version) {
  weir::Root root;
  root.on_finish<HandleRequest>([version] { std::printf("%s heard a request\n", version); });
  // Destroyed with the root's listeners: when it is not installed, nobody holds it, and its last operation is gone.
  root.on_finish<HandleRequest>([last = std::shared_ptr<void>(nullptr, [version](void*) { std::printf("%s is gone\n", version); })] {});
  return root;
}

void swap_while_running() {
  weir::swap_root(listeners("first"));
  {
    weir::Op<HandleRequest> running{{"GET /slow"}};
    weir::swap_root(listeners("second"));  // the first is returned, and dropped: its operation keeps it
    running.finish();
  }
  weir::Op<HandleRequest>{{"GET /fast"}};
}

void silence() {
  weir::Root heard = weir::swap_root(weir::Root{});
  weir::Op<HandleRequest>{{"GET /unheard"}};
  weir::swap_root(std::move(heard));
  weir::Op<HandleRequest>{{"GET /heard"}};
}

int main() {
  swap_while_running();
  silence();
  weir::swap_root(weir::Root{});
}
