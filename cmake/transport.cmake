# da_transport(NAME SOURCE LIBRARY...): dilated_attention_NAME, shared and static, a library that makes a da_comm. It stands on the
# public functions of the core library and on the libraries given, which its users need too.
function(da_transport name source)
  set(objects da_${name}_objects)
  add_library(${objects} OBJECT ${source})
  target_include_directories(${objects} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${objects} PRIVATE ${ARGN})

  foreach(kind SHARED STATIC)
    string(TOLOWER ${kind} suffix)
    set(target dilated_attention_${name}_${suffix})
    add_library(${target} ${kind} $<TARGET_OBJECTS:${objects}>)
    add_library(dilated_attention::${name}_${suffix} ALIAS ${target})
    target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                                $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_link_libraries(${target} PUBLIC dilated_attention_${suffix} ${ARGN})
    set_target_properties(${target} PROPERTIES OUTPUT_NAME dilated_attention_${name} EXPORT_NAME ${name}_${suffix}
                          VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
  endforeach()
endfunction()
