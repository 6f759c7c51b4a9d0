#include "weir/instrument/instrumentation.hpp"

namespace weir::inline v0 {

namespace {

class InstrumentCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "weir.instrument"; }
  std::string message(int code) const override {
    switch (static_cast<InstrumentErrc>(code)) {
      case InstrumentErrc::not_applicable: return "not applicable to this process";
      case InstrumentErrc::language_mismatch: return "the process is of another language";
    }
    return "unknown error";
  }
};

}  // namespace

const std::error_category& instrument_category() noexcept {
  static const InstrumentCategory category;
  return category;
}

}  // namespace weir::inline v0
