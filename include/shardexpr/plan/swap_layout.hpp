// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/plan/places.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace shardexpr::detail {

/// A file is read and written in blocks of this many bytes; what lies in it begins at one.
inline constexpr std::size_t swap_block_bytes = 65536;

constexpr std::size_t in_blocks(std::size_t count, std::size_t element_bytes) {
  return round_up(count * element_bytes, swap_block_bytes);
}

/// Where one rank's state lies in its file, and how large the pieces are that pass through memory.
/// Of each flat a region a kind: parameters in compute dtype, in storage dtype, moments, gradients.
template <class Strategy>
class SwapLayout {
  using Precision = typename Strategy::precision;
  using Optimizer = typename Strategy::optimizer;
  static constexpr bool copies = computes_with_copy<Precision>;
  static constexpr std::size_t compute_bytes = sizeof(typename Precision::compute);
  static constexpr std::size_t storage_bytes = sizeof(typename Precision::storage);
  static constexpr std::size_t moment_bytes = sizeof(typename Precision::optimizer);
  static constexpr std::size_t gradient_bytes = sizeof(typename Precision::gradient);

 public:
  static constexpr bool has_optimizer = optimizer_place<Strategy> == Place::nvme;
  static constexpr bool has_parameters = parameters_place<Strategy> == Place::nvme;

  /// Of one flat, in bytes from the file's begin.
  struct Regions {
    std::size_t parameters = 0, masters = 0, moments = 0, gradients = 0;
    std::size_t moment_stride = 0;
  };
  /// A piece of what is updated, counted in elements of its flat's updated ones.
  struct Chunk {
    std::size_t flat = 0, first = 0, count = 0;
  };
  /// Where things lie in the memory that a chunk passes through; `shadow` is what was updated, in
  /// compute dtype. Units: bytes.
  struct Sections {
    std::size_t masters = 0, moments = 0, moment_stride = 0, gradients = 0, shadow = 0, end = 0;
  };

  constexpr SwapLayout() = default;
  constexpr explicit SwapLayout(const std::vector<KeptFlat>& kept) {
    std::size_t largest = 0;
    bool has_shadow = false;
    for (const KeptFlat& flat : kept) {
      Regions regions;
      if (flat.parameters_place == Place::nvme) {
        regions.parameters = end_;
        end_ += in_blocks(flat.parameters, compute_bytes);
        parameter_bytes_ = std::max(parameter_bytes_, in_blocks(flat.parameters, compute_bytes));
      }
      if (has_optimizer && flat.away != 0) {
        // One region serves as both where parameters are kept there in storage dtype.
        regions.masters = regions.parameters;
        if (flat.has_away_masters) {
          regions.masters = end_;
          end_ += in_blocks(flat.away, storage_bytes);
        }
        regions.moments = end_;
        regions.moment_stride = in_blocks(flat.away, moment_bytes);
        end_ += Optimizer::moments * regions.moment_stride;
        regions.gradients = end_;
        end_ += in_blocks(flat.away, gradient_bytes);
        largest = std::max(largest, flat.away);
        has_shadow = has_shadow || (copies && flat.parameters_place != Place::host);
      }
      regions_.push_back(regions);
    }
    if (largest == 0) return;
    chunk_ = std::min(chunk_of<typename Strategy::offload::optimizer>, largest);
    for (std::size_t f = 0; f < kept.size(); ++f)
      for (std::size_t first = 0; first < kept[f].away; first += chunk_)
        chunks_.push_back({f, first, std::min(chunk_, kept[f].away - first)});
    sections_.moments = in_blocks(chunk_, storage_bytes);
    sections_.moment_stride = in_blocks(chunk_, moment_bytes);
    sections_.gradients = sections_.moments + Optimizer::moments * sections_.moment_stride;
    sections_.shadow = sections_.gradients + in_blocks(chunk_, gradient_bytes);
    sections_.end = sections_.shadow + (has_shadow ? in_blocks(chunk_, compute_bytes) : 0);
  }

  constexpr std::size_t size_bytes() const { return end_; }
  constexpr const Regions& regions(std::size_t f) const { return regions_[f]; }
  constexpr const std::vector<Chunk>& chunks() const { return chunks_; }
  constexpr const Sections& sections() const { return sections_; }
  /// Of the largest flat's parameters.
  constexpr std::size_t parameter_bytes() const { return parameter_bytes_; }
  /// Of a chunk's gradients.
  constexpr std::size_t gradient_section_bytes() const {
    return sections_.shadow - sections_.gradients;
  }

  // Of one step, in bytes: what an update reads and writes of a chunk, what its gradients are.
  static constexpr std::size_t chunk_read_bytes(std::size_t count) {
    return chunk_state_bytes(count) + chunk_gradient_bytes(count);
  }
  static constexpr std::size_t chunk_state_bytes(std::size_t count) {
    return in_blocks(count, storage_bytes) + Optimizer::moments * in_blocks(count, moment_bytes);
  }
  static constexpr std::size_t chunk_gradient_bytes(std::size_t count) {
    return in_blocks(count, gradient_bytes);
  }

 private:
  std::vector<Regions> regions_;
  std::vector<Chunk> chunks_;
  Sections sections_;
  std::size_t end_ = 0, chunk_ = 0, parameter_bytes_ = 0;
};

/// Memory that the rank's transfers pass through, and what they move in a step.
struct TransferCounts {
  // On the device, in elements: reduced gradients on their way down, parameters on their way up,
  // and what was updated there in compute dtype.
  std::size_t landing_elements = 0, upload_elements = 0, shadow_elements = 0;
  // On the host, the first two in elements: gradients on their way, what was updated; then in
  // bytes: parameters of a flat, a chunk of state, the gradients of a chunk.
  std::size_t host_landing_elements = 0, host_shadow_elements = 0;
  std::size_t parameter_slot_bytes = 0, chunk_slot_bytes = 0, gradient_slot_bytes = 0;
  // Of one step.
  std::size_t to_device_bytes = 0, to_host_bytes = 0, read_bytes = 0, written_bytes = 0;
};

}  // namespace shardexpr::detail
