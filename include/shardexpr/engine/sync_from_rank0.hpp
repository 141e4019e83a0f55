// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/engine/trainer_access.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <type_traits>

namespace shardexpr {

/// Makes every rank's parameters and buffers those of rank 0: of several copies of a parameter, the
/// one that rank 0's group of shards holds; of buffers, rank 0's own. Moments stay. For ranks that
/// were made with different seeds, or whose programs changed parameters apart.
///
/// Order:   collective; in the order of the units.
/// Errors:  ConfigError while a guard is alive.
/// Cost:    as `summon(WriteFrom)`, and a broadcast of the buffers.
/// Source:  FSDP's sync_module_states.
template <class Trainer>
void sync_from_rank0(Trainer& trainer) {
  trainer.summon(WriteFrom{0}, [](const std::string&, auto) {});
  auto& core = detail::TrainerAccess::core(trainer);
  trainer.for_each_buffer([&](const std::string&, auto values) {
    using B = typename decltype(values.span())::value_type;
    const auto memory = core.device->template allocate<B>(values.count(), Purpose::other);
    const detail::Drain drain{core.timeline};
    core.visit_on_host(detail::comm_stream, memory.span(), [&](std::span<B> to) {
      std::copy(values.data, values.data + values.count(), to.begin());
    });
    core.mesh.world().broadcast(core.begin(detail::comm_stream, {"sync"}), memory.span(), 0);
    core.visit_on_host(
        detail::comm_stream, std::span<const B>{memory.span()},
        [&](std::span<const B> from) { std::copy(from.begin(), from.end(), values.data); });
  });
}

}  // namespace shardexpr
