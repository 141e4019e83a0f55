// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/saved_state.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {

struct LoadOptions {
  /// The optimizer's options, those of parameter groups and the schedule as they were saved; else
  /// those that the trainer was made with stay.
  bool restore_options = false;
};

/// What a checkpoint said beside the state that it gave back.
struct Restored {
  std::string folder;  ///< it was read from
  std::string cursor;  ///< `SaveOptions::cursor`
  std::string strategy;
  std::size_t step = 0, world = 0;
  bool has_loss_scale = false;  ///< its state was restored: the policy is the one that saved
};

namespace detail {

/// Refuses a checkpoint of another model, or of another optimizer.
template <class Trainer>
void check_fits(Trainer& trainer, const std::string& folder, const Manifest& manifest) {
  const Manifest own = manifest_of(trainer, {});
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

}  // namespace detail

/// Lets a trainer go on from a checkpoint, whatever strategy and world size saved it: parameters,
/// moments, buffers, step, seed, and the loss scale's state where the policy is the same. `path`: a
/// directory that was saved to, whose latest is taken, or one folder in it.
///
/// Order:   collective. Every rank sees the same files.
/// Errors:  ConfigError if there is none, or it is of another model or optimizer; FormatError if it
///          is not what was saved: the file, the tensor, the byte; IoError where the disk fails. On
///          every rank; the trainer is of no further use if it threw while it read.
/// Cost:    each rank reads what it keeps, once, in chunks of 256 KiB, and what more lies in these.
///          Memory: 256 KiB a file; where units compute in another dtype than what is updated, that
///          of the largest group.
template <class System = detail::LinuxSystem, class Trainer>
Restored load_checkpoint(Trainer& trainer, const std::string& path,
                         const LoadOptions& options = {}) {
  using namespace detail;
  using M = typename Trainer::Model;
  using S = typename Trainer::Strategy;
  TrainerAccess::check_idle(trainer, "load_checkpoint");
  auto& core = TrainerAccess::core(trainer);
  Restored restored;
  Manifest manifest;
  typename Trainer::Options trains = trainer.options();
  auto scaler = TrainerAccess::scaler(trainer);
  agree(core, "load_checkpoint", [&] {
    restored.folder = checkpoint_folder<System>(path);
    manifest = read_manifest<System>(restored.folder);
    check_fits(trainer, restored.folder, manifest);
    trains.seed = manifest.seed;
    if (options.restore_options && !(restore(manifest.find("optimizer"), trains.optimizer) &&
                                     restore(manifest.find("schedule"), trains.schedule) &&
                                     restore(manifest.find("groups"), trains.groups)))
      throw ConfigError(restored.folder +
                        ": its options are not of the trainer's types; load "
                        "without restore_options");
    restored.has_loss_scale = restore(manifest.find("loss_scale"), scaler);
    SavedState<System> saved{restored.folder, manifest};
    KeptState<SwapAccess::writes, M, S>{core}.visit(
        StateShare::all, [&](const StateStretch& stretch, auto values) {
          saved.read(stretch.kind, *stretch.name, stretch.first, values);
        });
    const std::size_t rank =
        manifest.world == core.mesh.world().size() ? core.mesh.world().rank() : 0;
    trainer.for_each_buffer([&](const std::string& name, auto values) {
      if (!saved.read_buffer(name, rank, values.span()))
        throw FormatError(restored.folder + ": the buffer " + shown(name) +
                          " was not saved, or has another shape");
    });
  });
  refresh_parameters(core);
  TrainerAccess::set_options(trainer, trains);
  TrainerAccess::set_steps(trainer, static_cast<std::size_t>(manifest.step));
  if (restored.has_loss_scale) TrainerAccess::scaler(trainer) = scaler;
  restored.cursor = manifest.cursor;
  restored.strategy = manifest.strategy;
  restored.step = static_cast<std::size_t>(manifest.step);
  restored.world = static_cast<std::size_t>(manifest.world);
  return restored;
}

}  // namespace shardexpr
