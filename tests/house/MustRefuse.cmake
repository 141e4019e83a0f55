# SPDX-License-Identifier: Apache-2.0
# cmake -DCASE=floors|headers|diagnostics|repository|format|reference|snippets -DCMAKE_DIR=<project>/cmake
#       -DROOT=<project> -DWORK=<scratch> [-DTOOL=<compiler, clang-format or doxygen>] -P MustRefuse.cmake
# Plants faults in a small tree and demands that the check finds each of them, and that it accepts
# the tree without them.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})

# check(<script> <option>... FINDS <text>...): without FINDS the check must pass.
function(check script)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "FINDS")
  execute_process(COMMAND ${CMAKE_COMMAND} ${arg_UNPARSED_ARGUMENTS} -P ${CMAKE_DIR}/${script}
    RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
  string(APPEND out "${err}")
  string(REGEX REPLACE "[ \n]+" " " flat "${out}")  # messages are wrapped
  if(NOT arg_FINDS)
    if(NOT rc EQUAL 0)
      message(FATAL_ERROR "${script} refuses a sound tree:\n${out}")
    endif()
    return()
  endif()
  if(rc EQUAL 0)
    message(FATAL_ERROR "${script} accepts the planted faults:\n${out}")
  endif()
  foreach(text IN LISTS arg_FINDS)
    string(FIND "${flat}" "${text}" at)
    if(at EQUAL -1)
      message(SEND_ERROR "${script} does not say `${text}`:\n${out}")
    endif()
  endforeach()
endfunction()

function(plant file)
  list(JOIN ARGN "\n" text)
  file(WRITE ${WORK}/${file} "${text}\n")
endfunction()

set(licence "// SPDX-License-Identifier: Apache-2.0")
set(lib include/shardexpr)

if(CASE STREQUAL "floors")
  plant(${lib}/core/low.hpp "#pragma once" "#include <vector>")
  plant(${lib}/policy/high.hpp "#include <shardexpr/core/low.hpp>")
  plant(${lib}/io/disk.hpp "#include <shardexpr/core/low.hpp>" "#include <shardexpr/io/disk.hpp>")
  plant(${lib}/shardexpr.hpp "#include <shardexpr/policy/high.hpp>")
  check(CheckFloors.cmake -DROOT=${WORK}/include)
  plant(${lib}/core/upward.hpp "  #  include <shardexpr/policy/high.hpp>")
  plant(${lib}/core/quotes.hpp "#include \"low.hpp\"")
  plant(${lib}/core/relative.hpp "#include <shardexpr/core/../policy/high.hpp>")
  plant(${lib}/core/missing.hpp "#include <shardexpr/core/nothing.hpp>")
  plant(${lib}/core/umbrella.hpp "#include <shardexpr/shardexpr.hpp>")
  plant(${lib}/attic/unknown.hpp "#pragma once")
  plant(${lib}/core/notes.txt "a note")
  plant(${lib}/io/beside.hpp "#include <shardexpr/policy/high.hpp>")
  check(CheckFloors.cmake -DROOT=${WORK}/include FINDS
    "core/upward.hpp: core (floor 0) includes policy (floor 1)"
    "core/quotes.hpp: write <shardexpr/...>, not quotes"
    "core/relative.hpp: a relative path"
    "core/missing.hpp: there is no shardexpr/core/nothing.hpp"
    "core/umbrella.hpp: includes the umbrella"
    "attic/unknown.hpp: attic is no floor"
    "core/notes.txt: only shardexpr/**/*.hpp"
    "io/beside.hpp: io includes policy, but may include core alone")
elseif(CASE STREQUAL "headers")
  plant(${lib}/core/sound.hpp "#pragma once" "#include <cstddef>"
    "inline std::size_t size() { return 1\; }")
  check(CheckHeaders.cmake -DROOT=${WORK}/include -DFLOOR=core -DCOMPILER=${TOOL} -DFLAGS=-Wall)
  plant(${lib}/core/leaning.hpp "#pragma once" "inline std::size_t size() { return 1\; }")
  plant(${lib}/core/unguarded.hpp "inline int one() { return 1\; }")
  plant(${lib}/core/warns.hpp "#pragma once" "inline int one() { int unused\; return 1\; }")
  check(CheckHeaders.cmake -DROOT=${WORK}/include -DFLOOR=core -DCOMPILER=${TOOL} -DFLAGS=-Wall
    FINDS
    "core/leaning.hpp does not compile alone"
    "core/unguarded.hpp does not compile alone"
    "core/warns.hpp does not compile alone")
elseif(CASE STREQUAL "diagnostics")
  plant(${lib}/rules.hpp "// SX101 SX102")
  plant(docs/diagnostics.md "## SX101: one" "## SX102")
  plant(tests/compile_fail/sx101_one.cpp "")
  plant(tests/compile_fail/sx102.cpp "")
  check(CheckDiagnostics.cmake -DROOT=${WORK})
  plant(${lib}/more.hpp "// SX103")
  plant(tests/compile_fail/sx104_gone.cpp "")
  plant(docs/diagnostics.md "## SX101: one" "## SX102" "## SX102" "## SX105")
  check(CheckDiagnostics.cmake -DROOT=${WORK} FINDS
    "SX103: no tests/compile_fail/sx103_*.cpp"
    "SX103: no heading `## SX103` in docs/diagnostics.md"
    "docs/diagnostics.md: two headings for SX102"
    "docs/diagnostics.md: SX105 is in no header"
    "tests/compile_fail/sx104_gone.cpp: SX104 is in no header")
elseif(CASE STREQUAL "repository")
  plant(README.md "# Top" "[a](docs/a.md#one-two) [b](#top) [c](https://example.org/x)"
    "`[d](nowhere.md)`" "```" "[e](nowhere.md)" "```")
  plant(docs/a.md "## One two" "[up](../README.md)")
  plant(${lib}/a.hpp "${licence}" "// see share/home/x")
  check(CheckRepository.cmake -DROOT=${WORK})
  set(home "/ho")
  string(APPEND home "me/somebody")  # in two pieces, or this file would be found
  plant(docs/b.md "[gone](gone.md)" "[[x]](a.md#three)" "[abs](/docs/a.md)")
  plant(${lib}/b.hpp "#pragma once")
  plant(script.sh "cd ${home}")
  check(CheckRepository.cmake -DROOT=${WORK} FINDS
    "docs/b.md: broken link gone.md"
    "docs/b.md: no heading for a.md#three"
    "docs/b.md: absolute link /docs/a.md"
    "include/shardexpr/b.hpp: the first line is not"
    "script.sh: a path of one machine: cd ${home}")
elseif(CASE STREQUAL "format")
  file(COPY ${ROOT}/.clang-format DESTINATION ${WORK})
  plant(tidy.cpp "int main() {}")
  check(CheckFormat.cmake -DROOT=${WORK} -DCLANG_FORMAT=${TOOL})
  plant(untidy.cpp "int   main( ){ }")
  check(CheckFormat.cmake -DROOT=${WORK} -DCLANG_FORMAT=${TOOL} FINDS "clang-format -i untidy.cpp")
elseif(CASE STREQUAL "reference")
  set(build BuildReference.cmake -DROOT=${WORK} -DOUTPUT=${WORK}/pages -DDOXYGEN=${TOOL} -DAWK=awk
    -DVERSION=1.2.3)
  plant(cmake/reference/floors.dox "/** @defgroup core core" "What all use. */"
    "/** @namespace shardexpr" "The library. */")
  plant(${lib}/core/sound.hpp "namespace shardexpr {" "/// A rank." "///" "///   Rank rank\;" "///"
    "/// Cost:  nothing." "struct Rank {" "  int first = 0, last = 0\;  ///< its elements"
    "  /// Their number." "  int total() const { return last - first\; }" "}\;" "}  // namespace shardexpr"
    "namespace shardexpr::detail {" "struct Inner {" "  int part()\;" "}\;"
    "}  // namespace shardexpr::detail")
  check(${build})
  file(READ ${WORK}/pages/html/structshardexpr_1_1Rank.html page)
  foreach(text IN ITEMS "<dt>Cost</dt><dd>nothing" "<pre class=\"fragment\">|class=\"line\">" "its elements.*its elements")
    if(NOT page MATCHES "${text}")
      message(SEND_ERROR "the page does not have `${text}`")
    endif()
  endforeach()
  file(GLOB inner ${WORK}/pages/html/*Inner*)
  if(inner)
    message(SEND_ERROR "an internal has a page: ${inner}")
  endif()
  plant(${lib}/core/silent.hpp "namespace shardexpr {" "struct Silent {" "  int first\;" "}\;" "int silent()\;"
    "inline constexpr int most = 3\;" "template <class T>" "concept Mute = true\;" "/// Said." "struct Said {" "  int total() const\;"
    "  int data() const\;" "}\;" "/// Sees shardexpr::Nobody, as @ref nowhere says, @wrongly."
    "int said()\;" "}  // namespace shardexpr")
  check(${build} FINDS
    "include/shardexpr/core/silent.hpp:2: warning: Compound shardexpr::Silent is not documented"
    "core/silent.hpp:5: warning: Member silent()"
    "core/silent.hpp:6: warning: Member most (variable)"
    "core/silent.hpp:8: warning: Concept Mute"
    "core/silent.hpp:11: warning: Member total() const (function)"
    "core/silent.hpp:14: warning: unable to resolve reference to 'nowhere'"
    "Found unknown command '@wrongly'")
elseif(CASE STREQUAL "snippets")
  plant(src/main.cpp "// [program]" "int main() {" "  // [line]" "  int a[1] = {0}\;" "" "  return a[0]\;"
    "  // [line end]" "}" "// [program end]")
  plant(src/CMakeLists.txt "add_executable(main main.cpp)")
  plant(README.md "# Title" "<!-- src/main.cpp, program -->" "```cpp" "int main() {" "  // [line]"
    "  int a[1] = {0}\;" "" "  return a[0]\;" "  // [line end]" "}" "```" "Text" "<!-- src/main.cpp, line -->"
    "```cpp" "int a[1] = {0}\;" "" "return a[0]\;" "```" "<!-- not compiled: only half of it -->" "```cpp"
    "int main() {" "```")
  plant(docs/diagnostics.md "## SX101" "```cpp" "#ifdef MUST_FAIL" "int a\;" "#endif" "```")
  plant(docs/configuration.md "```cpp" "sx::Sharded<sx::Gpt, sx::FullShard>" "```")
  plant(tests/compile_fail/sx101_one.cpp "#ifdef MUST_FAIL" "int a\;" "#endif")
  file(READ ${WORK}/README.md sound)
  check(CheckSnippets.cmake -DROOT=${WORK})
  function(refuses file from to text)
    file(READ ${WORK}/${file} before)
    string(REPLACE "${from}" "${to}" faulty "${before}")
    if(faulty STREQUAL before)
      message(FATAL_ERROR "nothing was planted: ${file} does not have `${from}`")
    endif()
    file(WRITE ${WORK}/${file} "${faulty}")
    check(CheckSnippets.cmake -DROOT=${WORK} FINDS "${text}")
    file(WRITE ${WORK}/${file} "${before}")
  endfunction()
  refuses(README.md "int main() {\n  //" "int main() { \n  //"
    "README.md:3: the block below src/main.cpp, program is not what the file has there")
  refuses(README.md "\nreturn a" "\n return a" "README.md:14: the block below src/main.cpp, line is not")
  refuses(README.md "main.cpp, line" "main.cpp, plan" "src/main.cpp has no lines between")
  refuses(README.md "src/main.cpp, program" "src/gone.cpp, program" "there is no src/gone.cpp")
  refuses(README.md "```cpp" "```sh" "README.md: 2 lines `<!-- FILE, MARK -->`, but")
  refuses(README.md "<!-- src/main.cpp, program" "<!-- program"
    "README.md:3: no test compiles this ```cpp block")
  refuses(README.md "<!-- not compiled: only half of it" "<!-- not compiled:"
    "README.md:20: no test compiles this ```cpp block")
  refuses(README.md "Text\n" "- item\n  ```cpp\n  int a\n  ```\n" "begin C++ with ```cpp and nothing else")
  refuses(README.md "Text\n" "```c++\nint a\n```\n" "begin C++ with ```cpp and nothing else")
  refuses(src/CMakeLists.txt "main.cpp" "domain.cpp" "no CMakeLists.txt beside src/main.cpp names it")
  refuses(docs/configuration.md "sx::Sharded<sx::Gpt" "sx::plan<sx::Gpt"
    "docs/configuration.md:1: no test compiles this ```cpp block")
  refuses(docs/diagnostics.md "int a" "int b"
    "docs/diagnostics.md:2: no tests/compile_fail/sx101_*.cpp has this block")
else()
  message(FATAL_ERROR "CASE is '${CASE}'")
endif()
