// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/device/label.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace shardexpr::detail {

enum class Collective : std::size_t {
  all_gather,
  gather,
  gather_buffer,
  reduction_buffer,
  reduce_scatter,
  all_reduce,
  broadcast,
  all_to_all,
  barrier,
  split,
};
inline constexpr std::array<std::string_view, 10> collective_names{
    "all_gather", "gather",    "gather_buffer", "reduction_buffer", "reduce_scatter",
    "all_reduce", "broadcast", "all_to_all",    "barrier",          "split"};

/// Element types whose sums are formed.
template <class T>
concept Summable = std::is_same_v<T, std::int64_t> ||(dtype_name<T> != "unknown");

/// What sums of `T` are formed in. Integers stay exact.
template <class T>
using SumOf = std::conditional_t<std::is_integral_v<T>, T, Accumulate<T>>;

template <class T>
constexpr std::string_view element_name() {
  if constexpr (dtype_name<T> != "unknown")
    return dtype_name<T>;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return "int64";
  else if constexpr (std::is_same_v<T, std::byte>)
    return "byte";
  else
    return raw_type_name<T>();
}

/// One rank's call of a collective, as its peers compare it and as errors write it.
struct Call {
  Collective collective{};
  std::size_t sequence = 0;     // of the communicator, from 1
  std::string_view dtype = {};  // empty: the call has no elements
  std::size_t count = 0;        // of a shard, a piece, or of values
  Reduction reduction = Reduction::sum;
  std::size_t root = 0;
  std::size_t unit = Label::no_unit;  // whom it serves, where somebody said so
  const void* shared = nullptr;       // memory that every rank must name alike

  friend bool operator==(const Call&, const Call&) = default;

  std::string text() const {
    std::string text{collective_names[static_cast<std::size_t>(collective)]};
    text += " #" + std::to_string(sequence);
    if (!dtype.empty()) (text += " of " + std::to_string(count) + " ") += dtype;
    if (collective == Collective::reduce_scatter || collective == Collective::all_reduce)
      text += reduction == Reduction::sum ? " (sum)" : " (mean)";
    if (collective == Collective::broadcast) text += " from root " + std::to_string(root);
    if (unit != Label::no_unit) text += " for unit " + std::to_string(unit);
    if (shared != nullptr)
      text += " into buffer " + std::to_string(reinterpret_cast<std::uintptr_t>(shared));
    return text;
  }

  [[noreturn]] void refuse(const std::string& why) const { throw ConfigError(text() + ": " + why); }
};

/// A call on `count` elements of `T`.
template <class T>
Call call_of(Collective collective, std::size_t sequence, std::size_t count,
             std::size_t unit = Label::no_unit) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {.collective = collective,
          .sequence = sequence,
          .dtype = element_name<T>(),
          .count = count,
          .unit = unit};
}

/// Refuses `whole` unless it holds one piece a rank.
inline void check_pieces(const Call& call, std::size_t world, std::string_view name,
                         std::size_t whole, std::size_t piece) {
  if (whole == world * piece) return;
  call.refuse(std::string{name} + " has " + std::to_string(whole) + " elements, must have " +
              std::to_string(world) + " ranks x " + std::to_string(piece));
}

template <class T>
bool overlap(std::span<const T> a, std::span<const T> b) {
  const std::less<const T*> before;  // a total order, also between unrelated arrays
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) &&
         before(b.data(), a.data() + a.size());
}

/// Refuses `shard` when it overlaps `full` without being its slice `rank`, which is in place.
template <class T>
void check_in_place(const Call& call, std::span<const T> full, std::span<const T> shard,
                    std::size_t rank) {
  if (overlap(full, shard) && shard.data() != full.data() + rank * shard.size())
    call.refuse("shard and full overlap; in place means that shard is slice " +
                std::to_string(rank) + " of full");
}

template <class T>
void check_disjoint(const Call& call, std::span<const T> from, std::span<const T> to) {
  if (overlap(from, to)) call.refuse("from and to overlap");
}

template <class T>
void check_reduction(const Call& call) {
  if (std::is_integral_v<T> && call.reduction == Reduction::mean)
    call.refuse("integers have no mean; reduce with Reduction::sum");
}

inline void check_root(const Call& call, std::size_t world) {
  if (call.root >= world)
    call.refuse("root must be below the number of ranks, " + std::to_string(world));
}

}  // namespace shardexpr::detail
