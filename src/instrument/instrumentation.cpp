#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0 {

namespace {

class InstrumentCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "weir.instrument"; }
  std::string message(int code) const override {
    switch (static_cast<InstrumentErrc>(code)) {
      case InstrumentErrc::not_applicable: return "this process is none of the factory's";
      case InstrumentErrc::language_mismatch: return "the process is of another language than the one that is asked for";
    }
    return "unknown";
  }
};

}  // namespace

const std::error_category& instrument_category() noexcept {
  static const InstrumentCategory category;
  return category;
}

}  // namespace weir::inline v0
