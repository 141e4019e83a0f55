# SPDX-License-Identifier: Apache-2.0
# SHARDEXPR_NVCC: the nvcc that the compile-fail and header tests call, where one is installed. They
# call it directly; the CUDA language is enabled by SHARDEXPR_CUDA alone.
include_guard()
find_program(SHARDEXPR_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
  PATH_SUFFIXES bin)
mark_as_advanced(SHARDEXPR_NVCC)
# NCCL and cuBLASLt beside it, for the tests of what is joined by the one, and multiplied by the other.
if(SHARDEXPR_NVCC)
  file(REAL_PATH ${SHARDEXPR_NVCC} shardexpr_cuda)
  cmake_path(GET shardexpr_cuda PARENT_PATH shardexpr_cuda)
  cmake_path(GET shardexpr_cuda PARENT_PATH shardexpr_cuda)
  find_path(SHARDEXPR_NCCL_INCLUDE nccl.h HINTS ENV NCCL_HOME PATHS ${shardexpr_cuda}
    PATH_SUFFIXES include)
  find_library(SHARDEXPR_NCCL_LIBRARY nccl HINTS ENV NCCL_HOME PATHS ${shardexpr_cuda}
    PATH_SUFFIXES lib lib64)
  mark_as_advanced(SHARDEXPR_NCCL_INCLUDE SHARDEXPR_NCCL_LIBRARY)
  find_path(SHARDEXPR_CUBLASLT_INCLUDE cublasLt.h PATHS ${shardexpr_cuda} PATH_SUFFIXES include)
  find_library(SHARDEXPR_CUBLASLT_LIBRARY cublasLt PATHS ${shardexpr_cuda} PATH_SUFFIXES lib lib64)
  mark_as_advanced(SHARDEXPR_CUBLASLT_INCLUDE SHARDEXPR_CUBLASLT_LIBRARY)
endif()
# shardexpr_add_gpu_program(<name> SOURCES <file.cu>... [EXCLUDE_FROM_ALL] [HOST_OPTIMIZATION <0 to 3>]
#                           [OPTIONS <option of nvcc>...] [OBJECTS <file>...]
#                           [INCLUDE <folder>...] [LIBRARIES <file or option>...])
# bin/<name>, compiled by nvcc for each architecture of SHARDEXPR_GPU_ARCHITECTURES with its warnings
# and the host compiler's as errors; nothing where there is no nvcc or no cuBLASLt. The compiler is
# called by itself, so that CMake need not enable CUDA.
set(SHARDEXPR_GPU_ARCHITECTURES "80;90" CACHE STRING
  "Compute capabilities that GPU programs are built for, without a dot; or `native`")
function(shardexpr_add_gpu_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "EXCLUDE_FROM_ALL" "HOST_OPTIMIZATION"
    "SOURCES;OPTIONS;OBJECTS;INCLUDE;LIBRARIES")
  if(NOT DEFINED arg_HOST_OPTIMIZATION)
    set(arg_HOST_OPTIMIZATION 3)
  endif()
  if(NOT SHARDEXPR_NVCC OR NOT SHARDEXPR_CUBLASLT_LIBRARY OR
      NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    return()
  endif()
  set(flags -std=c++20 -O${arg_HOST_OPTIMIZATION} --threads 2 -Werror all-warnings
    -Xcompiler -Wall,-Wextra,-Werror,-fno-math-errno,-pthread -I${PROJECT_SOURCE_DIR}/include)
  list(JOIN SHARDEXPR_NOT_FATAL "," not_fatal)
  list(APPEND flags -Xcompiler ${not_fatal})
  list(TRANSFORM arg_INCLUDE PREPEND -I)
  list(APPEND flags ${arg_INCLUDE})
  if(SHARDEXPR_NATIVE)
    list(APPEND flags -Xcompiler -march=native)  # what is offloaded is updated by the host
  endif()
  if(SHARDEXPR_GPU_ARCHITECTURES STREQUAL "native")
    list(APPEND flags -arch=native)
  else()
    foreach(architecture IN LISTS SHARDEXPR_GPU_ARCHITECTURES)
      list(APPEND flags -gencode arch=compute_${architecture},code=sm_${architecture})
    endforeach()
  endif()
  cmake_path(GET SHARDEXPR_CUBLASLT_LIBRARY PARENT_PATH folder)
  set(libraries -Xlinker ${SHARDEXPR_CUBLASLT_LIBRARY} -Xlinker -rpath -Xlinker ${folder})
  if(SHARDEXPR_HAS_LIBURING)
    list(APPEND flags -DSHARDEXPR_LIBURING -I${Liburing_INCLUDE_DIR})
    list(APPEND libraries -Xlinker ${Liburing_LIBRARY})
  endif()
  set(program ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${name})
  set(objects ${arg_OBJECTS})
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(GET source STEM stem)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} OUTPUT_VARIABLE file)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}_${stem}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${SHARDEXPR_NVCC} ${flags} ${arg_OPTIONS} -MD -MF ${object}.d -MT ${object}
        -c ${file} -o ${object}
      DEPENDS ${file}
      DEPFILE ${object}.d
      COMMENT "Building ${source} of ${name} for GPUs" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  add_custom_command(OUTPUT ${program}
    COMMAND ${SHARDEXPR_NVCC} -Xcompiler -pthread ${objects} -o ${program} ${arg_LIBRARIES}
      ${libraries}
    DEPENDS ${objects} COMMENT "Linking ${name}" VERBATIM COMMAND_EXPAND_LISTS)
  set(all ALL)
  if(arg_EXCLUDE_FROM_ALL)
    set(all "")
  endif()
  add_custom_target(${name} ${all} DEPENDS ${program})
endfunction()

if(SHARDEXPR_CUDA)
  if(NOT SHARDEXPR_NVCC)
    message(FATAL_ERROR "SHARDEXPR_CUDA=ON, but nvcc was not found: set CUDA_HOME or SHARDEXPR_NVCC, "
      "or say SHARDEXPR_CUDA=OFF")
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${SHARDEXPR_NVCC})
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80)
  endif()
  enable_language(CUDA)
  set(SHARDEXPR_NVCC ${CMAKE_CUDA_COMPILER})
endif()
