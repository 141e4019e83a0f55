// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/new_checkpoint.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/engine/exchange.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/engine/trainer_name.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace shardexpr {

struct SaveOptions {
  /// Of the program: where in its data it is, say. `load_checkpoint` gives it back. UTF-8.
  std::string cursor{};
  /// How many checkpoints stay in the directory, this one among them; 0: all. Older ones are
  /// removed when this one was read back and is whole.
  std::size_t keep = 0;
};

namespace detail {

/// Writes this rank's part.
template <class System, class Trainer>
FileRecord write_part(Trainer& trainer, const std::string& folder) {
  using M = typename Trainer::Model;
  using S = typename Trainer::Strategy;
  auto& core = TrainerAccess::core(trainer);
  KeptState<SwapAccess::reads, M, S> state{core};
  std::vector<TensorToStore> tensors;
  state.describe(StateShare::own, [&]<class T>(const StateStretch& stretch, std::size_t count,
                                               std::type_identity<T>) {
    tensors.push_back({stored_name(stretch), stored_dtype_name<T>, {count}});
  });
  trainer.for_each_buffer([&](const std::string& name, auto values) {
    using B = typename std::remove_reference_t<decltype(values.span())>::value_type;
    tensors.push_back({buffer_name(name), stored_dtype_name<B>, {values.count()}});
  });
  PartWriter<System> file{folder, part_name(core.mesh.world().rank(), core.mesh.shape().shards),
                          lay_out_safetensors(std::move(tensors))};
  StretchPlaces places;
  state.describe(StateShare::own, [&](const StateStretch& stretch, std::size_t, auto) {
    places.add(stretch, place_of(file.header(), stored_name(stretch)));
  });
  state.visit(StateShare::own, [&](const StateStretch& stretch, auto values) {
    places.find(stretch, [&](std::size_t place, std::size_t first) {
      file.append(place, first * sizeof(values[0]), std::as_bytes(values));
    });
  });
  trainer.for_each_buffer([&](const std::string& name, auto values) {
    file.append(place_of(file.header(), buffer_name(name)), 0, std::as_bytes(values.span()));
  });
  return file.finish();
}

}  // namespace detail

/// Saves all that training goes on from to a new folder of `directory`: parameters as they are
/// updated, moments, buffers, the step, the loss scale's state, seed, options and the program's
/// cursor. Each rank writes what it keeps; nothing is gathered. Any strategy loads it at any world
/// size. The folder appears whole, or not at all, and then `latest` names it: a job that is killed
/// at any moment leaves the last checkpoint or this one.
///
/// Order:   collective. Every rank sees the same directory.
/// Errors:  ConfigError while a guard is alive or gradients wait; IoError, on every rank, if any
///          cannot write: the path, what failed, what to do. The checkpoints before stay as they
///          are, and the trainer can go on.
/// Cost:    writes each byte of the state once, with a checksum for each 256 KiB. Memory: a
///          header and the sums; where the host does not reach the device, 4 Mi elements of its
///          own.
template <class System = detail::LinuxSystem, class Trainer>
void save_checkpoint(Trainer& trainer, const std::string& directory,
                     const SaveOptions& options = {}) {
  using namespace detail;
  TrainerAccess::check_idle(trainer, "save_checkpoint");
  auto& core = TrainerAccess::core(trainer);
  const bool leads = core.mesh.world().rank() == 0;
  const NewCheckpoint<System> checkpoint{directory, trainer.steps()};
  agree(core, "save_checkpoint", [&] {
    if (leads) checkpoint.begin();
  });
  PartSums mine;
  agree(core, "save_checkpoint", [&] {
    if (core.mesh.world().rank() < core.mesh.shape().shards)
      mine = PartSums{write_part<System>(trainer, checkpoint.folder())};
  });
  const std::vector<PartSums> parts = exchange(core, mine);
  agree(core, "save_checkpoint", [&] {
    if (!leads) return;
    Manifest manifest = manifest_of(trainer, options.cursor);
    for (std::size_t rank = 0; rank < core.mesh.shape().shards; ++rank)
      manifest.files.push_back(parts[rank].record(part_name(rank, core.mesh.shape().shards)));
    checkpoint.retain(options.keep, checkpoint.commit(manifest));
  });
}

}  // namespace shardexpr
