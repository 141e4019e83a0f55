# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=<project> -DWORK=<scratch> -DGENERATOR=<name> -DCXX=<compiler> -P CheckStrategies.cmake
# A bad TRAIN_GPT_STRATEGIES stops the configuration with one message, a strategy that makes no sense
# stops the compiler with one error.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})

# configure(<value> <status> <output>): a file carries the value, as ";" does not survive arguments.
function(configure value status_variable output_variable)
  file(WRITE ${WORK}/cache.cmake
    "set(TRAIN_GPT_STRATEGIES [==[${value}]==] CACHE STRING \"\" FORCE)\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${ROOT} -B ${WORK}/build -G ${GENERATOR}
      -C ${WORK}/cache.cmake -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Debug
      -DCMAKE_CXX_FLAGS_DEBUG=-fsyntax-only -DCMAKE_TRY_COMPILE_CONFIGURATION=Release
      -DSHARDEXPR_CCACHE=
      -DSHARDEXPR_TESTS=OFF -DSHARDEXPR_BENCHMARKS=OFF -DSHARDEXPR_INSTALL=OFF -DTRAIN_GPT_TRACE=OFF
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(${status_variable} ${status} PARENT_SCOPE)
  set(${output_variable} "${output}" PARENT_SCOPE)
endfunction()

# refused(<value> <text>): exactly one error, which says <text>.
function(refused value text)
  configure("${value}" status output)
  string(REGEX MATCHALL "CMake Error" errors "${output}")
  list(LENGTH errors count)
  string(REGEX REPLACE "[ \n]+" " " flat "${output}")
  string(FIND "${flat}" "${text}" at)
  if(status EQUAL 0 OR NOT count EQUAL 1 OR at EQUAL -1)
    message(SEND_ERROR "TRAIN_GPT_STRATEGIES '${value}': want one CMake error with '${text}', got "
      "status ${status}, ${count} errors:\n${output}")
  endif()
endfunction()

refused("" "TRAIN_GPT_STRATEGIES is empty")
refused(" ; " "TRAIN_GPT_STRATEGIES is empty")
refused("FullShard" "'FullShard' is not `name=policy, policy`")
refused("name=" "'name=' is not `name=policy, policy`")
refused("=FullShard" "'=FullShard' is not `name=policy, policy`")
refused("Big=FullShard" "'Big=FullShard' is not `name=policy, policy`")
refused("two-words=FullShard" "'two-words=FullShard' is not `name=policy, policy`")
refused("a=FullShard;a=NoShard" "the name 'a' stands twice")

# refuses_to_compile(<value> <code>): one error of the compiler, which has <code>.
function(refuses_to_compile value code)
  configure("${value}" status output)
  if(NOT status EQUAL 0)
    message(SEND_ERROR "TRAIN_GPT_STRATEGIES '${value}' does not configure:\n${output}")
    return()
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK}/build --target train_gpt
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX MATCHALL "[^\n]*:[0-9]+: (fatal )?error: [^\n]*" errors "${output}")
  list(LENGTH errors count)
  if(code STREQUAL "none")
    # -fsyntax-only leaves nothing to link, so the build fails later; the compiler must be content.
    if(NOT count EQUAL 0 OR NOT output MATCHES "Linking CXX executable")
      message(SEND_ERROR "TRAIN_GPT_STRATEGIES '${value}': want no error, got:\n${output}")
    endif()
  elseif(status EQUAL 0 OR NOT count EQUAL 1 OR NOT errors MATCHES "${code}")
    message(SEND_ERROR "TRAIN_GPT_STRATEGIES '${value}': want one error with ${code}, got ${count}:\n"
      "${output}")
  endif()
endfunction()

refuses_to_compile(" good = FullShard , Sgd ;alone=NoShard, Over<Solo>" none)
refuses_to_compile("bad=FullShard, NoShard" SX002)
refuses_to_compile("bad=int" SX001)
refuses_to_compile("many=HybridShard<2>, WrapEach<gpt::Block>, Recompute<gpt::Block>" none)
refuses_to_compile("bad=NoShard, BackwardPre" SX110)
