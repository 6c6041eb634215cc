# What `cmake --install` copies, and how other projects find it: by pkg-config and by find_package. Both name places
# relative to themselves, so that an installed tree can be moved.
include(cmake/install_library.cmake)
da_install_library(dilated_attention)
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")

file(RELATIVE_PATH DA_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" DA_PC_PREFIX ${DA_PC_PREFIX})
file(RELATIVE_PATH DA_PC_LIBDIR ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH DA_PC_INCLUDEDIR ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
# The static library was compiled for this OpenMP run-time library (libgomp for gcc, libomp for clang).
list(TRANSFORM OpenMP_C_LIB_NAMES PREPEND -l OUTPUT_VARIABLE DA_PC_PRIVATE_LIBS)
list(APPEND DA_PC_PRIVATE_LIBS -lm)
foreach(library IN LISTS CMAKE_DL_LIBS)
  list(APPEND DA_PC_PRIVATE_LIBS -l${library})
endforeach()
list(JOIN DA_PC_PRIVATE_LIBS " " DA_PC_PRIVATE_LIBS)
configure_file(cmake/dilated_attention.pc.in ${PROJECT_BINARY_DIR}/dilated_attention.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dilated_attention.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# The library of modules: a package of its own, dilated_attention_nn, which finds this one.
if(DA_BUILD_NN)
  include(cmake/install_nn.cmake)
endif()

# Ranks over MPI and over NCCL, likewise.
if(DA_HAVE_MPI)
  include(cmake/install_mpi.cmake)
endif()
if(DA_BUILD_NCCL)
  da_install_library(dilated_attention_nccl)
endif()
