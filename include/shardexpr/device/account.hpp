// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <string_view>

namespace shardexpr {

/// What a buffer is for. Plans and accounts are kept in these terms.
enum class Purpose : std::size_t {
  parameters,      ///< what a rank keeps of the parameters between steps
  gradients,       ///< what a rank keeps of the reduced gradients
  optimizer,       ///< moments
  gathered,        ///< full parameters of units while they are gathered
  resharded,       ///< what ReshardTo keeps of units between forward and backward
  full_gradients,  ///< full gradients of units until they are reduced
  activations,     ///< what flows between units, what they save, and their scratch
  transfers,       ///< what waits between two places
  other,
};
/// How many purposes there are.
inline constexpr std::size_t purpose_count = 9;
/// Their names, in the same order.
inline constexpr std::array<std::string_view, purpose_count> purpose_names{
    "parameters",     "gradients",   "optimizer", "gathered", "resharded",
    "full_gradients", "activations", "transfers", "other"};

/// Bytes that one rank holds on one place, by purpose, and the most it ever held.
/// Units: bytes as asked for, without the allocator's own rounding.
class MemoryAccount {
 public:
  /// Charges an allocation.
  void add(Purpose purpose, std::size_t size_bytes) {
    live_[static_cast<std::size_t>(purpose)] += size_bytes;
    total_ += size_bytes;
    ++allocations_;
    if (total_ > peak_) peak_ = total_;
  }
  /// Gives back what `add` charged.
  void remove(Purpose purpose, std::size_t size_bytes) {
    live_[static_cast<std::size_t>(purpose)] -= size_bytes;
    total_ -= size_bytes;
  }

  /// Held now, for one purpose.
  std::size_t live_bytes(Purpose purpose) const { return live_[static_cast<std::size_t>(purpose)]; }
  /// Held now, for all purposes.
  std::size_t live_bytes() const { return total_; }
  /// Held now, of what a rank keeps between steps: parameters, gradients, optimizer state.
  std::size_t resident_bytes() const {
    return live_bytes(Purpose::parameters) + live_bytes(Purpose::gradients) +
           live_bytes(Purpose::optimizer);
  }
  /// The most that was ever held at once.
  std::size_t peak_bytes() const { return peak_; }
  /// Calls of `add` so far.
  std::size_t allocation_count() const { return allocations_; }

 private:
  std::array<std::size_t, purpose_count> live_{};
  std::size_t total_ = 0, peak_ = 0, allocations_ = 0;
};

}  // namespace shardexpr
