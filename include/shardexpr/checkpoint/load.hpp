// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/checkpoint/fill_state.hpp>
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/checkpoint/info.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/saved_state.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/engine/exchange.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

/// What `load_checkpoint` takes from the checkpoint beside the state.
struct LoadOptions {
  /// The optimizer's options, those of parameter groups and the schedule as they were saved; else
  /// those that the trainer was made with stay.
  bool restore_options = false;
};

/// What a checkpoint says, beside the state that it gave back.
struct Restored : CheckpointInfo {
  bool has_loss_scale = false;  ///< its state was restored: the policy is the one that saved
};

namespace detail {

/// Refuses a checkpoint of another model, or of another optimizer.
template <class Trainer>
void check_fits(Trainer& trainer, const std::string& folder, const Manifest& manifest) {
  const Manifest own = manifest_of(trainer, false, {});
  const auto refuse = [&](const std::string& what) {
    throw ConfigError(folder + " does not fit: " + what);
  };
  const auto shape_text = [](const Manifest::Parameter& parameter) {
    std::string text = "(";
    for (std::size_t i = 0; i < parameter.shape.size(); ++i)
      text += (i == 0 ? "" : ", ") + std::to_string(parameter.shape[i]);
    return text + ")";
  };
  std::map<std::string_view, const Manifest::Parameter*> saved;
  for (const Manifest::Parameter& parameter : manifest.parameters)
    saved[parameter.name] = &parameter;
  for (const Manifest::Parameter& parameter : own.parameters) {
    const auto found = saved.find(parameter.name);
    if (found == saved.end())
      refuse("it holds no parameter " + shown(parameter.name) + ", which the model has");
    if (found->second->shape != parameter.shape)
      refuse("parameter " + shown(parameter.name) + " has the shape " + shape_text(*found->second) +
             " there, " + shape_text(parameter) + " in the model");
    saved.erase(found);
  }
  if (!saved.empty())
    refuse("it holds a parameter " + shown(saved.begin()->first) + ", which the model lacks");
  const OpaqueValue *before = manifest.find("optimizer"), *now = own.find("optimizer");
  if (manifest.moments != own.moments || before == nullptr || before->type != now->type)
    refuse("its optimizer is not the trainer's: " +
           shown(before == nullptr ? std::string_view{"none"} : std::string_view{before->type}) +
           " with " + std::to_string(manifest.moments) + " moments, not " + shown(now->type) +
           " with " + std::to_string(own.moments) + "; go on with the optimizer that saved");
}

/// Of the same rank, where as many ranks saved; else the first that saved it.
/// Order:   collective with LoadOnRank0.
template <class System, class Trainer>
void load_buffers(Trainer& trainer, LoadOnEachRank, const Manifest& manifest,
                  std::optional<SavedState<System>>& saved) {
  auto& core = TrainerAccess::core(trainer);
  agree(core, "load_checkpoint", [&] {
    auto& world = core.mesh.world();
    const std::size_t rank = manifest.world == world.size() ? world.rank() : 0;
    trainer.for_each_buffer([&](const std::string& name, auto values) {
      saved->read_buffer(name, rank, values.span());
    });
  });
}
template <class System, class Trainer>
void load_buffers(Trainer& trainer, LoadOnRank0, const Manifest& manifest,
                  std::optional<SavedState<System>>& saved) {
  auto& core = TrainerAccess::core(trainer);
  auto& world = core.mesh.world();
  const std::size_t saved_by = manifest.world == world.size() ? world.size() : 1;
  trainer.for_each_buffer([&](const std::string& name, auto values) {
    using B = typename std::remove_reference_t<decltype(values.span())>::value_type;
    std::vector<B> taken(values.count());
    for (std::size_t rank = 0; rank < saved_by; ++rank) {
      agree(core, "load_checkpoint", [&] {
        if (world.rank() == 0) saved->read_buffer(name, rank, std::span{taken});
      });
      broadcast_from_rank0(core, std::span{taken});
      if (saved_by == 1 || rank == world.rank()) std::copy(taken.begin(), taken.end(), values.data);
    }
  });
}

/// A LocalState: this rank's own file.
template <class System, class Trainer>
void load_local(Trainer& trainer, const std::string& folder, const Manifest& manifest) {
  using M = typename Trainer::Model;
  using S = typename Trainer::Strategy;
  auto& core = TrainerAccess::core(trainer);
  auto& world = core.mesh.world();
  if (manifest.world != world.size() || manifest.layout != layout_text(trainer))
    throw ConfigError(folder + " is a LocalState of " + shown(manifest.strategy) + " over " +
                      std::to_string(manifest.world) +
                      " ranks, whose layout is not the trainer's; load it there and save a "
                      "ShardedState, which any strategy loads");
  const std::string name = part_name(world.rank(), world.size());
  const auto record = std::find_if(manifest.files.begin(), manifest.files.end(),
                                   [&](const FileRecord& file) { return file.name == name; });
  if (record == manifest.files.end())
    throw FormatError(folder + ": the manifest lists no file " + name);
  PartReader<System> file{folder, *record};
  const auto find = [&](const std::string& tensor, std::size_t bytes) {
    const StoredTensor* const found = file.header().find(tensor);
    if (found == nullptr || found->size_bytes() != bytes)
      throw FormatError(file.path() + ": it has no tensor " + shown(tensor) + " of " +
                        std::to_string(bytes) + " bytes");
    return place_of(file.header(), tensor);
  };
  KeptState<SwapAccess::writes, M, S> state{core, StateUnits::flats};
  StretchPlaces places;
  for (const auto& [stretch, count, element_bytes, dtype] : state.describe(StateShare::all))
    places.add(stretch, find(stored_name(stretch), count * element_bytes));
  state.visit(StateShare::all, [&](const StateStretch& stretch, auto values) {
    places.find(stretch, [&](std::size_t place, std::size_t first) {
      file.read(place, first * sizeof(values[0]), std::as_writable_bytes(values));
    });
  });
  trainer.for_each_buffer([&](const std::string& buffer, auto values) {
    const auto bytes = std::as_writable_bytes(values.span());
    file.read(find(buffer_name(buffer), bytes.size()), 0, bytes);
  });
}

}  // namespace detail

/// Lets a trainer go on from a checkpoint, whatever strategy and world size saved it: parameters,
/// moments, buffers, step, seed, and the loss scale's state where the policy is the same. `path`: a
/// directory that was saved to, whose latest is taken, or one folder in it. A LocalState goes on in
/// the layout that saved it alone.
///
/// `from`:  LoadOnEachRank, where every rank sees the files; LoadOnRank0, where it alone does.
///
/// Order:   collective.
/// Errors:  ConfigError if there is none, or it is of another model or optimizer; FormatError if it
///          is not what was saved: the file, the tensor, the byte; IoError where the disk fails. On
///          every rank; the trainer is of no further use if it threw while it read.
/// Cost:    each rank reads what it keeps, once, in chunks of 256 KiB, and what more lies in these.
///          Memory: 256 KiB a file; where units compute in another dtype than what is updated, that
///          of the largest group; with LoadOnRank0 of the largest flat and its moments.
template <class System = detail::LinuxSystem, class Trainer, class From = LoadOnEachRank>
  requires(std::is_same_v<From, LoadOnEachRank> || std::is_same_v<From, LoadOnRank0>)
Restored load_checkpoint(Trainer& trainer, const std::string& path, From from,
                         const LoadOptions& options = {}) {
  using namespace detail;
  constexpr bool everywhere = std::is_same_v<From, LoadOnEachRank>;
  constexpr const char* doing = "load_checkpoint";
  TrainerAccess::check_idle(trainer, doing);
  auto& core = TrainerAccess::core(trainer);
  const bool reads = everywhere || core.mesh.world().rank() == 0;
  Restored restored;
  Manifest manifest;
  std::string text;
  agree(core, doing, [&] {
    if (!reads) return;
    restored.folder = checkpoint_folder<System>(path);
    manifest = read_manifest<System>(restored.folder);
    if (!everywhere) text = manifest.text();
  });
  if constexpr (!everywhere) {
    share_text(core, text);
    share_text(core, restored.folder);
    if (!reads) manifest = Manifest::parse(restored.folder, text);
  }
  static_cast<CheckpointInfo&>(restored) = info_of(restored.folder, manifest);
  const bool is_local = manifest.kind == "local";
  typename Trainer::Options trains = trainer.options();
  auto scaler = TrainerAccess::scaler(trainer);
  std::optional<SavedState<System>> saved;
  agree(core, doing, [&] {
    check_fits(trainer, restored.folder, manifest);
    trains.seed = manifest.seed;
    if (options.restore_options && !(restore(manifest.find("optimizer"), trains.optimizer) &&
                                     restore(manifest.find("schedule"), trains.schedule) &&
                                     restore(manifest.find("groups"), trains.groups)))
      throw ConfigError(restored.folder +
                        ": its options are not of the trainer's types; load "
                        "without restore_options");
    restored.has_loss_scale = restore(manifest.find("loss_scale"), scaler);
    if (is_local && !everywhere)
      throw ConfigError(restored.folder +
                        " is a LocalState, of which each rank reads its own file; load it with "
                        "LoadOnEachRank");
    if (is_local || !reads) return;
    saved.emplace(restored.folder, manifest);
    trainer.for_each_buffer(
        [&](const std::string& name, auto values) { saved->check_buffer(name, values.count()); });
  });
  if (is_local) {
    agree(core, doing, [&] { load_local<System>(trainer, restored.folder, manifest); });
  } else {
    fill_state(core, from, doing,
               [&](std::size_t kind, const std::string& name, std::size_t first, auto values) {
                 saved->read(kind, name, first, values);
               });
    load_buffers(trainer, from, manifest, saved);
  }
  refresh_parameters(core);
  TrainerAccess::set_options(trainer, trains);
  TrainerAccess::set_steps(trainer, static_cast<std::size_t>(manifest.step));
  if (restored.has_loss_scale) TrainerAccess::scaler(trainer) = scaler;
  return restored;
}
/// The same, where every rank sees the files.
template <class System = detail::LinuxSystem, class Trainer>
Restored load_checkpoint(Trainer& trainer, const std::string& path,
                         const LoadOptions& options = {}) {
  return load_checkpoint<System>(trainer, path, LoadOnEachRank{}, options);
}

}  // namespace shardexpr
