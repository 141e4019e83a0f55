// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/model/layout.hpp>

#include <cstddef>
#include <string>

namespace shardexpr::detail {

/// `Mixer 0, Mixer 1, Decoder`: the units that `wanted(u)` says, as their user knows them.
template <class Model, class Wanted>
std::string names_of_units(const Layout<Model>& layout, Wanted wanted) {
  std::string names;
  Layout<Model>::for_each_stage([&]<std::size_t S>() {
    for (std::size_t i = 0; i < layout.count(S); ++i) {
      if (!wanted(layout.first_unit(S) + i)) continue;
      if (!names.empty()) names += ", ";
      names += type_name<typename Model::Units::template Unit<S>>();
      if (layout.count(S) > 1) (names += ' ') += std::to_string(i);
    }
  });
  return names;
}
template <class Model>
std::string name_of_unit(const Layout<Model>& layout, std::size_t u) {
  return names_of_units(layout, [&](std::size_t v) { return v == u; });
}

}  // namespace shardexpr::detail
