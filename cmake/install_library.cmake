# da_install_library(NAME): the header, the shared and the static library, and the CMake package of a library of this
# project; its pkg-config file is the caller's, who knows what it needs. Places are named relative to one another, so that
# an installed tree can be moved.
include(CMakePackageConfigHelpers)

function(da_install_library name)
  set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/${name})
  install(FILES include/${name}.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

  # One export set per library: whoever links the shared one needs no OpenMP of their own.
  foreach(kind Shared Static)
    string(TOLOWER ${kind} suffix)
    install(TARGETS ${name}_${suffix} EXPORT ${name}${kind}Targets
            LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
            ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
    install(EXPORT ${name}${kind}Targets NAMESPACE dilated_attention:: DESTINATION ${config_dir})
  endforeach()

  configure_package_config_file(cmake/${name}Config.cmake.in ${PROJECT_BINARY_DIR}/${name}Config.cmake
                                INSTALL_DESTINATION ${config_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/${name}ConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/${name}Config.cmake ${PROJECT_BINARY_DIR}/${name}ConfigVersion.cmake
          DESTINATION ${config_dir})
endfunction()
