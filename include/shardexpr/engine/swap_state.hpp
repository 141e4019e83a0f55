// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/initial_state.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

// State on a disk, outside of steps: the host reads and writes it piece by piece, when nothing else
// runs, in the memory that a step passes it through.

namespace shardexpr::detail {

enum class SwapAccess { reads, writes };

/// Flat f's parameters as they are kept for units: `visit(values)` sees them read, or fills them.
template <SwapAccess access, class M, class S, class Visit>
void visit_swapped_parameters(Core<M, S>& core, std::size_t f, Visit visit) {
  using Compute = typename S::precision::compute;
  const KeptFlat& kept = core.state.kept(f);
  if (kept.parameters_place != Place::nvme) return;
  const std::size_t at = core.swap.layout().parameters(f);
  const std::span<std::byte> memory =
      core.swap.parameters.span(0).first(in_blocks(kept.parameters, sizeof(Compute)));
  const std::span<Compute> values{reinterpret_cast<Compute*>(memory.data()), kept.parameters};
  if constexpr (access == SwapAccess::reads) {
    core.swap.read(core.begin_on_host(read_stream, {"read"}), at, memory, "parameters", f);
    core.timeline.synchronize(read_stream);
    visit(values);
  } else {
    visit(values);
    core.swap.write(core.begin_on_host(write_stream, {"write"}), memory, at, "parameters", f);
    core.timeline.synchronize(write_stream);
  }
}

/// The chunks of flat f: `visit(view, first)` sees each, as `Swap::View`, and may change what an
/// update changes.
template <SwapAccess access, class M, class S, class Visit>
void visit_chunks(Core<M, S>& core, std::size_t f, Visit visit) {
  for (const auto& chunk : core.swap.layout().chunks()) {
    if (chunk.flat != f) continue;
    core.swap.read(core.begin_on_host(read_stream, {"read"}), chunk, 0);
    core.timeline.synchronize(read_stream);
    visit(core.swap.view(chunk, 0), chunk.first);
    if constexpr (access == SwapAccess::reads) continue;
    core.swap.write(core.begin_on_host(write_stream, {"write"}), chunk, 0);
    core.timeline.synchronize(write_stream);
  }
}

/// Writes this rank's file for the first time.
template <class M, class S>
void initialize_swap(Core<M, S>& core, std::uint64_t seed) {
  using Storage = typename S::precision::storage;
  for (std::size_t f = 0; f < core.layout.flat_count(); ++f) {
    const std::size_t part = core.mesh.shard().rank() * core.layout.flat(f).part;
    if constexpr (parameters_place<S> == Place::nvme)
      visit_swapped_parameters<SwapAccess::writes>(
          core, f, [&](auto values) { fill_initial<Storage>(core.layout, f, part, values, seed); });
  }
  if constexpr (optimizer_place<S> == Place::nvme)
    for (const auto& chunk : core.swap.layout().chunks()) {
      const auto& swap = core.swap.layout();
      const std::span<std::byte> memory = core.swap.chunks.span(0);
      std::memset(memory.data(), 0, memory.size());
      fill_initial<Storage>(core.layout, chunk.flat,
                            core.state.updated_from(chunk.flat) + chunk.first,
                            core.swap.view(chunk, 0).masters, seed);
      core.swap.write(core.begin_on_host(write_stream, {"write"}),
                      memory.subspan(swap.begin(chunk), swap.size_bytes(chunk)), chunk.offset,
                      "optimizer state", chunk.flat);
      core.timeline.synchronize(write_stream);
    }
}

/// Calls `visit(values, begin)` for what lies on the disk of flat f's gradients.
template <class M, class S, class Visit>
void for_each_swapped_gradient(Core<M, S>& core, std::size_t f, Visit visit) {
  visit_chunks<SwapAccess::reads>(core, f, [&](const auto& view, std::size_t first) {
    visit(view.gradients, core.state.updated_from(f) + first);
  });
}

}  // namespace shardexpr::detail
