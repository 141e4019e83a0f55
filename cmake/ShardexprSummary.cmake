# SPDX-License-Identifier: Apache-2.0
if(NOT PROJECT_IS_TOP_LEVEL)
  return()
endif()
foreach(flag TESTS BENCHMARKS EXAMPLES NATIVE WERROR CUDA)
  if(SHARDEXPR_${flag})
    set(${flag}_word on)
  else()
    set(${flag}_word off)
  endif()
endforeach()
set(blas_word "off (SHARDEXPR_BLAS=${SHARDEXPR_BLAS})")
if(SHARDEXPR_HAS_BLAS)
  set(blas_word "${OpenBLAS_LIBRARY}")
endif()
set(onednn_word "off (SHARDEXPR_ONEDNN=${SHARDEXPR_ONEDNN})")
if(SHARDEXPR_HAS_ONEDNN)
  set(onednn_word "${OneDNN_LIBRARY} ${OneDNN_VERSION}")
endif()
set(liburing_word "off (SHARDEXPR_LIBURING=${SHARDEXPR_LIBURING})")
if(SHARDEXPR_HAS_LIBURING)
  set(liburing_word "${Liburing_LIBRARY}")
endif()
set(mpi_word "off (SHARDEXPR_MPI=${SHARDEXPR_MPI})")
if(SHARDEXPR_HAS_MPI)
  list(GET MPI_CXX_LIBRARIES 0 mpi_word)
  string(APPEND mpi_word ", MPI ${MPI_CXX_VERSION}")
endif()
set(config_word "off (SHARDEXPR_CONFIG=${SHARDEXPR_CONFIG})")
if(SHARDEXPR_HAS_CONFIG)
  set(config_word "yaml-cpp ${yaml-cpp_VERSION}, nlohmann-json ${nlohmann_json_VERSION}")
endif()
set(nvcc_word "not found: its tests are skipped")
if(SHARDEXPR_NVCC)
  set(nvcc_word "${SHARDEXPR_NVCC}")
endif()
set(gpu_word "no CUDA toolkit")
if(SHARDEXPR_HAS_CUDA)
  set(gpu_word "CUDA toolkit ${CUDAToolkit_VERSION}, no NCCL")
  if(SHARDEXPR_HAS_NCCL)
    set(gpu_word "CUDA toolkit ${CUDAToolkit_VERSION}, ${NCCL_LIBRARY}")
  endif()
endif()
set(launcher_word none)
if(CMAKE_CXX_COMPILER_LAUNCHER)
  set(launcher_word ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
message(STATUS "shardexpr ${PROJECT_VERSION}
     compiler    ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}, ${CMAKE_BUILD_TYPE}, launcher ${launcher_word}
     native      ${NATIVE_word}
     warnings    as errors ${WERROR_word}
     Eigen       ${Eigen3_VERSION}
     OpenBLAS    ${blas_word}
     oneDNN      ${onednn_word}
     liburing    ${liburing_word}
     MPI         ${mpi_word}
     config      ${config_word}
     nvcc        ${nvcc_word}
     CUDA        ${CUDA_word}
     GPUs        ${gpu_word}
     tests       ${TESTS_word}
     benchmarks  ${BENCHMARKS_word}
     examples    ${EXAMPLES_word}")
