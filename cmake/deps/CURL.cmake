# libcurl, for the HTTP client. 7.87 or newer, the first whose clean-up need not wait for name resolution. Never fetched: what it is
# built with (TLS, resolver, trusted certificates) is the system's to decide.
find_package(CURL 7.87 QUIET)
if(TARGET CURL::libcurl)
  set(found TRUE)
endif()
