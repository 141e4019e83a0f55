# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=include -DFLOOR=core -DCOMPILER=g++ -DFLAGS=a|b -P CheckHeaders.cmake
#   each header of one floor (or, without FLOOR, those directly in shardexpr/) compiles alone, twice
#   included, without a warning.
# cmake -DROOT=include -DNVCC=nvcc -DWORK=dir -P CheckHeaders.cmake
#   all headers compile together under nvcc, but for nn/cpu/, what includes it, and the umbrella:
#   Eigen is not on nvcc's path.
# Headers of opt-in back ends whose library is not installed are left out, and named.
cmake_minimum_required(VERSION 3.25)
get_filename_component(ROOT "${ROOT}" ABSOLUTE)
string(REPLACE "|" ";" FLAGS "${FLAGS}")
set(OPT_IN "(mpi|nccl|cuda[a-z0-9_]*|cublas[a-zA-Z0-9_]*|liburing)\\.h")
set(ENV{LC_ALL} C)

if(NVCC)
  file(GLOB_RECURSE headers RELATIVE ${ROOT} ${ROOT}/shardexpr/*.hpp ${ROOT}/shardexpr/*.cuh)
  list(FILTER headers EXCLUDE REGEX "^shardexpr/(shardexpr\\.hpp|nn/cpu/)")
  list(SORT headers)
  set(lost "nn/cpu/[a-z_]*\\.hpp")
  set(changed TRUE)
  while(changed)
    set(changed FALSE)
    foreach(header IN LISTS headers)
      file(STRINGS ${ROOT}/${header} hit REGEX "^#[ \t]*include <shardexpr/(${lost})>")
      if(hit)
        message(STATUS "${header} left out: it includes nn/cpu/")
        list(REMOVE_ITEM headers ${header})
        string(REGEX REPLACE "^shardexpr/" "" short ${header})
        string(REPLACE "." "\\." short ${short})
        string(APPEND lost "|${short}")
        set(changed TRUE)
      endif()
    endforeach()
  endwhile()
  while(TRUE)
    set(text "")
    foreach(header IN LISTS headers)
      string(APPEND text "#include <${header}>\n")
    endforeach()
    file(WRITE ${WORK}/all_headers.cu "${text}int main() {}\n")
    execute_process(
      COMMAND ${NVCC} -std=c++20 -x cu -I${ROOT} -c -o /dev/null ${WORK}/all_headers.cu
      RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
    string(APPEND out "${err}")
    # One missing opt-in library stops the run: leave its header out and go on.
    if(NOT rc EQUAL 0 AND out MATCHES
       "${ROOT}/(shardexpr/[^:( ]*)[^\n]*: fatal error: (${OPT_IN}): No such file")
      set(header ${CMAKE_MATCH_1})
      set(library ${CMAKE_MATCH_2})
      if(header IN_LIST headers)
        message(STATUS "${header} left out: ${library} is not installed")
        list(REMOVE_ITEM headers ${header})
        continue()
      endif()
    endif()
    break()
  endwhile()
  list(LENGTH headers count)
  if(NOT rc EQUAL 0 OR count EQUAL 0)
    message(NOTICE "${out}")
    message(FATAL_ERROR "nvcc refuses a header")
  endif()
  message(STATUS "${count} headers")
  return()
endif()

if(FLOOR)
  file(GLOB_RECURSE headers RELATIVE ${ROOT} ${ROOT}/shardexpr/${FLOOR}/*.hpp)
else()
  file(GLOB headers RELATIVE ${ROOT} ${ROOT}/shardexpr/*.hpp)
endif()
list(LENGTH headers count)
foreach(header IN LISTS headers)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E echo "#include <${header}>\n#include <${header}>\nint main() {}"
    COMMAND ${COMPILER} -std=c++20 -fsyntax-only -Werror -I${ROOT} ${FLAGS} -x c++ -
    RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
  string(APPEND out "${err}")
  if(rc EQUAL 0)
    continue()
  endif()
  if(out MATCHES "fatal error: '?(${OPT_IN})'?(: No such file| file not found)")
    message(STATUS "${header} left out: ${CMAKE_MATCH_1} is not installed")
    continue()
  endif()
  message(NOTICE "${out}")
  message(SEND_ERROR "${header} does not compile alone")
endforeach()
message(STATUS "${count} headers")
