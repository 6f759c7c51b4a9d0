# An installed libbpf, 1.1 or newer, as the target libbpf::libbpf; also for who links an installed weir::instrument.
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND AND NOT TARGET libbpf::libbpf)
  pkg_check_modules(WEIR_LIBBPF QUIET IMPORTED_TARGET GLOBAL libbpf>=1.1)
  if(TARGET PkgConfig::WEIR_LIBBPF)
    add_library(libbpf::libbpf ALIAS PkgConfig::WEIR_LIBBPF)
  endif()
endif()
