# SPDX-License-Identifier: Apache-2.0
# cmake -DFUZZER=... -DFILES=dir -DWORK=dir -P FuzzConfig.cmake
# Lets the fuzzer search from the fixtures, for half of SHARDEXPR_FUZZ_SECONDS, 20 by default. What
# it finds stays in WORK.
cmake_minimum_required(VERSION 3.25)
set(seconds 20)
if(DEFINED ENV{SHARDEXPR_FUZZ_SECONDS})
  set(seconds $ENV{SHARDEXPR_FUZZ_SECONDS})
endif()
if(NOT seconds MATCHES "^[1-9][0-9]*$")
  message(FATAL_ERROR "SHARDEXPR_FUZZ_SECONDS is '${seconds}'; give a whole number above 0")
endif()
math(EXPR seconds "(${seconds} + 1) / 2")
file(REMOVE_RECURSE ${WORK}/corpus)
file(MAKE_DIRECTORY ${WORK}/corpus)
execute_process(COMMAND ${FUZZER} -max_total_time=${seconds} -max_len=4096 -timeout=10
    -rss_limit_mb=2048 -artifact_prefix=${WORK}/ -print_final_stats=1 ${WORK}/corpus ${FILES}/found
    ${FILES}/written
  RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "the fuzzer found something (${rc}); the input lies in ${WORK}:\n${out}")
endif()
string(REGEX MATCH "stat::number_of_executed_units: *([0-9]+)" found "${out}")
message(STATUS "${CMAKE_MATCH_1} inputs in ${seconds} s")
