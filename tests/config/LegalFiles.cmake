# SPDX-License-Identifier: Apache-2.0
# cmake -DPROGRAM=strategy_from_config -DFILES=dir -DOUTPUT=header -P LegalFiles.cmake
# Writes a line LEGAL(policies) for each strategy that a file under FILES can become, under several
# settings.
cmake_minimum_required(VERSION 3.25)
file(GLOB files ${FILES}/found/*.json ${FILES}/found/*.yaml ${FILES}/written/*.json
  ${FILES}/written/*.yaml)
set(lines "")
set(count 0)
foreach(settings IN ITEMS "--ranks;8" "--mixed-precision;bf16;--hidden-size;768;--accumulate;4"
        "--mixed-precision;fp16;--loaded;bf16")
  foreach(file IN LISTS files)
    execute_process(COMMAND ${PROGRAM} ${file} --pack --root ${FILES} ${settings}
      RESULT_VARIABLE rc OUTPUT_VARIABLE pack ERROR_VARIABLE err OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(rc EQUAL 0)
      list(APPEND lines "LEGAL(${pack})")
      math(EXPR count "${count} + 1")
    elseif(NOT rc MATCHES "^[23]$")
      message(FATAL_ERROR "${file}: ended with ${rc}:\n${err}")
    endif()
  endforeach()
endforeach()
if(count LESS 60)
  message(FATAL_ERROR "${count} files became strategies; more should")
endif()
list(REMOVE_DUPLICATES lines)
list(JOIN lines "\n" text)
file(WRITE ${OUTPUT} "${text}\n")
