// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/single_work.hpp>
#include <shardexpr/engine/swap_state.hpp>
#include <shardexpr/engine/unit_names.hpp>
#include <shardexpr/model/unit.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace shardexpr::detail {

/// A parameter by its place in forward order, from 1; 0: none.
struct PlacedParameter {
  const ParameterLayout* parameter;
  std::uint64_t place;
};
/// Those that have gradients, flat by flat, as each flat is read once.
template <class M>
std::vector<std::vector<PlacedParameter>> trained_parameters(const Layout<M>& layout) {
  std::uint64_t place = 0;
  std::vector<std::vector<PlacedParameter>> trained(layout.flat_count());
  for (std::size_t u = 0; u < layout.unit_count(); ++u)
    for (const ParameterLayout& parameter : layout.unit(u).parameters) {
      ++place;
      if (!parameter.is_tied && layout.flat(parameter.flat).is_trainable)
        trained[parameter.flat].push_back({&parameter, place});
    }
  return trained;
}
template <class M>
std::string name_of_parameter(const Layout<M>& layout, std::uint64_t found) {
  std::string name = "no parameter alone";  // their squares overflow only together
  std::uint64_t place = 0;
  Layout<M>::for_each_stage([&]<std::size_t St>() {
    using Unit = typename M::Units::template Unit<St>;
    for (std::size_t i = 0; i < layout.count(St); ++i)
      for (const ParameterLayout& parameter : layout.unit(layout.first_unit(St) + i).parameters)
        if (++place == found)
          name = parameter_name<Unit>(i, parameter.spec) + " of unit " +
                 name_of_unit(layout, layout.first_unit(St) + i);
  });
  return name;
}

/// Finds the parameter whose reduced gradient is not finite, of several the last in forward order:
/// backward carries what went wrong to those before it.
///
/// Order:   collective; every rank returns the same.
/// Cost:    reads all gradients that the rank answers for; allocates. For errors.
template <class M, class S>
std::string parameter_not_finite(Core<M, S>& core) {
  const Layout<M>& layout = core.layout;
  const auto trained = trained_parameters(layout);
  std::uint64_t found = 0;
  for (std::size_t f = 0; f < trained.size(); ++f) {
    if (trained[f].empty()) continue;
    const auto look = [&](auto range, std::size_t begin) {
      for (const PlacedParameter& placed : trained[f])
        core.state.for_each_in(*placed.parameter, begin, range, [&](auto gradient, std::size_t) {
          if (!std::isfinite(static_cast<float>(gradient))) found = std::max(found, placed.place);
        });
    };
    core.state.for_each_gradient_range(f, [&](Place where, auto range, std::size_t begin) {
      const std::span<const typename decltype(range)::value_type> values{range};
      if (where == Place::host) return look(values, begin);
      core.visit_on_host(compute_stream, values, [&](auto seen) { look(seen, begin); });
    });
    if constexpr (optimizer_place<S> == Place::nvme) for_each_swapped_gradient(core, f, look);
  }
  auto all =
      core.device->template allocate<std::uint64_t>(1 + core.mesh.world().size(), Purpose::other);
  const Context<typename Core<M, S>::Device> on = core.begin(comm_stream, {"find not finite"});
  on.run(reads(), writes(all.span().first(1)), SetValue<std::uint64_t>{all.data(), found});
  core.mesh.world().all_gather(on, std::as_bytes(std::span<const std::uint64_t>{all.data(), 1}),
                               std::as_writable_bytes(all.span().subspan(1)));
  core.visit_on_host(comm_stream, std::span<const std::uint64_t>{all.span()}, [&](auto places) {
    found = *std::max_element(places.begin() + 1, places.end());
  });

  return name_of_parameter(layout, found);
}

}  // namespace shardexpr::detail
