# SPDX-License-Identifier: Apache-2.0
# Which strategies the programs are compiled with: `name=policy, policy; name=...`. An axis left out
# takes its default; what makes no sense does not compile, with one line that says why.
include_guard()
set(TRAIN_GPT_STRATEGIES
  "full_shard=FullShard, ClipNorm;shard_grad_op=ShardGradOp, ClipNorm;\
shard_optimizer=ShardOptimizer, ClipNorm;no_shard=NoShard, ClipNorm;\
mixed_bf16=FullShard, MixedPrecision<bf16, fp32>, ClipNorm;\
offload_all=FullShard, OffloadAll, BackwardPre, MixedPrecision<bf16, fp32>, ClipNorm;\
optimizer_on_nvme=FullShard, Offload<OnDevice, OnNvme>, ClipNorm"
  CACHE STRING "Strategies of train_gpt: name=policy, policy; ...")

# train_gpt_parse_strategies(): `names`, and each name's policies as policies_<name>.
macro(train_gpt_parse_strategies)
  set(names "")
  foreach(entry IN LISTS TRAIN_GPT_STRATEGIES)
    string(STRIP "${entry}" entry)
    if(entry STREQUAL "")
      continue()
    endif()
    if(NOT entry MATCHES "^([a-z][a-z0-9_]*)[ \t]*=[ \t]*(.*[^ \t])[ \t]*$")
      message(FATAL_ERROR
        "TRAIN_GPT_STRATEGIES: '${entry}' is not `name=policy, policy`, the name in [a-z0-9_]")
    endif()
    if(CMAKE_MATCH_1 IN_LIST names)
      message(FATAL_ERROR "TRAIN_GPT_STRATEGIES: the name '${CMAKE_MATCH_1}' stands twice")
    endif()
    list(APPEND names ${CMAKE_MATCH_1})
    set(policies_${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
  endforeach()
  if(names STREQUAL "")
    message(FATAL_ERROR "TRAIN_GPT_STRATEGIES is empty; give at least `full_shard=FullShard`")
  endif()
endmacro()

# train_gpt_strategies(<target> [POLICIES <text>] [HEADERS <header>...] [ONLY <name>... | SOME <name>...])
# Writes the header train_gpt_strategies.hpp for a program. POLICIES are added to each strategy,
# HEADERS are what they need. ONLY: the strategies of these names. SOME: the same if all are there,
# else all strategies.
function(train_gpt_strategies target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "POLICIES" "HEADERS;ONLY;SOME")
  train_gpt_parse_strategies()
  set(served ${names})
  if(arg_ONLY OR arg_SOME)
    set(served ${arg_ONLY} ${arg_SOME})
  endif()
  foreach(name IN LISTS served)
    if(NOT name IN_LIST names)
      if(arg_ONLY)
        message(FATAL_ERROR "${target}: TRAIN_GPT_STRATEGIES has no '${name}'")
      endif()
      set(served ${names})
      break()
    endif()
  endforeach()
  set(aliases "")
  set(each "")
  foreach(name IN LISTS served)
    string(APPEND aliases
      "using strategy_${name} = Sharded<Gpt, ${policies_${name}}${arg_POLICIES}>;\n")
    string(APPEND each " ENTRY(${name})")
  endforeach()
  set(includes "")
  foreach(header IN ITEMS shardexpr/shardexpr.hpp LISTS arg_HEADERS)
    string(APPEND includes "#include <${header}>\n")
  endforeach()

  set(folder ${CMAKE_CURRENT_BINARY_DIR}/generated)
  file(CONFIGURE OUTPUT ${folder}/train_gpt_strategies.hpp @ONLY CONTENT
"// Made by CMake from TRAIN_GPT_STRATEGIES.
#pragma once
@includes@
namespace strategies {
using namespace shardexpr;  // policies are written without sx::
@aliases@}  // namespace strategies

#define TRAIN_GPT_EACH_STRATEGY(ENTRY)@each@
")
  target_include_directories(${target} PRIVATE ${folder})
endfunction()
