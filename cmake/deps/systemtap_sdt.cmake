# systemtap's probes, a peer of the benchmarks: a header. Never fetched.
find_path(WEIR_SYSTEMTAP_SDT_INCLUDE sys/sdt.h)
mark_as_advanced(WEIR_SYSTEMTAP_SDT_INCLUDE)
if(WEIR_SYSTEMTAP_SDT_INCLUDE)
  set(found TRUE)
endif()
