// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/optim/parameter_groups.hpp>

#include <array>
#include <cstddef>
#include <string>

// What a trainer's verbs refuse, and in which words. Apart from the trainer, as none of it depends
// on the strategy: it is compiled once.
namespace shardexpr::detail {

inline void check_groups_are_trained(const std::array<GroupOptions, max_parameter_groups>& groups,
                                     const ModelLayout& layout) {
  for (std::size_t k = 0; k < groups.size(); ++k)
    if (groups[k] != standard_groups[k] && !layout.trains_parameter_group(k))
      throw ConfigError("Options::groups[" + std::to_string(k) +
                        "]: no parameter that is trained is in that group");
}
[[noreturn]] inline void refuse_while_guarded(const char* verb) {
  throw ConfigError(std::string{verb} + ": a guard of gather() is alive; leave its scope first");
}
[[noreturn]] inline void refuse_before_apply() {
  throw ConfigError(
      "step: gradients of open_gradients() wait for apply(); call that first, or drop_gradients()");
}
inline void check_batches(std::size_t given, std::size_t wanted) {
  if (given != wanted)
    throw ConfigError("step was given " + std::to_string(given) +
                      " micro-batches, Options::micro_batches says " + std::to_string(wanted));
}
inline void check_writer(std::size_t rank, std::size_t world) {
  if (rank >= world)
    throw ConfigError("summon: WriteFrom{" + std::to_string(rank) + "} in a world of " +
                      std::to_string(world) + " ranks: the last is " + std::to_string(world - 1));
}
inline void check_group_exists(std::size_t group) {
  if (group >= max_parameter_groups)
    throw ConfigError("learning_rate: there is no parameter group " + std::to_string(group) +
                      ", the last is " + std::to_string(max_parameter_groups - 1));
}
[[noreturn]] inline void refuse_gradients(std::size_t step, const std::string& parameter) {
  throw NotFiniteError("step " + std::to_string(step) + ": the gradient of " + parameter +
                       " is not finite; nothing was updated: leave the batch out, or add a loss "
                       "scale, which skips such steps");
}

}  // namespace shardexpr::detail
