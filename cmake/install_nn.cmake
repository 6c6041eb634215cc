# dilated_attention_nn, installed as install.cmake installs the core library.
set(DA_NN_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/dilated_attention_nn)

install(FILES include/dilated_attention_nn.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
foreach(kind Shared Static)
  string(TOLOWER ${kind} suffix)
  install(TARGETS dilated_attention_nn_${suffix} EXPORT dilated_attention_nn${kind}Targets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT dilated_attention_nn${kind}Targets NAMESPACE dilated_attention:: DESTINATION ${DA_NN_CONFIG_DIR})
endforeach()

configure_package_config_file(cmake/dilated_attention_nnConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/dilated_attention_nnConfig.cmake
                              INSTALL_DESTINATION ${DA_NN_CONFIG_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dilated_attention_nnConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/dilated_attention_nnConfig.cmake
              ${PROJECT_BINARY_DIR}/dilated_attention_nnConfigVersion.cmake
        DESTINATION ${DA_NN_CONFIG_DIR})

# The BLAS is named here and not required as a package, whose own private libraries only its static version needs.
list(JOIN DA_CBLAS_LIBRARIES " " DA_NN_PC_PRIVATE_LIBS)
if(DA_NN_ONEDNN_LIBS)
  string(APPEND DA_NN_PC_PRIVATE_LIBS " -l${DA_NN_ONEDNN_LIBS}")
endif()
string(APPEND DA_NN_PC_PRIVATE_LIBS " ${DA_PC_PRIVATE_LIBS}")
configure_file(cmake/dilated_attention_nn.pc.in ${PROJECT_BINARY_DIR}/dilated_attention_nn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dilated_attention_nn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
