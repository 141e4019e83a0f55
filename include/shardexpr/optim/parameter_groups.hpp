// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/option_check.hpp>
#include <shardexpr/model/spec.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>

namespace shardexpr {

/// What a parameter group's rates are multiplied by.
struct GroupOptions {
  float learning_rate_factor = 1;
  float weight_decay_factor = 1;
  friend constexpr bool operator==(const GroupOptions&, const GroupOptions&) = default;
};

/// Group 1, that of `without_decay`, does not decay. All else is as the optimizer says.
inline constexpr std::array<GroupOptions, max_parameter_groups> standard_groups{
    GroupOptions{}, GroupOptions{1, 0}, GroupOptions{}, GroupOptions{}};

namespace detail {

template <class Options>
inline constexpr bool has_weight_decay = requires(Options options) {
  options.weight_decay;
};

/// The options that a group is updated by: its factors times weight decay, where there is one, and
/// times the learning rate, as is the schedule's. Products are formed in double and rounded once.
template <class Options>
Options options_of_group(Options options, const GroupOptions& group, double schedule_factor) {
  const auto scale = [](auto& option, double factor) {
    option = static_cast<std::remove_reference_t<decltype(option)>>(static_cast<double>(option) *
                                                                    factor);
  };
  scale(options.learning_rate, static_cast<double>(group.learning_rate_factor) * schedule_factor);
  if constexpr (has_weight_decay<Options>)
    scale(options.weight_decay, static_cast<double>(group.weight_decay_factor));
  return options;
}

/// Refuses factors that make no sense, and those of a weight decay that the optimizer has not.
template <class Options>
void check_groups(const std::array<GroupOptions, max_parameter_groups>& groups) {
  for (std::size_t k = 0; k < groups.size(); ++k) {
    const OptionCheck check{"Options::groups[" + std::to_string(k) + "]"};
    check.at_least_zero("learning_rate_factor", groups[k].learning_rate_factor);
    check.at_least_zero("weight_decay_factor", groups[k].weight_decay_factor);
    check.require(has_weight_decay<Options> ||
                      groups[k].weight_decay_factor == standard_groups[k].weight_decay_factor,
                  "weight_decay_factor", groups[k].weight_decay_factor,
                  "none: the optimizer has no weight_decay");
  }
}

}  // namespace detail
}  // namespace shardexpr
