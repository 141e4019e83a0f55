# SPDX-License-Identifier: Apache-2.0
# cmake -DWAY=find_package|add_subdirectory|fetch_content -DROOT=<project> -DBUILD=<its build>
#       -DWORK=<scratch> -DGENERATOR=... -DCXX=... -DBLAS=ON|OFF -DONEDNN=ON|OFF -DLIBURING=ON|OFF
#       -DMPI=ON|OFF -DCONFIG=ON|OFF [-DLAUNCHER=ccache]
#       [-DNVCC=nvcc -DNCCL=ON|OFF] -P RunConsumer.cmake
# Configures, builds and runs tests/house/consumer as a user's project would; with NVCC, its program
# for a GPU. CONFIG: its strategy is a DeepSpeed file. What is installed is moved before it is found.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
set(source ${ROOT}/tests/house/consumer)
set(options -DWAY=${WAY} -DWITH_BLAS=${BLAS} -DWITH_ONEDNN=${ONEDNN}
  -DWITH_LIBURING=${LIBURING} -DWITH_MPI=${MPI} -DWITH_CONFIG=${CONFIG}
  -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER})
if(NVCC)
  list(APPEND options -DWITH_CUDA=ON -DWITH_NCCL=${NCCL} -DCMAKE_CUDA_COMPILER=${NVCC}
    -DCMAKE_CUDA_HOST_COMPILER=${CXX} -DCMAKE_CUDA_ARCHITECTURES=80)
endif()
if(WAY STREQUAL "find_package")
  execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix
    COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
  file(RENAME ${WORK}/prefix ${WORK}/moved)
  list(APPEND options -DCMAKE_PREFIX_PATH=${WORK}/moved
    -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF)
else()
  list(APPEND options -DSHARDEXPR_SOURCE=${ROOT})
endif()
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${source} -B ${WORK}/build -G ${GENERATOR}
          -DCMAKE_CXX_COMPILER=${CXX} ${options}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK}/build COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${WORK}/build/consumer OUTPUT_VARIABLE out COMMAND_ERROR_IS_FATAL ANY)
if(NOT out MATCHES "shardexpr 0\\.1\\.0")
  message(FATAL_ERROR "the consumer said: ${out}")
endif()
if(CONFIG AND NOT out MATCHES "ShardGradOp")
  message(FATAL_ERROR "the consumer does not name its file's policies: ${out}")
endif()
if(CONFIG AND WAY STREQUAL "find_package")
  # An installed package without the program says what is missing.
  file(REMOVE_RECURSE ${WORK}/moved/bin)
  execute_process(COMMAND ${CMAKE_COMMAND} ${WORK}/build RESULT_VARIABLE rc OUTPUT_QUIET ERROR_VARIABLE err)
  string(REGEX REPLACE "[ \n]+" " " err "${err}")  # messages are wrapped
  if(rc EQUAL 0 OR NOT err MATCHES "its component config needs [^ ]*/moved/bin/strategy_from_config")
    message(FATAL_ERROR "the component config without its program: status ${rc}\n${err}")
  endif()
endif()
file(GLOB_RECURSE strays ${WORK}/build/train_gpt* ${WORK}/build/*shardexpr_test_main*)
if(strays)
  message(FATAL_ERROR "a user's build built our programs: ${strays}")
endif()
message(STATUS "${out}")
