# One set of warnings for gcc and clang, applied to every target of the project.
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef
                    -Wpointer-arith -Wcast-align -Wwrite-strings -Wno-unused-parameter)
if(DA_WARNINGS_AS_ERRORS)
  add_compile_options(-Werror)
endif()
