// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/model/initialize.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

// State on a disk, outside of steps: the host reads and writes it piece by piece, when nothing else
// runs, in the memory that a step passes it through.

namespace shardexpr::detail {

/// Calls `visit(parameter, name)` for each parameter of its own of every unit: its layout and its
/// name in checkpoints.
template <class M, class Visit>
void for_each_own_parameter(const Layout<M>& layout, Visit visit) {
  Layout<M>::for_each_stage([&]<std::size_t St>() {
    using Unit = typename M::Units::template Unit<St>;
    for (std::size_t i = 0; i < layout.count(St); ++i)
      for (const ParameterLayout& parameter : layout.unit(layout.first_unit(St) + i).parameters)
        if (!parameter.is_tied) visit(parameter, parameter_name<Unit>(i, parameter.spec));
  });
}

/// Fills `values`, which begin with flat f's element `begin`, from the formula of
/// model/initialize.hpp, rounded to `Storage` first; what no parameter has is zero.
template <class Storage, class M, class T>
void fill_initial(const Layout<M>& layout, std::size_t f, std::size_t begin, std::span<T> values,
                  std::uint64_t seed) {
  std::fill(values.begin(), values.end(), T{});
  for_each_own_parameter(layout, [&](const ParameterLayout& parameter, const std::string& name) {
    if (parameter.flat != f) return;
    const std::uint64_t hash = hash_of(name);
    const std::size_t first = std::max(parameter.offset, begin);
    const std::size_t last =
        std::min(parameter.offset + parameter.spec.shape.count(), begin + values.size());
    for (std::size_t i = first; i < last; ++i)
      values[i - begin] = static_cast<T>(static_cast<Storage>(
          initial_value(seed, hash, i - parameter.offset, parameter.spec.init)));
  });
}

/// One region of a flat, piece by piece: `visit(values, first)` sees elements from `first` on, read
/// before it is called, or written after.
enum class SwapAccess { reads, writes };
template <SwapAccess access, class T, class M, class S, class Visit>
void for_each_swapped(Core<M, S>& core, std::size_t f, std::size_t offset, std::size_t count,
                      std::span<std::byte> memory, const char* what, Visit visit) {
  const std::size_t most = memory.size() / swap_block_bytes * swap_block_bytes / sizeof(T);
  for (std::size_t first = 0; first < count; first += most) {
    const std::span<T> values{reinterpret_cast<T*>(memory.data()), std::min(most, count - first)};
    const std::size_t at = offset + first * sizeof(T);
    const std::span<std::byte> bytes = memory.first(in_blocks(values.size(), sizeof(T)));
    if constexpr (access == SwapAccess::reads) {
      core.swap.read(core.begin_on_host(read_stream, {"read"}), at, bytes, what, f);
      core.timeline.synchronize(read_stream);
      visit(values, first);
    } else {
      visit(values, first);
      core.swap.write(core.begin_on_host(write_stream, {"write"}), bytes, at, what, f);
      core.timeline.synchronize(write_stream);
    }
  }
}

/// Memory for that.
template <class M, class S>
std::span<std::byte> swap_memory(Core<M, S>& core) {
  if constexpr (optimizer_place<S> == Place::nvme)
    return core.swap.chunks.span(0);
  else
    return core.swap.parameters.span(0);
}

/// Writes this rank's file for the first time.
template <class M, class S>
void initialize_swap(Core<M, S>& core, std::uint64_t seed) {
  using Precision = typename S::precision;
  using Storage = typename Precision::storage;
  using Compute = typename Precision::compute;
  using Moment = typename Precision::optimizer;
  using Gradient = typename Precision::gradient;
  const std::span<std::byte> memory = swap_memory(core);
  for (std::size_t f = 0; f < core.layout.flat_count(); ++f) {
    const KeptFlat& kept = core.state.kept(f);
    const auto& regions = core.swap.layout().regions(f);
    const std::size_t part = core.mesh.shard().rank() * core.layout.flat(f).part;
    const auto fill = [&](std::size_t begin) {
      return [&, begin](auto values, std::size_t first) {
        fill_initial<Storage>(core.layout, f, begin + first, values, seed);
      };
    };
    const auto clear = [](auto values, std::size_t) {
      std::memset(static_cast<void*>(values.data()), 0, values.size_bytes());
    };
    if (kept.parameters_place == Place::nvme)
      for_each_swapped<SwapAccess::writes, Compute>(core, f, regions.parameters, kept.parameters,
                                                    memory, "parameters", fill(part));
    if constexpr (optimizer_place<S> == Place::nvme) {
      if (kept.has_away_masters)
        for_each_swapped<SwapAccess::writes, Storage>(core, f, regions.masters, kept.away, memory,
                                                      "parameters",
                                                      fill(core.state.updated_from(f)));
      for (std::size_t k = 0; k < S::optimizer::moments; ++k)
        for_each_swapped<SwapAccess::writes, Moment>(core, f,
                                                     regions.moments + k * regions.moment_stride,
                                                     kept.away, memory, "moments", clear);
      for_each_swapped<SwapAccess::writes, Gradient>(core, f, regions.gradients, kept.away, memory,
                                                     "gradients", clear);
    }
  }
}

/// Calls `visit(values, begin)` for what lies on the disk of flat f's gradients.
template <class M, class S, class Visit>
void for_each_swapped_gradient(Core<M, S>& core, std::size_t f, Visit visit) {
  using Gradient = typename S::precision::gradient;
  for_each_swapped<SwapAccess::reads, Gradient>(
      core, f, core.swap.layout().regions(f).gradients, core.state.kept(f).away, swap_memory(core),
      "gradients", [&](std::span<Gradient> values, std::size_t first) {
        visit(values, core.state.updated_from(f) + first);
      });
}

}  // namespace shardexpr::detail
