// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/loop.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/model/initialize.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

// What a trainer begins with. No rank holds more than its own part of it.

namespace shardexpr::detail {

/// Element i becomes element `first + i` of a parameter, or buffer, of that name: rounded to
/// Storage first.
template <class Storage, class T>
struct InitialValues {
  static constexpr bool is_loop = true;  // clang++ finds no vectors for its integers
  T* to;
  std::uint64_t seed, name_hash;
  std::size_t first;
  Init init;

  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    to[i] = static_cast<T>(static_cast<Storage>(initial_value(seed, name_hash, first + i, init)));
  }
};

/// A parameter that is no other's, and its name in checkpoints.
struct OwnParameter {
  const ParameterLayout* layout;
  std::string name;
};
/// Those of every unit, in forward order. A list, so that what is done with each is compiled once
/// and not for each kind of unit.
template <class M>
std::vector<OwnParameter> own_parameters(const Layout<M>& layout) {
  std::vector<OwnParameter> all;
  Layout<M>::for_each_stage([&]<std::size_t St>() {
    using Unit = typename M::Units::template Unit<St>;
    for (std::size_t i = 0; i < layout.count(St); ++i)
      for (const ParameterLayout& parameter : layout.unit(layout.first_unit(St) + i).parameters)
        if (!parameter.is_tied)
          all.push_back({&parameter, parameter_name<Unit>(i, parameter.spec)});
  });
  return all;
}

/// What of `values`, which begin with element `begin` of its flat, a parameter fills: `visit(count,
/// functor)`, if it lies there.
template <class Storage, class T, class Visit>
void visit_initial_run(const ParameterLayout& parameter, std::uint64_t name_hash, std::size_t begin,
                       std::span<T> values, std::uint64_t seed, Visit visit) {
  const std::size_t first = std::max(parameter.offset, begin);
  const std::size_t last =
      std::min(parameter.offset + parameter.spec.shape.count(), begin + values.size());
  if (first < last)
    visit(last - first, InitialValues<Storage, T>{values.data() + (first - begin), seed, name_hash,
                                                  first - parameter.offset, parameter.spec.init});
}

/// Fills memory of the host that flat f's elements from `begin` on are to lie in; what no parameter
/// has is zero.
template <class Storage, class M, class T>
void fill_initial(const Layout<M>& layout, std::size_t f, std::size_t begin, std::span<T> values,
                  std::uint64_t seed) {
  std::fill(values.begin(), values.end(), T{});
  for (const OwnParameter& own : own_parameters(layout))
    if (own.layout->flat == f)
      visit_initial_run<Storage>(*own.layout, hash_of(own.name), begin, values, seed,
                                 [](std::size_t count, auto run) { for_independent(count, run); });
}

/// Fills what this rank keeps of parameters in memory, the device's and the host's.
/// Order:   when it returns, it is done.
template <class M, class S>
void initialize_memory(Core<M, S>& core, std::uint64_t seed) {
  using Storage = typename S::precision::storage;
  const auto on = core.timeline.context(compute_stream);
  for (const OwnParameter& own : own_parameters(core.layout)) {
    const std::uint64_t name_hash = hash_of(own.name);
    const auto fill = [&](Place place, auto values, std::size_t begin) {
      visit_initial_run<Storage>(
          *own.layout, name_hash, begin, values, seed, [&](std::size_t count, auto run) {
            if (place == Place::host) return for_independent(count, run);
            on.for_each(count, reads(), writes(std::span{run.to, count}), run);
          });
    };
    core.state.for_each_parameter_range(own.layout->flat, fill);
  }
  core.timeline.synchronize(compute_stream);
}

}  // namespace shardexpr::detail
