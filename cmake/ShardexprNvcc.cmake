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
