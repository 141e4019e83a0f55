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
/// Parameters in compute dtype lie flat by flat. What is updated lies chunk by chunk, all kinds of
/// a chunk together, so that one is read and written in one piece.
template <class Strategy>
class SwapLayout {
  using Precision = typename Strategy::precision;
  static constexpr bool copies = computes_with_copy<Precision>;
  static constexpr std::size_t moments = Strategy::optimizer::moments;
  static constexpr std::size_t compute_bytes = sizeof(typename Precision::compute);
  static constexpr std::size_t storage_bytes = sizeof(typename Precision::storage);
  static constexpr std::size_t moment_bytes = sizeof(typename Precision::optimizer);
  static constexpr std::size_t gradient_bytes = sizeof(typename Precision::gradient);

 public:
  static constexpr bool has_optimizer = optimizer_place<Strategy> == Place::nvme;

  /// Of what is updated, `count` elements of a flat's from `first` on. In the file from `offset`
  /// on.
  struct Chunk {
    std::size_t flat = 0, first = 0, count = 0, offset = 0;
    /// Parameters in storage dtype are in the chunk; else they are those of the flat.
    bool has_masters = false;
  };
  /// Where the kinds of a chunk lie in memory, in bytes: masters, moments, gradients; then
  /// `shadow`, what was updated in compute dtype. In the file the same without the shadow, and
  /// without masters where the chunk has none.
  struct Sections {
    std::size_t moments = 0, moment_stride = 0, gradients = 0, shadow = 0, end = 0;
  };

  constexpr SwapLayout() = default;
  constexpr explicit SwapLayout(const std::vector<KeptFlat>& kept) {
    std::size_t most = 0;  // elements of a chunk
    for (const KeptFlat& flat : kept) {
      parameters_.push_back(end_);
      if (flat.parameters_place == Place::nvme) {
        const std::size_t bytes = in_blocks(flat.parameters, compute_bytes);
        end_ += bytes;
        parameter_bytes_ = std::max(parameter_bytes_, bytes);
      }
      if (!has_optimizer || flat.away == 0) continue;
      most = std::max(most, std::min(even(flat.away), flat.away));
      has_shadow_ = has_shadow_ || (copies && flat.parameters_place != Place::host);
    }
    for (std::size_t f = 0; has_optimizer && f < kept.size(); ++f)
      for (std::size_t first = 0; first < kept[f].away; first += even(kept[f].away)) {
        const std::size_t count = std::min(even(kept[f].away), kept[f].away - first);
        chunks_.push_back({f, first, count, end_, kept[f].has_away_masters});
        end_ += size_bytes(chunks_.back());
      }
    slot_bytes_ = sections(most).end;
    gradient_slot_bytes_ = in_blocks(most, gradient_bytes);
  }

  constexpr std::size_t size_bytes() const { return end_; }
  /// Where flat f's parameters begin in the file.
  constexpr std::size_t parameters(std::size_t f) const { return parameters_[f]; }
  constexpr const std::vector<Chunk>& chunks() const { return chunks_; }
  constexpr Sections sections(std::size_t count) const {
    Sections s;
    s.moments = in_blocks(count, storage_bytes);
    s.moment_stride = in_blocks(count, moment_bytes);
    s.gradients = s.moments + moments * s.moment_stride;
    s.shadow = s.gradients + in_blocks(count, gradient_bytes);
    s.end = s.shadow + (has_shadow_ ? in_blocks(count, compute_bytes) : 0);
    return s;
  }
  /// Where in memory what the file has of a chunk begins.
  constexpr std::size_t begin(const Chunk& chunk) const {
    return chunk.has_masters ? 0 : sections(chunk.count).moments;
  }
  constexpr std::size_t size_bytes(const Chunk& chunk) const {
    return sections(chunk.count).shadow - begin(chunk);
  }
  /// Where in the file its gradients begin.
  constexpr std::size_t gradients(const Chunk& chunk) const {
    return chunk.offset + sections(chunk.count).gradients - begin(chunk);
  }

  // Memory: of the largest flat's parameters, of a chunk, of a chunk's gradients.
  constexpr std::size_t parameter_slot_bytes() const { return parameter_bytes_; }
  constexpr std::size_t slot_bytes() const { return slot_bytes_; }
  constexpr std::size_t gradient_slot_bytes() const { return gradient_slot_bytes_; }

  // Of one step, in bytes: what an update reads of a chunk, what it writes, what its gradients are.
  constexpr std::size_t read_bytes(const Chunk& chunk) const {
    return sections(chunk.count).shadow;
  }
  constexpr std::size_t written_bytes(const Chunk& chunk) const {
    return sections(chunk.count).gradients;
  }
  constexpr std::size_t gradient_section_bytes(const Chunk& chunk) const {
    return in_blocks(chunk.count, gradient_bytes);
  }

 private:
  /// Elements of the chunks of a flat, in whole blocks of every kind, of which none has less than
  /// two bytes. They are alike: after a short one at the end the disk would be without work.
  static constexpr std::size_t even(std::size_t away) {
    constexpr std::size_t limit = chunk_of<typename Strategy::offload::optimizer>;
    const std::size_t chunks = (away + limit - 1) / limit;
    return round_up((away + chunks - 1) / chunks, chunk_step);
  }

  std::vector<std::size_t> parameters_;  // by flat
  std::vector<Chunk> chunks_;
  std::size_t end_ = 0, parameter_bytes_ = 0, slot_bytes_ = 0, gradient_slot_bytes_ = 0;
  bool has_shadow_ = false;
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
