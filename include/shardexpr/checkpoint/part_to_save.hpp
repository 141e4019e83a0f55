// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/model/buffers.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr::detail {

/// What of a trainer goes into a checkpoint's parts, and how many there are.
struct PartShape {
  StateShare share = StateShare::own;
  StateUnits units = StateUnits::parameters;
  std::size_t parts = 0;
};
template <class Form, class Trainer>
PartShape part_shape(Trainer& trainer) {
  auto& mesh = TrainerAccess::core(trainer).mesh;
  if constexpr (std::is_same_v<Form, LocalState>)
    return {StateShare::all, StateUnits::flats, mesh.world().size()};
  else
    // Of several copies of the model the first is saved; buffers are each rank's own.
    return {
        StateShare::own, StateUnits::parameters,
        model_has_buffers<typename Trainer::Model>() ? mesh.world().size() : mesh.shape().shards};
}

/// This rank's part of a checkpoint, being written.
template <class System, class Trainer>
class PartToSave {
  using M = typename Trainer::Model;
  using S = typename Trainer::Strategy;

 public:
  /// Whether this rank has one.
  static bool is_any(Trainer& trainer, const PartShape& shape) {
    return TrainerAccess::core(trainer).mesh.world().rank() < shape.parts;
  }

  PartToSave(Trainer& trainer, const PartShape& shape, const std::string& folder)
      : trainer_{&trainer},
        shape_{shape},
        state_{TrainerAccess::core(trainer), shape.units},
        file_{folder, part_name(TrainerAccess::core(trainer).mesh.world().rank(), shape.parts),
              lay_out_safetensors(describe())} {
    for (const DescribedStretch& described : state_.describe(shape_.share))
      places_.add(described.stretch, place_of(file_.header(), stored_name(described.stretch)));
  }

  /// Bytes of the state that lie in memory, which a snapshot has to hold.
  static std::size_t memory_bytes(Trainer& trainer, const PartShape& shape) {
    const KeptState<SwapAccess::reads, M, S> state{TrainerAccess::core(trainer), shape.units};
    std::size_t bytes = state.memory_bytes(shape.share);
    trainer.for_each_buffer(
        [&](const std::string&, auto values) { bytes += values.span().size_bytes(); });
    return bytes;
  }

  /// Calls `take(tensor, first byte, bytes, is on disk)` for all that is to be appended, in order.
  template <class Take>
  void visit(Take take) {
    state_.visit(shape_.share, [&](const StateStretch& stretch, auto values) {
      places_.find(stretch, [&](std::size_t place, std::size_t first) {
        take(place, first * sizeof(values[0]), std::as_bytes(values), stretch.is_on_disk);
      });
    });
    trainer_->for_each_buffer([&](const std::string& name, auto values) {
      take(place_of(file_.header(), buffer_name(name)), 0, std::as_bytes(values.span()), false);
    });
  }
  PartWriter<System>& file() { return file_; }

 private:
  std::vector<TensorToStore> describe() {
    std::vector<TensorToStore> tensors;
    using P = typename S::precision;
    for (const auto& [stretch, count, element_bytes, dtype] : state_.describe(shape_.share)) {
      const std::string_view name =
          dtype == StateDtype::storage   ? stored_dtype_name<typename P::storage>
          : dtype == StateDtype::compute ? stored_dtype_name<typename P::compute>
                                         : stored_dtype_name<typename P::optimizer>;
      tensors.push_back({stored_name(stretch), name, {count}});
    }
    trainer_->for_each_buffer([&](const std::string& name, auto values) {
      using B = typename std::remove_reference_t<decltype(values.span())>::value_type;
      tensors.push_back({buffer_name(name), stored_dtype_name<B>, {values.count()}});
    });
    return tensors;
  }

  Trainer* trainer_;
  PartShape shape_;
  KeptState<SwapAccess::reads, M, S> state_;
  PartWriter<System> file_;
  StretchPlaces places_;
};

/// Writes this rank's part; when it returns, the part is on the disk.
template <class System, class Trainer>
FileRecord write_part(Trainer& trainer, const PartShape& shape, const std::string& folder) {
  PartToSave<System, Trainer> part{trainer, shape, folder};
  part.visit([&](std::size_t tensor, std::size_t first, std::span<const std::byte> bytes, bool) {
    part.file().append(tensor, first, bytes);
  });
  return part.file().finish();
}

}  // namespace shardexpr::detail
