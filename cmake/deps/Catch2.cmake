# Catch2, for the tests: 2.13 or any 3.x (tests/support/catch.hpp hides the difference).
FetchContent_Declare(Catch2
  URL https://github.com/catchorg/Catch2/archive/v3.7.1.tar.gz
  URL_HASH SHA256=c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c
  SYSTEM
  FIND_PACKAGE_ARGS)
FetchContent_MakeAvailable(Catch2)
