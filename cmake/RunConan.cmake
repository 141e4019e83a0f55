# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=<project> -DWORK=<scratch> -DCONAN=conan -DCXX=g++ -DCXX_VERSION=12.2.0 -DARCH=x86_64
#       -DVERSION=... -DPARTS=blas|mpi -DCONFIG=ON|OFF -P RunConan.cmake
# `conan create` with every part that is here, without a remote: its dependencies are the system's. The
# package is then tested by tests/house/consumer, which has its strategy out of a file with CONFIG.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
string(REPLACE "|" ";" PARTS "${PARTS}")
if(CONFIG)
  list(APPEND PARTS config)
endif()
set(ENV{CONAN_HOME} ${WORK}/home)
string(REGEX REPLACE "\\..*" "" major ${CXX_VERSION})
string(REPLACE aarch64 armv8 ARCH ${ARCH})
# The least versions that the recipe allows: those of the system are at least as new, or CMake says so.
file(WRITE ${WORK}/profile "[settings]
os=Linux
arch=${ARCH}
build_type=Release
compiler=gcc
compiler.version=${major}
compiler.libcxx=libstdc++11
compiler.cppstd=20
[conf]
tools.build:compiler_executables={'cpp': '${CXX}'}
tools.cmake.cmake_layout:test_folder=${WORK}/test
[platform_requires]
eigen/3.4.0
openblas/0.3.20
liburing/2.2
openmpi/4.0.0
yaml-cpp/0.7.0
nlohmann_json/3.11.0
")
set(options "")
foreach(part IN LISTS PARTS)
  list(APPEND options -o &:${part}=True)
endforeach()
set(common --no-remote -pr:a ${WORK}/profile)
execute_process(COMMAND ${CONAN} create ${ROOT}/cmake/packages/conan ${common} ${options} -tf ""
  COMMAND_ERROR_IS_FATAL ANY)
list(TRANSFORM options REPLACE "&:" "shardexpr/*:")
execute_process(COMMAND ${CONAN} test ${ROOT}/cmake/packages/conan/test_package shardexpr/${VERSION} ${common}
  ${options} OUTPUT_VARIABLE out ERROR_VARIABLE out COMMAND_ERROR_IS_FATAL ANY)
if(NOT out MATCHES "shardexpr ${VERSION}" OR (CONFIG AND NOT out MATCHES "ShardGradOp"))
  message(FATAL_ERROR "the consumer said: ${out}")
endif()
message(STATUS "${PARTS}: passed")
