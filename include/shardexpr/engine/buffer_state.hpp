// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/initial_state.hpp>
#include <shardexpr/model/buffers.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace shardexpr::detail {

/// The units' buffers on one rank: one allocation, whatever the sharding.
/// Order:   filled on the compute stream.
template <class M, class S>
class BufferState {
  using B = typename S::precision::buffers;
  using Device = typename S::device;

 public:
  BufferState(Core<M, S>& core, const typename M::Config& config, std::uint64_t seed)
      : memory_{
            core.device->template allocate<B>(buffer_elements<M>(config), Purpose::parameters)} {
    B* at = memory_.data();
    const auto on = core.timeline.context(compute_stream);
    Layout<M>::for_each_stage([&]<std::size_t St>() {
      using Unit = typename M::Units::template Unit<St>;
      for (std::size_t i = 0; i < core.layout.count(St); ++i) {
        std::vector<Tensor<B>>& views = units_.emplace_back();
        for (const Spec& spec : buffer_specs_of<Unit>(config)) {
          const std::uint64_t name = hash_of(parameter_name<Unit>(i, spec));
          on.for_each(spec.shape.count(), reads(), writes(std::span{at, spec.shape.count()}),
                      InitialValues<float, B>{at, seed, name, 0, spec.init});
          views.push_back({at, spec.shape});
          at += round_up(spec.shape.count(), block_elements);
        }
      }
    });
  }

  /// Those of unit u, as `Tensor<B>` or `Tensor<const B>`.
  template <class Unit, class Field>
  BuffersOf<Unit, Field> bind(std::size_t u) const {
    if constexpr (has_buffers<Unit>) {
      std::array<Field, chars_in<typename Unit::template Buffers<char>>> views;
      std::copy(units_[u].begin(), units_[u].end(), views.begin());
      return from_array<typename Unit::template Buffers<Field>>(views);
    } else {
      return {};
    }
  }
  /// `visit(name, view)` for each of unit u, in memory of the host.
  template <class Unit, class Visit>
  void show(Core<M, S>& core, const typename M::Config& config, std::size_t u, Visit& visit) {
    auto kept = units_[u].begin();
    for (const Spec& spec : buffer_specs_of<Unit>(config)) {
      core.visit_on_host(compute_stream, std::span<B>{kept->data, kept->count()},
                         [&](std::span<B> seen) {
                           visit(parameter_name<Unit>(core.layout.unit(u).index, spec),
                                 Tensor<B>{seen.data(), spec.shape});
                         });
      ++kept;
    }
  }

 private:
  typename Device::template Buffer<B> memory_;
  std::vector<std::vector<Tensor<B>>> units_;
};

}  // namespace shardexpr::detail
