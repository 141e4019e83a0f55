// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/checkpoint/consolidate.hpp>
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/new_checkpoint.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/part_to_save.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/saved_state.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/checkpoint/utf8.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/engine/exchange.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/io/system.hpp>

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

/// What is saved beside the state, and what of older checkpoints stays.
struct SaveOptions {
  /// Of the program: where in its data it is, say. `load_checkpoint` gives it back. UTF-8.
  std::string cursor{};
  /// How many checkpoints stay in the directory, this one among them; 0: all. Older ones are
  /// removed when this one was read back and is whole.
  std::size_t keep = 0;
  /// Small files of the program's own beside it, name and text: a model's `config.json`, say.
  std::vector<std::pair<std::string, std::string>> texts{};
};

namespace detail {

/// Brings a checkpoint whose parts are on the disk to its place. For one rank.
/// `parts`: the folder that the parts are in; a full checkpoint is made from them.
template <class System, class Form>
void commit_parts(const NewCheckpoint<System>& parts, Manifest manifest, const Form& form,
                  const SaveOptions& options) {
  const auto commit = [&](const NewCheckpoint<System>& checkpoint) {
    for (const auto& [name, text] : options.texts)
      manifest.files.push_back(write_beside<System>(checkpoint.folder(), name, text));
    const std::string folder = checkpoint.commit(manifest);
    if constexpr (std::is_same_v<Form, FullState>) parts.discard();
    checkpoint.retain(options.keep, folder);
  };
  if constexpr (std::is_same_v<Form, FullState>) {
    const NewCheckpoint<System> full = parts.beside("full");
    full.make();
    SavedState<System> saved{parts.folder(), manifest};
    manifest.files = write_full(saved, manifest, full.folder(), form);
    manifest.kind = "full";
    commit(full);
  } else {
    commit(parts);
  }
}

/// Refuses what no save can do, before anything is written.
template <class Form>
void check_save(const Form& form, const SaveOptions& options) {
  if constexpr (std::is_same_v<Form, ShardedState>)
    if (form.parts != 0)
      throw ConfigError(
          "ShardedState::parts is for rewrite_checkpoint; a trainer saves one part a rank: leave "
          "it 0");
  if constexpr (std::is_same_v<Form, FullState>) check_dtype(form);
  if (!is_utf8(options.cursor))
    throw ConfigError(
        "SaveOptions::cursor is not UTF-8: a manifest holds text alone; encode it, say as "
        "hexadecimal digits");
  for (const auto& [name, text] : options.texts)
    if (!is_plain_name(name) || name == Manifest::file_name || name.ends_with(".safetensors") ||
        name.ends_with(".sums") || name == SafetensorsIndex::file_name)
      throw ConfigError("SaveOptions::texts: a file " + shown(name) +
                        " cannot stand in a checkpoint; give it a plain name of its own");
}

}  // namespace detail

/// Saves all that training goes on from to a new folder of `directory`: parameters as they are
/// updated, moments, buffers, the step, the loss scale's state, seed, options and the program's
/// cursor. The folder appears whole, or not at all, and then `latest` names it: a job that is
/// killed at any moment leaves the last checkpoint or this one.
///
/// `form`:  ShardedState: each rank writes what it keeps; FullState: that, and then rank 0 makes of
///          the parts, which it removes, one model; LocalState: each rank writes its memory.
///
/// Order:   collective. Every rank sees the same directory, and no other save writes to it.
/// Errors:  ConfigError while a guard is alive or gradients wait, or for a cursor that is no UTF-8;
///          IoError, on every rank, if any cannot write: the path, what failed, what to do. The
///          checkpoints before stay as they are, and the trainer can go on.
/// Cost:    writes each byte of the state once, past the page cache, with a checksum for each 256
///          KiB; FullState: twice. Memory: a header, the sums and 8 MiB, and 256 KiB for FullState;
///          where the host does not reach the device, 4 Mi elements of its own.
template <class System = detail::LinuxSystem, class Trainer, class Form>
void save_checkpoint(Trainer& trainer, const std::string& directory, const Form& form,
                     const SaveOptions& options = {}) {
  using namespace detail;
  TrainerAccess::check_idle(trainer, "save_checkpoint");
  check_save(form, options);
  auto& core = TrainerAccess::core(trainer);
  const bool leads = core.mesh.world().rank() == 0;
  const NewCheckpoint<System> checkpoint{directory, trainer.steps()};
  const PartShape shape = part_shape<Form>(trainer);
  agree(core, "save_checkpoint", [&] {
    if (leads) checkpoint.begin();
  });
  PartSums mine;
  agree(core, "save_checkpoint", [&] {
    if (PartToSave<System, Trainer>::is_any(trainer, shape))
      mine = PartSums{write_part<System>(trainer, shape, checkpoint.folder())};
  });
  const std::vector<PartSums> sums = exchange(core, mine);
  agree(core, "save_checkpoint", [&] {
    if (!leads) return;
    Manifest manifest = manifest_of(trainer, std::is_same_v<Form, LocalState>, options.cursor);
    for (std::size_t rank = 0; rank < shape.parts; ++rank)
      manifest.files.push_back(sums[rank].record(part_name(rank, shape.parts)));
    commit_parts(checkpoint, std::move(manifest), form, options);
  });
}
/// The same in parts, one a rank.
template <class System = detail::LinuxSystem, class Trainer>
void save_checkpoint(Trainer& trainer, const std::string& directory,
                     const SaveOptions& options = {}) {
  save_checkpoint<System>(trainer, directory, ShardedState{}, options);
}

}  // namespace shardexpr
