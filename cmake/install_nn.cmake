# dilated_attention_nn, installed as install.cmake installs the core library.
da_install_library(dilated_attention_nn)

# The BLAS is named here and not required as a package, whose own private libraries only its static version needs.
list(JOIN DA_CBLAS_LIBRARIES " " DA_NN_PC_PRIVATE_LIBS)
if(DA_NN_ONEDNN_LIBS)
  string(APPEND DA_NN_PC_PRIVATE_LIBS " -l${DA_NN_ONEDNN_LIBS}")
endif()
string(APPEND DA_NN_PC_PRIVATE_LIBS " ${DA_PC_PRIVATE_LIBS}")
configure_file(cmake/dilated_attention_nn.pc.in ${PROJECT_BINARY_DIR}/dilated_attention_nn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dilated_attention_nn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
