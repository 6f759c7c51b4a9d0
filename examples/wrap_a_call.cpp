// Wraps one call of a program in an operation; the collector shows it as a span.
//
//   script/build release wrap_a_call && script/weir run -- build/release/examples/wrap_a_call

#include <numeric>
#include <vector>
#include <weir/init.hpp>
#include <weir/operation/wrap.hpp>

// 1. Describe the call: what goes in, what comes out. describe() is optional; it becomes the attributes.
struct SumNumbers {
  struct Args {
    std::size_t count;
    void describe(weir::AttributeSink& sink) const { sink.set("count", count); }
  };
  struct Result {
    long sum = 0;
    void describe(weir::AttributeSink& sink) const { sink.set("sum", sum); }
  };
};

// 2. Wrap it.
long sum(const std::vector<int>& numbers) {
  return weir::wrap<SumNumbers>({numbers.size()}, [&] { return SumNumbers::Result{std::accumulate(numbers.begin(), numbers.end(), 0L)}; })
      .sum;
}

// 3. Wire it, once: every operation becomes a span, and spans go to the collector, at the latest when the session ends.
int main() {
  auto weir_session = weir::init({.service = "adder"});

  return sum(std::vector<int>(1000, 7)) == 7000 ? 0 : 1;
}
