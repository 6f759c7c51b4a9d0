// Catch2 2 makes main() here; version 3 brings it as a library (Catch2WithMain).
#define CATCH_CONFIG_MAIN
#include "support/catch.hpp"
