# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT=<project> -DOUTPUT=<folder> -DDOXYGEN=doxygen -DAWK=awk -DVERSION=... -P BuildReference.cmake
# Makes the reference pages of the docstrings in ROOT/include, in OUTPUT/html. Whatever Doxygen warns
# of is an error, but for members that need no text of their own:
#   data members and aliases of a class that has one, aliases in the words of FSDP and DeepSpeed,
#   names of dtypes: what they are is shown;
#   what answers a concept, which explains it: a communicator's collectives, a device's operations,
#   a unit's passes, a policy's questions, a view's size;
#   what moves, guides to deduction, macros that list rules.
cmake_minimum_required(VERSION 3.25)
set(BY_CONCEPT
  rank size traffic all_gather gather gather_buffer reduction_buffer reduce_scatter all_reduce broadcast
  all_to_all barrier split reserve room_bytes gets_from_elsewhere                     # Communicator
  run for_each copy cast fill_zero sum_squares record wait synchronize drain annotate retire note_live
  stamp times match_clocks account available_bytes host deallocate                    # Device
  output saved scratch forward backward                                               # a unit
  check factor limit scale update round "operator\\(\\)"                              # policies, optimizers
  "Scaler" "[A-Za-z]+Update" "[A-Za-z]+Rounding"
  data count size_bytes span)                                                         # views
list(JOIN BY_CONCEPT "|" by_concept)

get_filename_component(ROOT "${ROOT}" ABSOLUTE)
get_filename_component(OUTPUT "${OUTPUT}" ABSOLUTE)
set(FILTER "${AWK} -f '${CMAKE_CURRENT_LIST_DIR}/reference/filter.awk'")
file(REMOVE_RECURSE ${OUTPUT})
configure_file(${CMAKE_CURRENT_LIST_DIR}/reference/Doxyfile.in ${OUTPUT}/Doxyfile @ONLY)
execute_process(COMMAND ${DOXYGEN} ${OUTPUT}/Doxyfile
  RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "doxygen failed:\n${out}${err}")
endif()

# Semicolons and brackets would be read as list syntax.
string(REPLACE ";" "," err "${err}")
string(REPLACE "[" "(" err "${err}")
string(REPLACE "]" ")" err "${err}")
string(REGEX MATCHALL "[^\n]+" lines "${err}")
set(excused "^[^ ]+: warning: Member (.* \\((variable|typedef)\\) of (class|struct)")
string(APPEND excused "|.* \\(typedef\\) of namespace shardexpr::(fsdp|deepspeed)|.*dtype_name< .* \\(variable\\)")
string(APPEND excused "|SafetensorsFile\\(std::string\\) -> .* \\(function\\)")
string(APPEND excused "|(${by_concept})\\(.* \\(function\\) of (class|struct)")
string(APPEND excused "|[A-Za-z]+\\([A-Za-z]+ &&(other)?\\)|operator=\\([A-Za-z]+ &&other\\)")
string(APPEND excused "|SHARDEXPR_[A-Z]+_RULES\\(RULE\\) \\(macro definition\\)).* is not documented\\.$")
list(FILTER lines EXCLUDE REGEX "${excused}")
list(REMOVE_DUPLICATES lines)
if(lines)
  list(JOIN lines "\n" lines)
  string(REPLACE "${ROOT}/" "" lines "${lines}")
  message(NOTICE "${lines}")
  message(FATAL_ERROR "doxygen warns: mend the docstrings above (CONTRIBUTING.md, Style)")
endif()
file(GLOB pages ${OUTPUT}/html/class*.html ${OUTPUT}/html/struct*.html)
list(FILTER pages EXCLUDE REGEX "-members\\.html$")
list(LENGTH pages count)
if(count EQUAL 0)
  message(FATAL_ERROR "${OUTPUT}/html has no page of a class")
endif()
message(STATUS "${count} classes: ${OUTPUT}/html/index.html")
