// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/mesh.hpp>
#include <shardexpr/comm/quantized.hpp>
#include <shardexpr/core/quantized_block.hpp>
#include <shardexpr/engine/gather_storage.hpp>
#include <shardexpr/plan/step_counts.hpp>

#include <cstddef>
#include <span>

namespace shardexpr::detail {

/// How parameters travel to units: in blocks of codes. Flats are gathered one after the other, on
/// one stream: room for the blocks of the longest is enough. What ReshardTo keeps are the codes of
/// values that were made from codes: the same ones, so that a regather gives a gather's bits.
template <class S, std::size_t bits = S::weight_compression::bits>
class ParameterWire {
  using T = typename S::precision::compute;
  using Comm = typename S::communicator;
  using Device = typename S::device;
  using Block = QuantizedBlock<bits>;

 public:
  /// What ReshardTo keeps, and how many elements each stands for.
  using Kept = Block;
  static constexpr std::size_t kept_elements = block_elements;

  ParameterWire(Device& device, Mesh<Comm>& mesh, const StepCounts& counts)
      : blocks_{device, mesh.shard(), block_count(counts.wire_elements)},
        regathered_{device, mesh, block_count(counts.rewire_elements)} {}

  /// This rank's part of a flat -> the flat.
  void gather(Comm& comm, const Context<Device>& on, std::span<const T> part, std::span<T> full) {
    const std::span<Block> all{blocks_.data(), block_count(full.size())};
    const std::size_t count = block_count(part.size());
    const std::span<Block> mine = all.subspan(comm.rank() * count, count);
    quantize(on, part, mine);
    gather_quantized(comm, on, std::span<const Block>{mine}, all, full);
  }
  /// This rank's 1/K of a gathered flat -> what it keeps.
  void keep(const Context<Device>& on, std::span<const T> slice, std::span<Kept> kept) {
    quantize(on, slice, kept);
  }
  /// What K ranks kept -> the flat.
  void regather(Comm& comm, const Context<Device>& on, std::span<const Kept> kept,
                std::span<T> full) {
    Block* all = blocks_.data();
    if constexpr (regathers_apart<S>) all = regathered_.data();
    gather_quantized(comm, on, kept, std::span{all, block_count(full.size())}, full);
  }

 private:
  GatherStorage<S, true, Block> blocks_;
  RegatherStorage<S, Block> regathered_;
};
/// As they are.
template <class S>
class ParameterWire<S, 0> {
  using T = typename S::precision::compute;
  using Comm = typename S::communicator;
  using Device = typename S::device;

 public:
  using Kept = T;
  static constexpr std::size_t kept_elements = 1;

  ParameterWire(Device&, Mesh<Comm>&, const StepCounts&) {}
  void gather(Comm& comm, const Context<Device>& on, std::span<const T> part, std::span<T> full) {
    comm.gather(on, part, full);
  }
  void keep(const Context<Device>& on, std::span<const T> slice, std::span<Kept> kept) {
    on.device.copy(on.stream, slice, kept);
  }
  void regather(Comm& comm, const Context<Device>& on, std::span<const Kept> kept,
                std::span<T> full) {
    comm.gather(on, kept, full);
  }
};

/// How full gradients travel to the ranks that keep their mean: in blocks of codes, flat by flat.
template <class S, std::size_t bits = S::gradient_compression::bits>
class GradientWire {
  using G = typename S::precision::reduce;
  using Comm = typename S::communicator;
  using Device = typename S::device;
  using Block = QuantizedBlock<bits>;

 public:
  GradientWire(Device& device, const StepCounts& counts)
      : sent_{device.template allocate<Block>(block_count(counts.gradient_wire_elements),
                                              Purpose::full_gradients)},
        received_{device.template allocate<Block>(block_count(counts.gradient_wire_elements),
                                                  Purpose::full_gradients)} {}

  /// A flat's full gradients -> the mean of this rank's part.
  void reduce_scatter(Comm& comm, const Context<Device>& on, std::span<const G> full,
                      std::span<G> part) {
    const std::size_t count = block_count(full.size());
    reduce_scatter_quantized(comm, on, full, part, sent_.span().first(count),
                             received_.span().first(count), Reduction::mean);
  }

 private:
  typename Device::template Buffer<Block> sent_, received_;
};
/// As they are.
template <class S>
class GradientWire<S, 0> {
  using G = typename S::precision::reduce;
  using Comm = typename S::communicator;
  using Device = typename S::device;

 public:
  GradientWire(Device&, const StepCounts&) {}
  void reduce_scatter(Comm& comm, const Context<Device>& on, std::span<const G> full,
                      std::span<G> part) {
    comm.reduce_scatter(on, full, part, Reduction::mean);
  }
};

}  // namespace shardexpr::detail
