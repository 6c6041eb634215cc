# dilated_attention::nccl_itself: NVIDIA's NCCL, for dilated_attention_nccl. Hints: NCCL_ROOT, or DA_NCCL_INCLUDE and
# DA_NCCL_LIBRARY.
option(DA_BUILD_NCCL "Build the library of ranks over NCCL, dilated_attention_nccl (needs the CUDA toolkit and NCCL)" OFF)
if(DA_BUILD_NCCL)
  find_package(CUDAToolkit REQUIRED)
  find_path(DA_NCCL_INCLUDE nccl.h HINTS ${NCCL_ROOT} PATH_SUFFIXES include REQUIRED)
  find_library(DA_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${NCCL_ROOT} PATH_SUFFIXES lib REQUIRED)
  add_library(dilated_attention::nccl_itself INTERFACE IMPORTED GLOBAL)
  target_include_directories(dilated_attention::nccl_itself SYSTEM INTERFACE ${DA_NCCL_INCLUDE})
  target_link_libraries(dilated_attention::nccl_itself INTERFACE ${DA_NCCL_LIBRARY})
endif()
