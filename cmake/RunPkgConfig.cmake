# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=<project> -DBUILD=<its build> -DWORK=<scratch> -DPKG_CONFIG=pkg-config -DCXX=... -DVERSION=...
#       -DPARTS=blas|onednn|liburing [-DMPICXX=mpicxx] -P RunPkgConfig.cmake
# Compiles and runs tests/house/consumer by what pkg-config says of an installed package that was moved;
# with MPICXX once more, by MPI's compiler.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
string(REPLACE "|" ";" PARTS "${PARTS}")
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix
  COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
file(RENAME ${WORK}/prefix "${WORK}/moved")
set(ENV{PKG_CONFIG_PATH} "${WORK}/moved/share/pkgconfig:$ENV{PKG_CONFIG_PATH}")

# pkg_config(<variable> <argument>...)
function(pkg_config variable)
  execute_process(COMMAND ${PKG_CONFIG} ${ARGN} OUTPUT_VARIABLE out OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
  set(${variable} "${out}" PARENT_SCOPE)
endfunction()

file(GLOB files ${WORK}/moved/share/pkgconfig/*.pc)
foreach(file IN LISTS files)
  get_filename_component(name ${file} NAME_WE)
  pkg_config(version --modversion ${name})
  if(NOT version STREQUAL VERSION)
    message(FATAL_ERROR "${name} has version ${version}, the project ${VERSION}")
  endif()
endforeach()

# consumer(<compiler> <package>... [DEFINE <macro>])
function(consumer compiler)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "DEFINE" "")
  pkg_config(flags --cflags --libs ${arg_UNPARSED_ARGUMENTS})
  if(flags MATCHES "${WORK}/prefix")
    message(FATAL_ERROR "pkg-config names the folder that was moved away: ${flags}")
  endif()
  separate_arguments(flags UNIX_COMMAND "${flags}")
  if(arg_DEFINE)
    list(PREPEND flags -D${arg_DEFINE})
  endif()
  execute_process(COMMAND ${compiler} -std=c++20 -Wall -Wextra -Werror
    ${ROOT}/tests/house/consumer/main.cpp -o ${WORK}/consumer ${flags} COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${WORK}/consumer OUTPUT_VARIABLE out COMMAND_ERROR_IS_FATAL ANY)
  if(NOT out MATCHES "shardexpr ${VERSION}")
    message(FATAL_ERROR "the consumer said: ${out}")
  endif()
  message(STATUS "${arg_UNPARSED_ARGUMENTS}: ${out}")
endfunction()
list(TRANSFORM PARTS PREPEND shardexpr-)
consumer(${CXX} shardexpr ${PARTS})
if(MPICXX)
  consumer(${MPICXX} shardexpr-mpi DEFINE WITH_MPI)
endif()
