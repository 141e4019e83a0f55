# SPDX-License-Identifier: Apache-2.0
# cmake -DNM=nm -DPROGRAM=... -P CheckDispatch.cmake
# A release program carries no virtual table, no type info and no type-erased call of this library.
# Its exceptions are the exception: they need both to be caught.
cmake_minimum_required(VERSION 3.25)
set(EXCEPTIONS "shardexpr::(Error|ConfigError|CommError|DeviceError|FormatError|IoError|NotFiniteError|RaceError|RankError|detail::(PeerEnded|JsonFault))")
set(EXCEPTIONS "(${EXCEPTIONS}|std::_Nested_exception<${EXCEPTIONS}( const)?>)")

execute_process(COMMAND ${NM} -C ${PROGRAM}
  RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "nm failed:\n${err}")
endif()
# Semicolons and brackets would be read as list syntax.
string(REPLACE ";" "," out "${out}")
string(REPLACE "[" "<" out "${out}")
string(REPLACE "]" ">" out "${out}")
string(REGEX MATCHALL "[^\n]*shardexpr::[^\n]*" symbols "${out}")
list(LENGTH symbols count)
if(count EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} has no symbol of shardexpr: stripped, or the wrong program")
endif()
set(bad "")
foreach(symbol IN LISTS symbols)
  if(symbol MATCHES
     " (vtable|VTT|typeinfo|typeinfo name|construction vtable) for (std::_Nested_exception<)?shardexpr::")
    if(NOT symbol MATCHES " for ${EXCEPTIONS}$")
      list(APPEND bad "${symbol}")
    endif()
  elseif(symbol MATCHES
     "std::(_Function_handler|function|any::_Manager_[a-z]+|move_only_function)<.*shardexpr::")
    list(APPEND bad "${symbol}")
  elseif(symbol MATCHES "virtual thunk to shardexpr::")
    list(APPEND bad "${symbol}")
  endif()
endforeach()
if(bad)
  list(JOIN bad "\n" bad)
  message(NOTICE "${bad}")
  message(FATAL_ERROR "run-time dispatch in ${PROGRAM}")
endif()
message(STATUS "${count} symbols of shardexpr, none dispatched at run time")
