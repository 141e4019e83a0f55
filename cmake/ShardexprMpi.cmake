# SPDX-License-Identifier: Apache-2.0
# Our own programs over each MPI that is here: Debian's Open MPI and MPICH by their names, else the
# one that CMake found.
#   SHARDEXPR_MPIS             openmpi, mpich, or mpi
#   SHARDEXPR_MPIRUN_<mpi>     its mpirun
#   SHARDEXPR_MPI_ENVIRONMENT  of a test that calls it
#   shardexpr_link_mpi(<target> <mpi>), shardexpr_link_test_mpi(<target> <mpi>)
#   shardexpr_add_mpi_tests(<name> SOURCES <file>... RUNS <ranks>[.<word>]... [TIMEOUT <seconds>])
include_guard()

# Open MPI refuses root, and more ranks than cores, unless it is told otherwise, binds two ranks to a
# core each, where a stream's thread starves, and looks for ssh. And a container may forbid one
# process to read another's memory.
set(SHARDEXPR_MPI_ENVIRONMENT OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  OMPI_MCA_plm=isolated OMPI_MCA_btl_vader_single_copy_mechanism=none)

set(SHARDEXPR_MPIS "")
if(SHARDEXPR_HAS_MPI)
  foreach(mpi IN ITEMS openmpi mpich)
    find_program(SHARDEXPR_MPICXX_${mpi} mpicxx.${mpi})
    find_program(SHARDEXPR_MPIRUN_${mpi} mpirun.${mpi})
    mark_as_advanced(SHARDEXPR_MPICXX_${mpi} SHARDEXPR_MPIRUN_${mpi})
    if(SHARDEXPR_MPICXX_${mpi} AND SHARDEXPR_MPIRUN_${mpi})
      list(APPEND SHARDEXPR_MPIS ${mpi})
      # "g++ -I... -L... -lmpi", as both of them say; without the C++ bindings.
      execute_process(COMMAND ${SHARDEXPR_MPICXX_${mpi}} -show
        OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
      separate_arguments(flags UNIX_COMMAND "${flags}")
      set(includes ${flags})
      list(FILTER includes INCLUDE REGEX "^-I")
      list(TRANSFORM includes REPLACE "^-I" "")
      set(libraries ${flags})
      list(FILTER libraries INCLUDE REGEX "^-[Ll]")
      list(FILTER libraries EXCLUDE REGEX "^-l(mpi_cxx|mpichcxx)$")
      add_library(shardexpr_mpi_${mpi} INTERFACE)
      target_include_directories(shardexpr_mpi_${mpi} SYSTEM INTERFACE ${includes})
      target_link_libraries(shardexpr_mpi_${mpi} INTERFACE ${libraries})
      target_compile_definitions(shardexpr_mpi_${mpi} INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
    endif()
  endforeach()
  if(NOT SHARDEXPR_MPIS)
    set(SHARDEXPR_MPIS mpi)
    set(SHARDEXPR_MPIRUN_mpi ${MPIEXEC_EXECUTABLE})
    add_library(shardexpr_mpi_mpi INTERFACE)
    target_link_libraries(shardexpr_mpi_mpi INTERFACE MPI::MPI_CXX)
  endif()
endif()

function(shardexpr_link_mpi target mpi)
  shardexpr_setup_program(${target})
  target_link_libraries(${target} PRIVATE shardexpr_mpi_${mpi})
endfunction()

# The same for a program that tests start with more ranks than there are cores.
function(shardexpr_link_test_mpi target mpi)
  shardexpr_link_mpi(${target} ${mpi})
  if(mpi STREQUAL "mpich")
    target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/ucx_yields.cpp)
    target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
  endif()
endfunction()

# One doctest program for each MPI, <name>_<mpi>, that mpirun starts; each process runs every case.
# A ctest for each run, <name>.<mpi>.<ranks>[.<word>]; the program finds the word in
# $SHARDEXPR_MPI_RUN.
function(shardexpr_add_mpi_tests name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;RUNS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(NOT SHARDEXPR_MPIS AND name MATCHES "${SHARDEXPR_TESTS_ONLY}" AND NOT name MATCHES "${SHARDEXPR_TESTS_NOT}"
      AND NOT SHARDEXPR_MPI STREQUAL "OFF")
    add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: there is no MPI here")
    set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "SKIPPED: " LABELS "unit;mpi")
  endif()
  foreach(mpi IN LISTS SHARDEXPR_MPIS)
    set(program ${name}_${mpi})
    add_executable(${program} ${arg_SOURCES})
    shardexpr_link_test_mpi(${program} ${mpi})
    target_link_libraries(${program} PRIVATE shardexpr_test_main doctest::doctest)
    target_compile_options(${program} PRIVATE -O0)  # to optimize it takes longer than it saves
    if(NOT name MATCHES "${SHARDEXPR_TESTS_ONLY}" OR name MATCHES "${SHARDEXPR_TESTS_NOT}")
      set_target_properties(${program} PROPERTIES EXCLUDE_FROM_ALL ON)
      continue()
    endif()
    foreach(run IN LISTS arg_RUNS)
      string(REGEX MATCH "^[0-9]+" ranks ${run})
      string(REGEX REPLACE "^[0-9]+\\.?" "" word ${run})
      add_test(NAME ${name}.${mpi}.${run}
        COMMAND ${SHARDEXPR_MPIRUN_${mpi}} -n ${ranks} $<TARGET_FILE:${program}>)
      set_tests_properties(${name}.${mpi}.${run} PROPERTIES
        TIMEOUT ${arg_TIMEOUT} PROCESSORS 2 LABELS "unit;mpi"
        ENVIRONMENT "SHARDEXPR_MPI_RUN=${word};${SHARDEXPR_MPI_ENVIRONMENT}")
    endforeach()
  endforeach()
endfunction()
