#include "weir/telemetry/http_transport.hpp"
