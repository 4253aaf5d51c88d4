# Warnings, sanitizers, ccache and mold.
add_compile_options(-pthread -Wall -Wextra -Wno-unused-parameter -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options(-Wthread-safety -Werror=thread-safety -Wno-unknown-warning-option)
else()
  # GCC 12 reports these inside libstdc++ and Abseil at -O2 for code that is right.
  add_compile_options(-Wno-maybe-uninitialized -Wno-restrict -Wno-missing-field-initializers)
  # The compiler collects its garbage only above 1 GB: a LibTorch file compiles in 15 % less time.
  add_compile_options("SHELL:--param ggc-min-heapsize=1000000")
endif()

# Function names and lines, for stack traces and profiles, without variables: a fifth less time. The preset debug has all.
add_compile_options($<$<CONFIG:RelWithDebInfo>:-g1>)

if(SIBYL_SANITIZE)
  add_compile_options(-fsanitize=${SIBYL_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${SIBYL_SANITIZE})
endif()

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE})
endif()

find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()
