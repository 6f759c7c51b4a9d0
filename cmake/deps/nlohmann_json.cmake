# nlohmann/json: JSON in src, never in a header. Any 3.x from 3.11 on.
FetchContent_Declare(nlohmann_json
  URL https://github.com/nlohmann/json/archive/v3.11.2.tar.gz
  URL_HASH SHA256=d69f9deb6a75e2580465c6c4c5111b89c4dc2fa94e3a85fcd2ffcd9a143d9273
  SYSTEM
  FIND_PACKAGE_ARGS 3.11)
FetchContent_MakeAvailable(nlohmann_json)
