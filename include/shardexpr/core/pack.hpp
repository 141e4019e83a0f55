// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>

// Consecutive elements that one instruction loads or stores. A GPU reaches its memory's speed only
// with wide accesses, and with many of them under way: what is computed element by element is run
// there a pack at a time, and all that a pack reads is asked for before anything is computed.
namespace shardexpr::detail {

/// What an instruction of a GPU moves at most.
inline constexpr std::size_t pack_bytes = 16;

/// N elements, aligned to all of them.
template <class T, std::size_t N>
struct alignas(N * sizeof(T)) [[gnu::may_alias]] Pack {
  T value[N];
};

template <std::size_t N, class T>
SHARDEXPR_HOST_DEVICE Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <class T, std::size_t N>
SHARDEXPR_HOST_DEVICE void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// Elements of a pack where arrays of `T...` are walked together: the widest dtype moves 16 bytes,
/// the others fewer, so that what neighbouring threads touch is one stretch in every array. 1: no
/// packs.
template <class... T>
inline constexpr std::size_t pack_elements_of = pack_bytes % std::max({sizeof(T)...}) == 0
                                                    ? pack_bytes / std::max({sizeof(T)...})
                                                    : 1;

/// Whether arrays begin where packs may.
template <std::size_t N, class... T>
bool begin_packs(const T*... at) {
  return (... && (reinterpret_cast<std::uintptr_t>(at) % (N * sizeof(T)) == 0));
}

/// A functor that can be run for the `pack_elements` elements from `first` on, by
/// `finish(first, load(first))`: to the bits of as many calls, one an element. `load` reads all
/// that elements differ in and writes nothing, so that several may come before the first `finish`.
/// The host asks `can_pack()`.
template <class F>
concept PackFunctor = requires(const F& functor, std::size_t first) {
  requires F::pack_elements >
  1;
  { functor.can_pack() } -> std::same_as<bool>;
  functor.finish(first, functor.load(first));
};

/// Packs that a thread of a GPU has under way at once: some 64 bytes, with what the other threads
/// of a multiprocessor have enough to hide the way to memory. A functor whose `load` loops says
/// `packs_at_once` itself.
template <PackFunctor F>
inline constexpr std::size_t packs_at_once = [] {
  if constexpr (requires { F::packs_at_once; })
    return F::packs_at_once;
  else
    return std::clamp<std::size_t>(
        64 / sizeof(decltype(std::declval<const F&>().load(std::size_t{}))), 1, 4);
}();

}  // namespace shardexpr::detail
