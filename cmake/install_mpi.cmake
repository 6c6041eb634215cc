# dilated_attention_mpi, installed as install.cmake installs the core library. Its pkg-config file has the flags of the MPI
# that it was built with: not every MPI has a pkg-config file of its own.
da_install_library(dilated_attention_mpi)

list(TRANSFORM MPI_C_INCLUDE_DIRS PREPEND -I OUTPUT_VARIABLE DA_MPI_PC_CFLAGS)
list(JOIN DA_MPI_PC_CFLAGS " " DA_MPI_PC_CFLAGS)
list(JOIN MPI_C_LIBRARIES " " DA_MPI_PC_LIBS)
configure_file(cmake/dilated_attention_mpi.pc.in ${PROJECT_BINARY_DIR}/dilated_attention_mpi.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dilated_attention_mpi.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
