# SPDX-License-Identifier: Apache-2.0
# shardexpr_add_compile_fail_test(<source> [COMPILERS gcc|clang|nvcc...] [REFUSED ok|ko <text>])
#
# Registers, for each compiler found here,
#   compile_fail.<compiler>.<case>.ok   the source as it is must compile (the legal twin),
#   compile_fail.<compiler>.<case>.ko   with -DMUST_FAIL it must be refused by exactly one error line,
#                                       a static assertion with the code of `// expect-error: SXnnn`.
# .ko runs only after .ok has passed: a broken toolchain must not look like a refusal.
# The compiler is called directly, so there is no shared build tree and cases run in parallel.
# A case with the line `// include-eigen: yes` is not given to nvcc, which must never see Eigen.
#
# REFUSED is for the harness's own tests: the .ok or .ko check of this source must itself fail, and
# say <text>.
include_guard()

# SHARDEXPR_COMPILERS: gcc, clang, nvcc, as found; SHARDEXPR_COMPILER_<name>: what to call.
set(SHARDEXPR_COMPILERS "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(configured gcc)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  set(configured clang)
else()
  message(FATAL_ERROR "the tests know g++ and clang++, not ${CMAKE_CXX_COMPILER_ID}: "
    "say SHARDEXPR_TESTS=OFF")
endif()
set(SHARDEXPR_COMPILER_${configured} ${CMAKE_CXX_COMPILER})
list(APPEND SHARDEXPR_COMPILERS ${configured})
if(SHARDEXPR_CHECK_COMPILERS STREQUAL "all")
  find_program(SHARDEXPR_GXX g++)
  find_program(SHARDEXPR_CLANGXX NAMES clang++ clang++-14)
  mark_as_advanced(SHARDEXPR_GXX SHARDEXPR_CLANGXX)
  if(SHARDEXPR_GXX AND NOT configured STREQUAL "gcc")
    list(APPEND SHARDEXPR_COMPILERS gcc)
    set(SHARDEXPR_COMPILER_gcc ${SHARDEXPR_GXX})
  endif()
  if(SHARDEXPR_CLANGXX AND NOT configured STREQUAL "clang")
    list(APPEND SHARDEXPR_COMPILERS clang)
    set(SHARDEXPR_COMPILER_clang ${SHARDEXPR_CLANGXX})
  endif()
  if(SHARDEXPR_NVCC)
    list(APPEND SHARDEXPR_COMPILERS nvcc)
    set(SHARDEXPR_COMPILER_nvcc ${SHARDEXPR_NVCC})
  endif()
elseif(NOT SHARDEXPR_CHECK_COMPILERS STREQUAL "configured")
  message(FATAL_ERROR
    "SHARDEXPR_CHECK_COMPILERS is '${SHARDEXPR_CHECK_COMPILERS}': say all or configured")
endif()

# Include directories, joined by "|" because ";" does not survive a command line.
set(SHARDEXPR_INCLUDES "${PROJECT_SOURCE_DIR}/include")
set(SHARDEXPR_SYSTEM_INCLUDES
  "$<JOIN:$<TARGET_PROPERTY:Eigen3::Eigen,INTERFACE_INCLUDE_DIRECTORIES>,|>")

function(shardexpr_add_compile_fail_test source)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "COMPILERS;REFUSED")
  if(NOT arg_COMPILERS)
    set(arg_COMPILERS ${SHARDEXPR_COMPILERS})
  endif()
  get_filename_component(source ${source} ABSOLUTE)
  get_filename_component(case ${source} NAME_WE)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(STRINGS ${source} needs_eigen REGEX "^// include-eigen: *yes")
  foreach(compiler IN LISTS arg_COMPILERS)
    if(NOT compiler IN_LIST SHARDEXPR_COMPILERS)
      continue()
    endif()
    set(system "${SHARDEXPR_SYSTEM_INCLUDES}")
    set(labels compile_fail)
    if(compiler STREQUAL "nvcc")
      if(needs_eigen)
        continue()
      endif()
      set(system "")
      list(APPEND labels nvcc)
    endif()
    set(name compile_fail.${compiler}.${case})
    set(modes ok ko)
    if(arg_REFUSED)
      list(GET arg_REFUSED 0 modes)
    endif()
    foreach(mode IN LISTS modes)
      add_test(NAME ${name}.${mode}
        COMMAND ${CMAKE_COMMAND} -DMODE=${mode} -DFAMILY=${compiler}
                -DCOMPILER=${SHARDEXPR_COMPILER_${compiler}}
                -DINCLUDES=${SHARDEXPR_INCLUDES} -DSYSTEM_INCLUDES=${system} -DSOURCE=${source}
                -P ${PROJECT_SOURCE_DIR}/cmake/RunCompileFail.cmake)
      set_tests_properties(${name}.${mode} PROPERTIES LABELS "${labels}" TIMEOUT 300)
    endforeach()
    if(arg_REFUSED)
      list(GET arg_REFUSED 1 text)
      set_tests_properties(${name}.${modes} PROPERTIES PASS_REGULAR_EXPRESSION "${text}")
    else()
      set_tests_properties(${name}.ok PROPERTIES FIXTURES_SETUP ${name})
      set_tests_properties(${name}.ko PROPERTIES FIXTURES_REQUIRED ${name})
    endif()
  endforeach()
endfunction()

# Says once, in the list of tests, that nvcc's share was left out.
function(shardexpr_note_missing_nvcc name)
  if(NOT SHARDEXPR_NVCC)
    add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -E echo
      "SKIPPED: nvcc is not installed here, so nothing was compiled with it")
    set_tests_properties(${name} PROPERTIES
      SKIP_REGULAR_EXPRESSION "SKIPPED: " LABELS "${ARGN};nvcc")
  endif()
endfunction()
