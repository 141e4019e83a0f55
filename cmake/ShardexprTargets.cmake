# SPDX-License-Identifier: Apache-2.0
# How our own programs are built. Nothing here reaches a user of shardexpr::shardexpr.
include_guard()

# Also the flags of the header tests. -Wconversion is left out: element counts meet Eigen's signed
# indices on every other line of nn/, and the casts would hide more than they show.
set(SHARDEXPR_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  -Wimplicit-fallthrough)

# g++ 12 reports these in its own library when it inlines at -O3: shown, not fatal.
set(SHARDEXPR_NOT_FATAL -Wno-error=maybe-uninitialized -Wno-error=array-bounds
  -Wno-error=stringop-overflow -Wno-error=stringop-overread -Wno-error=restrict)

# A target with the property SHARDEXPR_PORTABLE runs on other processors than this machine's, too.
add_library(shardexpr_dev INTERFACE)
target_compile_options(shardexpr_dev INTERFACE
  ${SHARDEXPR_WARNINGS}
  $<$<AND:$<BOOL:${SHARDEXPR_NATIVE}>,$<NOT:$<BOOL:$<TARGET_PROPERTY:SHARDEXPR_PORTABLE>>>>:-march=native>)
if(SHARDEXPR_WERROR)
  target_compile_options(shardexpr_dev INTERFACE -Werror)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(shardexpr_dev INTERFACE ${SHARDEXPR_NOT_FATAL})
  endif()
endif()

# Links one of our programs.
function(shardexpr_setup_program target)
  target_link_libraries(${target} PRIVATE shardexpr shardexpr_dev)
  foreach(library IN ITEMS shardexpr_blas shardexpr_onednn shardexpr_liburing)
    if(TARGET ${library})
      target_link_libraries(${target} PRIVATE ${library})
    endif()
  endforeach()
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()

# shardexpr_add_example(<name> SOURCES <file>... [LIBRARIES <target>...])
function(shardexpr_add_example name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
  add_executable(${name} ${arg_SOURCES})
  shardexpr_setup_program(${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES})
endfunction()

# shardexpr_add_benchmark(<name> SOURCES <file>... [LIBRARIES <target>...])
# A Google Benchmark program; its sources end in BENCHMARK_MAIN() or bring their own main.
function(shardexpr_add_benchmark name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
  add_executable(${name} ${arg_SOURCES})
  shardexpr_setup_program(${name})
  target_link_libraries(${name} PRIVATE benchmark::benchmark ${arg_LIBRARIES})
endfunction()

# shardexpr_add_test(<name> SOURCES <file>... [LIBRARIES <target>...] [LABELS <label>...]
#                    [TIMEOUT <seconds>] [FIXTURES <file>...] [RANKS])
# One doctest program with the shared main, one ctest of the same name, if this build tests it:
# SHARDEXPR_TESTS_ONLY and SHARDEXPR_TESTS_NOT; by its name it can be built all the same. It fails when it runs no
# test case, and after TIMEOUT seconds (default 300), so that a hang is a failure. FIXTURES: the
# sources that read files of tests/fixtures; others do not know where they are, so that a compiler's
# cache serves several checkouts. RANKS: its ranks wait for each other without sleeping, so that
# no other test runs beside it: two of them take three times as long as one after the other.
set(SHARDEXPR_TESTS_ONLY "" CACHE STRING
  "Regular expression: the test programs that are built and run; empty: all")
set(SHARDEXPR_TESTS_NOT "^$" CACHE STRING "Regular expression: those of them that are not")
mark_as_advanced(SHARDEXPR_TESTS_ONLY SHARDEXPR_TESTS_NOT)
function(shardexpr_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "RANKS" "TIMEOUT" "SOURCES;LIBRARIES;LABELS;FIXTURES")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  shardexpr_setup_program(${name})
  target_link_libraries(${name} PRIVATE shardexpr_test_main doctest::doctest ${arg_LIBRARIES})
  set_source_files_properties(${arg_FIXTURES} PROPERTIES
    COMPILE_DEFINITIONS SHARDEXPR_FIXTURES_DIR="${PROJECT_SOURCE_DIR}/tests/fixtures")
  if(NOT name MATCHES "${SHARDEXPR_TESTS_ONLY}" OR name MATCHES "${SHARDEXPR_TESTS_NOT}")
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
    return()
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "unit;${arg_LABELS}")
  if(arg_RANKS)
    set_tests_properties(${name} PROPERTIES PROCESSORS 2)
  endif()
endfunction()
