# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=<project> -DWORK=dir -DGENERATOR=... -DCXX=... -P CheckFunction.cmake
# shardexpr_strategy in a project of its own: a header is made when the target is built, and again
# when the file changes, or one that it names; what is not carried over stops the build.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK}/source)
file(WRITE ${WORK}/source/main.cpp "int main() {}\n")
file(WRITE ${WORK}/source/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES CXX)
add_subdirectory(${ROOT} shardexpr)
add_executable(app main.cpp)
shardexpr_strategy(\${ARGUMENTS})
")
set(good TARGET app NAME Mine CONFIG mine.yaml OPTIONS --root ${WORK}/source)

# configure(<fails> <pattern of the output> <argument>...)
function(configure fails pattern)
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${WORK}/source -B ${WORK}/build -G ${GENERATOR}
      -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Debug -DSHARDEXPR_CONFIG=ON
      "-DARGUMENTS=${ARGN}"
    RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE out)
  string(REGEX REPLACE "[ \n]+" " " line "${out}")
  if((rc EQUAL 0) EQUAL fails OR NOT line MATCHES "${pattern}")
    message(FATAL_ERROR "configured ${ARGN}: ${rc}, wanted ${pattern}:\n${out}")
  endif()
endfunction()
# build(<fails> <pattern of the output>)
function(build fails pattern)
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK}/build --target app
    RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if((rc EQUAL 0) EQUAL fails OR NOT out MATCHES "${pattern}")
    message(FATAL_ERROR "built: ${rc}, wanted ${pattern}:\n${out}")
  endif()
endfunction()
set(header ${WORK}/build/shardexpr_strategies/app/Mine.hpp)
function(header_has pattern)
  file(READ ${header} text)
  if(NOT text MATCHES "${pattern}")
    message(FATAL_ERROR "the header has no ${pattern}:\n${text}")
  endif()
endfunction()

configure(1 "there is no file" ${good})
set(head "distributed_type: DEEPSPEED\ndeepspeed_config:\n")
file(WRITE ${WORK}/source/mine.yaml "${head}  zero_stage: 1\n")
configure(1 "there is no target" TARGET other NAME Mine CONFIG mine.yaml)
configure(1 "no NAME" TARGET app CONFIG mine.yaml)
configure(1 "none of its words" TARGET app NAME Mine CONFIG mine.yaml WITH x)
configure(0 "Generating done" ${good})
build(0 "Making a strategy")
header_has("ShardOptimizer")
build(0 "")

file(WRITE ${WORK}/source/mine.yaml "${head}  zero_stage: 3\n")
build(0 "Making a strategy")
header_has("FullShard")

# A file that is named by the file.
file(WRITE ${WORK}/source/mine.yaml "${head}  deepspeed_config_file: ds.json\n")
file(WRITE ${WORK}/source/ds.json "{\"zero_optimization\": {\"stage\": 2}}\n")
build(0 "Making a strategy")
header_has("ShardGradOp")
file(WRITE ${WORK}/source/ds.json "{\"zero_optimization\": {\"stage\": 0}}\n")
build(0 "Making a strategy")
header_has("NoShard")

file(WRITE ${WORK}/source/ds.json "{\"zero_optimization\": {\"stage\": 2,\n\"zenflow\": {\"a\": 1}}}\n")
build(1 "ds.json:2: zero_optimization.zenflow.a: not supported: ")
file(WRITE ${WORK}/source/ds.json "{\"zero_optimization\": {\"stage\": -2}}\n")
build(1 "ds.json:1: zero_optimization.stage: -2 is negative; give at least 0")
file(WRITE ${WORK}/source/ds.json "{\"zero_optimization\": {\"stage\": 3}}\n")
build(0 "Making a strategy")
header_has("FullShard")
