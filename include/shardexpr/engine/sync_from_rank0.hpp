// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/exchange.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/engine/trainer_access.hpp>

#include <string>

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
  trainer.for_each_buffer([&](const std::string&, auto values) {
    detail::broadcast_from_rank0(detail::TrainerAccess::core(trainer), values.span());
  });
}

}  // namespace shardexpr
