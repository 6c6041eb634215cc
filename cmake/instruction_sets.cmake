# Each instruction set is a folder of kernels compiled with its own flags and chosen at run time; nothing else in the
# library is compiled for more than the baseline of the architecture.
include(CheckCCompilerFlag)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(DA_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(DA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512)
  foreach(isa avx2 avx512)
    set(sources kernels/${isa}/kernels_f32.c kernels/${isa}/kernels_f64.c)
    target_sources(da_objects PRIVATE ${sources})
    set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${DA_FLAGS_${isa}}")
    string(TOUPPER ${isa} upper)
    target_compile_definitions(da_objects PRIVATE DA_HAVE_${upper}_KERNELS=1)
  endforeach()
endif()
