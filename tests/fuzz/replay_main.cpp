// replay [--seconds N] DIRECTORY: runs a fuzzer's function on each file of the directory, and then for N seconds on mutations of
// them. These are the same in every run: what crashes crashes again. For compilers that have no fuzzer of their own.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;

void run(const Input& input) {
  const Input exact(input.begin(), input.end());  // so that a sanitizer sees a read behind its end
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

class Mutator {
 public:
  explicit Mutator(const std::vector<Input>& corpus) : corpus_(corpus) {}

  Input next() {
    Input input = any_of(corpus_);
    for (std::size_t changes = 1 + below(6); changes > 0; --changes) change(input);
    return input;
  }

 private:
  static constexpr std::size_t max_size = 1u << 17;

  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }
  const Input& any_of(const std::vector<Input>& inputs) { return inputs[below(inputs.size())]; }

  void change(Input& input) {
    const auto at = [&](std::size_t i) { return input.begin() + static_cast<std::ptrdiff_t>(i); };
    const std::size_t begin = below(input.size() + 1), end = begin + below(std::min<std::size_t>(input.size() - begin, 64) + 1);
    switch (below(7)) {
      case 0:  // a bit
        if (begin < input.size()) input[begin] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:  // a byte
        if (begin < input.size()) input[begin] = static_cast<std::uint8_t>(random_());
        break;
      case 2: input.erase(at(begin), at(end)); break;
      case 3: {  // a part once more
        const Input part(at(begin), at(end));
        if (input.size() < max_size) input.insert(at(begin), part.begin(), part.end());
        break;
      }
      case 4: {  // a part of another
        const Input& other = any_of(corpus_);
        const std::size_t from = below(other.size() + 1), size = below(other.size() - from + 1);
        const auto source = other.begin() + static_cast<std::ptrdiff_t>(from);
        if (input.size() < max_size) input.insert(at(begin), source, source + static_cast<std::ptrdiff_t>(size));
        break;
      }
      case 5: {  // what numbers and texts end on
        static constexpr std::string_view tokens[] = {
            "0", "-1", "9223372036854775808", "1e999", "\"", "\\u0000", "\\ud800", "\xff", "\n", "{", "[", "null"};
        const std::string_view token = tokens[below(std::size(tokens))];
        input.insert(at(begin), token.begin(), token.end());
        break;
      }
      case 6: input.resize(begin); break;
    }
  }

  const std::vector<Input>& corpus_;
  std::mt19937_64 random_{1};
};

}  // namespace

int main(int count, char** arguments) {
  std::vector<std::string_view> words(arguments + 1, arguments + count);
  long seconds = 0;
  if (words.size() == 3 && words[0] == "--seconds") {
    seconds = std::atol(arguments[2]);
    words.erase(words.begin(), words.begin() + 2);
  }
  if (words.size() != 1 || words[0].starts_with("-")) {
    std::fprintf(stderr, "usage: %s [--seconds N] DIRECTORY\n", arguments[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(words[0], error)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Input> corpus;
  for (const std::filesystem::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no inputs there\n", std::string(words[0]).c_str());
    return 1;
  }
  for (std::size_t i = 0; i < corpus.size(); ++i) {
    std::printf("%s\n", files[i].filename().c_str());
    std::fflush(stdout);
    run(corpus[i]);
  }
  Mutator mutator(corpus);
  std::uint64_t runs = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{seconds};
  for (; std::chrono::steady_clock::now() < end; ++runs) run(mutator.next());
  std::printf("%zu inputs and %llu mutations\n", corpus.size(), static_cast<unsigned long long>(runs));
}
