# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=<project> -DWORK=<scratch> -DCLANG_TIDY=... -DFLAGS=-isystem|dir -P CheckTidy.cmake
cmake_minimum_required(VERSION 3.25)
string(REPLACE "|" ";" FLAGS "${FLAGS}")
file(GLOB_RECURSE headers RELATIVE ${ROOT}/include ${ROOT}/include/shardexpr/*.hpp)
list(SORT headers)
set(text "")
foreach(header IN LISTS headers)
  file(STRINGS ${ROOT}/include/${header} opt_in REGEX "include <(mpi|nccl|cuda[a-z_]*)\\.h>")
  if(opt_in STREQUAL "")
    string(APPEND text "#include <${header}>\n")
  endif()
endforeach()
file(WRITE ${WORK}/tidy/all_headers.cpp "${text}int main() {}\n")
execute_process(
  COMMAND ${CLANG_TIDY} --quiet --config-file=${ROOT}/.clang-tidy
          ${WORK}/tidy/all_headers.cpp ${ROOT}/tests/main.cpp
          -- -std=c++20 -I${ROOT}/include ${FLAGS}
  RESULT_VARIABLE rc)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "clang-tidy has complaints")
endif()
