# SPDX-License-Identifier: Apache-2.0
# cmake -DPROGRAM="<command>" -DNAME=<name> -DPAGE=<page> -DWORK=<folder> [-DEXACT=ON] -P CheckOutput.cmake
# The program ends with 0, and prints what the page shows below `<!-- output of NAME -->`. Other
# processors round otherwise: numbers are compared with EXACT alone.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
execute_process(COMMAND ${PROGRAM} WORKING_DIRECTORY ${WORK}
  RESULT_VARIABLE rc OUTPUT_VARIABLE printed ERROR_VARIABLE errors)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "${NAME} ends with ${rc}:\n${printed}${errors}")
endif()

file(READ ${PAGE} text)
set(mark "<!-- output of ${NAME} -->\n```text\n")
string(FIND "${text}" "${mark}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "${PAGE} has no ```text block below `<!-- output of ${NAME} -->`")
endif()
string(LENGTH "${mark}" length)
math(EXPR at "${at} + ${length}")
string(SUBSTRING "${text}" ${at} -1 shown)
string(FIND "${shown}" "```" end)
string(SUBSTRING "${shown}" 0 ${end} shown)

function(normalize variable)
  set(text "${${variable}}")
  if(NOT EXACT)
    string(REGEX REPLACE "-?[0-9]+(\\.[0-9]+)?(e[+-]?[0-9]+)?" "N" text "${text}")
    string(REGEX REPLACE "[ ]+" " " text "${text}")
  endif()
  set(${variable}_is "${text}" PARENT_SCOPE)
endfunction()
normalize(printed)
normalize(shown)
if(NOT printed_is STREQUAL shown_is)
  message(FATAL_ERROR "${PAGE} does not show what ${NAME} prints:\n${printed}")
endif()
