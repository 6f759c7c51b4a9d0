// The same guarantees where the kernel has no membarrier(2).
#define WEIR_TESTS_WITHOUT_MEMBARRIER 1
#include "concurrency_test.cpp"
