# What tests run with under sanitizers. A report ends the program with an error.
set(SIBYL_SANITIZER_ENVIRONMENT
  ASAN_OPTIONS=detect_stack_use_after_return=1:check_initialization_order=1:strict_init_order=1:strict_string_checks=1
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1)

# ThreadSanitizer sees only what was compiled for it, and takes what others synchronize for races. LibTorch and gRPC, as
# packaged, were not: with it, whatever uses either is left out of `all`, and its tests out of ctest. Being left out goes
# from DEPS and NEEDS to what names them.
function(sibyl_leave_out name torch)
  if(NOT SIBYL_SANITIZE MATCHES thread)
    return()
  endif()
  set(out ${torch})
  foreach(dep ${ARGN})
    if(TARGET ${dep})
      get_target_property(dep_out ${dep} EXCLUDE_FROM_ALL)
      if(dep_out)
        set(out TRUE)
      endif()
    endif()
  endforeach()
  set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ${out})
endfunction()

# sibyl_library(NAME [TORCH] SOURCES ... [DEPS ...]): a static library; includes are from the repository's root.
function(sibyl_library name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${arg_DEPS})
  if(arg_TORCH)
    target_link_libraries(${name} PUBLIC sibyl::torch)
    sibyl_use_torch_pch(${name})
  endif()
  sibyl_leave_out(${name} ${arg_TORCH} ${arg_DEPS})
endfunction()

# sibyl_binary(NAME [TORCH] SOURCES ... [DEPS ...])
function(sibyl_binary name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
  if(arg_TORCH)
    target_link_libraries(${name} PRIVATE sibyl::torch)
    sibyl_use_torch_pch(${name})
  endif()
  sibyl_leave_out(${name} ${arg_TORCH} ${arg_DEPS})
endfunction()

# sibyl_test(NAME [TORCH] SOURCES ... [DEPS ...] [TIMEOUT seconds] [ENVIRONMENT NAME=value...]
# [NEEDS binaries...]): a GoogleTest program that ctest runs; sanitizers make it several times slower and have that much
# more time. SIBYL_BIN_DIR, SIBYL_SOURCE_DIR and SIBYL_PYTHON name the built programs, the source tree and the Python
# that holds the packages that environments are compared with.
function(sibyl_test name)
  cmake_parse_arguments(arg "TORCH" "TIMEOUT" "SOURCES;DEPS;ENVIRONMENT;NEEDS" ${ARGN})
  if(arg_TORCH)
    set(torch TORCH)
  endif()
  sibyl_binary(${name} ${torch} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE
    SIBYL_BIN_DIR="${CMAKE_BINARY_DIR}/bin" SIBYL_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    SIBYL_PYTHON="${SIBYL_PYTHON}/bin/python")
  if(arg_NEEDS)
    add_dependencies(${name} ${arg_NEEDS})
  endif()
  sibyl_leave_out(${name} ${arg_TORCH} ${arg_DEPS} ${arg_NEEDS})
  get_target_property(left_out ${name} EXCLUDE_FROM_ALL)
  if(NOT left_out)
    add_test(NAME ${name} COMMAND ${name})
    sibyl_test_properties(${name} "${arg_TIMEOUT}" ${arg_ENVIRONMENT})
  endif()
endfunction()

# A test that names its timeout is a long one, and starts before the others: what ends last is short.
function(sibyl_test_properties name timeout)
  if(timeout)
    set_tests_properties(${name} PROPERTIES COST ${timeout})
  else()
    set(timeout 120)
  endif()
  if(SIBYL_SANITIZE)
    math(EXPR timeout "${timeout} * 5")
    list(APPEND ARGN ${SIBYL_SANITIZER_ENVIRONMENT})
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} ENVIRONMENT "${ARGN}")
endfunction()

# sibyl_plain_sources(SOURCE...): sources of a TORCH library or binary that include no LibTorch.
function(sibyl_plain_sources)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
endfunction()

function(sibyl_use_torch_pch name)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${name} PRIVATE -fpch-preprocess)
  endif()
  # The header was compiled as for a library; an executable's own -fPIE would keep it from being used.
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIC)
  target_precompile_headers(${name} REUSE_FROM sibyl_torch_pch)
endfunction()
