#include "trace/simd_reader.hpp"

namespace weir::inline v0::detail {

struct SimdReader::Impl {};

const bool SimdReader::available = false;

SimdReader::SimdReader() = default;
SimdReader::~SimdReader() = default;

bool SimdReader::read(std::string_view, TimeCache&, EventView&, std::vector<AttributeView>&) { return false; }

}  // namespace weir::inline v0::detail
