# Each instruction set is a folder of kernels compiled with its own flags and chosen at run time; nothing else in the
# library is compiled for more than the baseline of the architecture.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(instruction_sets avx2 avx512 avx512bf16 amx)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(instruction_sets neon)
endif()

set(DA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(DA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512)
set(DA_FLAGS_avx512bf16 ${DA_FLAGS_avx512} -mavx512bf16)
set(DA_FLAGS_amx ${DA_FLAGS_avx512} -mamx-tile -mamx-bf16)
set(DA_FLAGS_neon "") # part of the architecture's baseline

set(DA_TYPES_avx2 f32 f64)
set(DA_TYPES_avx512 f32 f64)
set(DA_TYPES_avx512bf16 bf16)
set(DA_TYPES_amx bf16)
set(DA_TYPES_neon f32 f64)

foreach(isa IN LISTS instruction_sets)
  list(TRANSFORM DA_TYPES_${isa} REPLACE "(.+)" "kernels/${isa}/kernels_\\1.c" OUTPUT_VARIABLE sources)
  target_sources(da_objects PRIVATE ${sources})
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${DA_FLAGS_${isa}}")
  string(TOUPPER ${isa} upper)
  target_compile_definitions(da_objects PRIVATE DA_HAVE_${upper}_KERNELS=1)
endforeach()
