# Target sibyl::torch: LibTorch's CPU libraries from the wheel (or SIBYL_TORCH). find_package(Torch) would insist on a
# CUDA toolkit. libtorch_cpu needs cudart and cupti when it runs, which come from their own wheels. The wheel's
# include folder goes last, because it carries an older protobuf's headers.
if(SIBYL_TORCH)
  set(torch_root ${SIBYL_TORCH})
else()
  set(torch_root ${SIBYL_SITE_PACKAGES}/torch)
endif()
if(NOT EXISTS ${torch_root}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "no LibTorch in ${torch_root}: run `make setup`, or set SIBYL_TORCH to a folder with include/ and lib/")
endif()
set(cuda_lib ${SIBYL_SITE_PACKAGES}/nvidia/cu13/lib)

add_library(sibyl_torch_headers INTERFACE)
target_compile_options(sibyl_torch_headers INTERFACE
  "SHELL:-idirafter ${torch_root}/include" "SHELL:-idirafter ${torch_root}/include/torch/csrc/api/include"
  -Wno-unused-variable -Wno-deprecated-declarations -Wno-sign-compare)
target_link_libraries(sibyl_torch_headers INTERFACE Threads::Threads)

add_library(sibyl_torch INTERFACE)
add_library(sibyl::torch ALIAS sibyl_torch)
target_link_libraries(sibyl_torch INTERFACE sibyl_torch_headers ${torch_root}/lib/libtorch_cpu.so ${torch_root}/lib/libc10.so)
target_link_options(sibyl_torch INTERFACE
  -Wl,--allow-shlib-undefined -Wl,-rpath,${torch_root}/lib -Wl,-rpath,${cuda_lib} -Wl,--disable-new-dtags)

# policy/torch.h is compiled once; every source that uses LibTorch shares the result. Sources of the same libraries that
# do not include LibTorch are named in sibyl_plain_sources: reading the compiled header would triple their time.
file(WRITE ${CMAKE_BINARY_DIR}/torch_pch.cc "")
add_library(sibyl_torch_pch STATIC ${CMAKE_BINARY_DIR}/torch_pch.cc)
set_target_properties(sibyl_torch_pch PROPERTIES EXCLUDE_FROM_ALL TRUE)
target_include_directories(sibyl_torch_pch PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(sibyl_torch_pch PUBLIC sibyl_torch_headers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(sibyl_torch_pch PRIVATE -fpch-preprocess)
endif()
# In angle brackets CMake leaves the name as it is. An absolute one would give each checkout a header of its own in ccache.
target_precompile_headers(sibyl_torch_pch PRIVATE <policy/torch.h>)
