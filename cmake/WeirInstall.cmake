# What `cmake --install` puts where: headers, libraries, the command, the CMake package with its components, pkg-config
# files. All of them find each other relative to themselves, so an installed prefix can be moved.
include(CMakePackageConfigHelpers)
set(weir_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/weir)
set(weir_pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(TARGETS weir_core EXPORT weirCoreTargets FILE_SET HEADERS FILE_SET parts)
install(TARGETS weir EXPORT weirWeirTargets FILE_SET HEADERS FILE_SET adapters)
install(EXPORT weirCoreTargets NAMESPACE weir:: DESTINATION ${weir_cmake_dir})
install(EXPORT weirWeirTargets NAMESPACE weir:: DESTINATION ${weir_cmake_dir})
if(TARGET weir_cli)
  cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_LIBDIR BASE_DIRECTORY ${CMAKE_INSTALL_FULL_BINDIR} OUTPUT_VARIABLE weir_rpath)
  set_target_properties(weir_cli PROPERTIES EXPORT_NAME cli INSTALL_RPATH "$ORIGIN/${weir_rpath}")  # where a shared libweir is
  install(TARGETS weir_cli EXPORT weirCliTargets)
  install(EXPORT weirCliTargets NAMESPACE weir:: DESTINATION ${weir_cmake_dir})
endif()
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The package names the libraries that a static libweir passes on; a shared one has them linked in.
get_target_property(weir_type weir TYPE)
set(weir_package_dependencies "")
set(weir_pkgconfig_requires "")
if(weir_type STREQUAL "STATIC_LIBRARY" AND weir_fmt STREQUAL "fmt::fmt")
  set(weir_package_dependencies "find_dependency(fmt 9.1)")
  set(weir_pkgconfig_requires "fmt >= 9.1")
endif()
configure_package_config_file(cmake/weirConfig.cmake.in weirConfig.cmake INSTALL_DESTINATION ${weir_cmake_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(weirConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/weirConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/weirConfigVersion.cmake DESTINATION ${weir_cmake_dir})

# ${pcfiledir} is where pkg-config found the file.
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_LIBDIR BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX} OUTPUT_VARIABLE weir_pc_libdir)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX} OUTPUT_VARIABLE weir_pc_includedir)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig OUTPUT_VARIABLE weir_pc_prefix)
list(TRANSFORM weir_export_state REPLACE "^LINKER:" "-Wl," OUTPUT_VARIABLE weir_pc_export_state)
list(JOIN weir_pc_export_state " " weir_pc_export_state)
foreach(module weir-core weir)
  configure_file(cmake/${module}.pc.in ${module}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${module}.pc DESTINATION ${weir_pkgconfig_dir})
endforeach()
