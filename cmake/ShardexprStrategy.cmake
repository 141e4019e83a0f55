# SPDX-License-Identifier: Apache-2.0
include_guard()

# shardexpr_strategy(TARGET <target> NAME <Name> CONFIG <file> [OPTIONS <option>...])
# When <target> is built, makes a header <Name>.hpp of an Accelerate YAML or a DeepSpeed JSON, with
# a struct <Name>: `Name::Trainer<Model>` is the trainer, `Name::set(options)` sets what the file
# says of run time. OPTIONS go to strategy_from_config (`--ranks 8`, `--block my::Layer`). A file
# that is malformed, or not carried over in full, stops the build with a line that says why. It is
# made again when the file changes, or one that it names.
function(shardexpr_strategy)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "TARGET;NAME;CONFIG" "OPTIONS")
  foreach(wanted IN ITEMS TARGET NAME CONFIG)
    if(NOT arg_${wanted})
      message(FATAL_ERROR "shardexpr_strategy: no ${wanted}; write shardexpr_strategy(TARGET <target> "
        "NAME <Name> CONFIG <file>)")
    endif()
  endforeach()
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "shardexpr_strategy(${arg_NAME}): '${arg_UNPARSED_ARGUMENTS}' is none of its "
      "words; it has TARGET, NAME, CONFIG and OPTIONS")
  endif()
  if(NOT TARGET ${arg_TARGET})
    message(FATAL_ERROR "shardexpr_strategy(${arg_NAME}): there is no target ${arg_TARGET}; add it first")
  endif()
  # Within the project it may be added later; elsewhere the variable is not known.
  if(NOT TARGET shardexpr::strategy_from_config AND NOT SHARDEXPR_HAS_CONFIG)
    message(FATAL_ERROR "shardexpr_strategy(${arg_NAME}): there is no program strategy_from_config. Of an "
      "installed package, say find_package(shardexpr COMPONENTS config); in a tree, install yaml-cpp and "
      "nlohmann-json (Debian: libyaml-cpp-dev nlohmann-json3-dev) and say SHARDEXPR_CONFIG=ON")
  endif()
  get_filename_component(config ${arg_CONFIG} ABSOLUTE)
  if(NOT EXISTS ${config})
    message(FATAL_ERROR "shardexpr_strategy(${arg_NAME}): there is no file ${config}")
  endif()
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/shardexpr_strategies/${arg_TARGET})
  file(MAKE_DIRECTORY ${folder})
  set(header ${folder}/${arg_NAME}.hpp)
  add_custom_command(OUTPUT ${header}
    COMMAND $<TARGET_FILE:shardexpr::strategy_from_config> ${config} --header ${arg_NAME}
      --output ${header} --depfile ${header}.d ${arg_OPTIONS}
    DEPENDS $<TARGET_FILE:shardexpr::strategy_from_config> ${config}
    DEPFILE ${header}.d
    COMMENT "Making a strategy of ${arg_CONFIG}" VERBATIM)
  target_sources(${arg_TARGET} PRIVATE ${header})
  target_include_directories(${arg_TARGET} PRIVATE ${folder})
endfunction()
