# SPDX-License-Identifier: Apache-2.0
# cmake -DFUZZER=... -DINPUTS=dir;... -DSHARERS=n -DWORK=dir [-DSEEDS=...] -P RunFuzzer.cmake
# Lets the fuzzer search from the files of INPUTS; the program SEEDS writes them first, to WORK/seeds.
# It takes an n-th of SHARDEXPR_FUZZ_SECONDS, 20 by default. What it finds stays in WORK.
cmake_minimum_required(VERSION 3.25)
set(seconds 20)
if(DEFINED ENV{SHARDEXPR_FUZZ_SECONDS})
  set(seconds $ENV{SHARDEXPR_FUZZ_SECONDS})
endif()
if(NOT seconds MATCHES "^[1-9][0-9]*$")
  message(FATAL_ERROR "SHARDEXPR_FUZZ_SECONDS is '${seconds}'; give a whole number above 0")
endif()
math(EXPR seconds "(${seconds} + ${SHARERS} - 1) / ${SHARERS}")  # never 0, which is without end
file(REMOVE_RECURSE ${WORK}/corpus ${WORK}/seeds)
file(MAKE_DIRECTORY ${WORK}/corpus)
if(DEFINED SEEDS)
  set(ENV{SHARDEXPR_SEEDS} ${WORK}/seeds)
  execute_process(COMMAND ${SEEDS} RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "the seeds cannot be written:\n${out}")
  endif()
endif()
execute_process(COMMAND ${FUZZER} -max_total_time=${seconds} -max_len=4096 -timeout=10
    -rss_limit_mb=2048 -artifact_prefix=${WORK}/ -print_final_stats=1 ${WORK}/corpus ${INPUTS}
  RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "the fuzzer found something (${rc}); the input lies in ${WORK}:\n${out}")
endif()
string(REGEX MATCH "stat::number_of_executed_units: *([0-9]+)" found "${out}")
message(STATUS "${CMAKE_MATCH_1} inputs in ${seconds} s")
