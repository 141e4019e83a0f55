// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace shardexpr {

/// A checkpoint in parts, one a rank: nothing is gathered. Any strategy loads it at any world size.
///
/// Source:  FSDP's SHARDED_STATE_DICT; what DeepSpeed's ZeRO saves.
struct ShardedState {
  /// Of `rewrite_checkpoint` alone: how many; 0: as many ranks as trained. A trainer saves one a
  /// rank.
  std::size_t parts = 0;
};

/// A full checkpoint: the model as others read it, `model.safetensors` or a set with an index,
/// beside it the optimizer's state. Any strategy loads it at any world size.
///
/// Source:  FSDP's FULL_STATE_DICT; DeepSpeed's zero3_save_16bit_model, with a dtype of 16 bits.
struct FullState {
  /// Of the model's parameters, "F32", "BF16" or "F16"; empty: as they are updated, which is what
  /// FSDP upcasts to. Where it is narrower, what training goes on from lies beside it.
  std::string dtype{};
  std::uint64_t most_file_bytes = 5'000'000'000;  ///< of each of the model's files
};

/// A checkpoint in which each rank writes what it keeps as it lies in memory, copies of what others
/// keep, too, and reads its own file alone. Only the same layout loads it: model, world size,
/// sharding, wrap, offload, dtypes. Another is refused.
///
/// Source:  FSDP's LOCAL_STATE_DICT.
struct LocalState {};

}  // namespace shardexpr
