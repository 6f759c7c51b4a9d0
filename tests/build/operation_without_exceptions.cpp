// Compiled with -fno-exceptions -fno-rtti: every template of the operation headers.
#include <memory>

#include "weir/operation/observe.hpp"
#include "weir/operation/operation.hpp"
#include "weir/operation/wrap.hpp"

namespace {

struct Work {
  struct Args {
    int size;
    void describe(weir::AttributeSink& sink) const { sink.set("size", size); }
  };
  struct Result {
    int done = 0;
  };
};
struct Unending {
  struct Args {};
  struct Result {
    explicit Result(int) {}
  };
};

struct Seeing final : weir::Observer {
  void started(weir::Operation& operation, const weir::EventView& view) override { seen += operation.depth() + view.type_name().size(); }
  std::size_t seen = 0;
};

}  // namespace

std::size_t every_template() {
  weir::set_error_handler([](const weir::ListenerError& error) { (void)error.what; });
  weir::set_error_handler(nullptr);
  Seeing observer;
  weir::Root root;
  root.observe(observer);
  root.observe(std::make_shared<Seeing>());
  root.on_start<Work>([](weir::Op<Work>& work, const Work::Args& args) { work.on_data<int>([size = args.size](int& n) { n += size; }); });
  root.on_finish<Work>([large = Seeing{}](const Work::Result&) { (void)large; });
  weir::RootScope installed(std::move(root));
  weir::Op<Work> work{{1}};
  int number = 1;
  work.emit(number);
  weir::Listener listener = work.on_data<int>([] {});
  listener.remove();
  weir::Handle<Work> shared = weir::start<Work>(weir::under(work), {2});
  weir::OperationScope scope(*shared);
  weir::Op<Unending> unending{{}};
  weir::wrap<Work>({3}, [](weir::Op<Work>& inner) { return Work::Result{static_cast<int>(inner.depth())}; });
  work.finish({number});
  return observer.seen + (unending.find<Work>() == nullptr ? 0 : 1);
}
