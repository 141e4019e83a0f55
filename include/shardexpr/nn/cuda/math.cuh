// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/nn/cuda/convert.cuh>
#include <shardexpr/nn/cuda/launch.cuh>

#include <cstddef>
#include <cstdint>
#include <string>

// Rows as kernels read and write them: 16 bytes an access where rows lie so, and in fp32 between.
// What a thread gets does not depend on where a row lies, so that neither do sums.
namespace shardexpr::nn::detail {

/// Elements that are moved by one access of 16 bytes: four of fp32, eight of 16 bits.
template <KernelDtype T>
struct alignas(16) RowPack {
  static constexpr unsigned count = 16 / sizeof(T);
  std::uint32_t words[4];
};

/// The most elements that any dtype has in a pack, for code that is the same for all.
template <KernelDtype T>
inline constexpr unsigned pack_count = RowPack<T>::count;

template <class T>
__device__ inline void widen(const RowPack<T>& pack, float (&to)[pack_count<T>]) {
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4)
      to[i] = __builtin_bit_cast(float, pack.words[i]);
    else
      widen_two<T>(pack.words[i], to[2 * i], to[2 * i + 1]);
  }
}
template <class T>
__device__ inline RowPack<T> rounded(const float (&from)[pack_count<T>]) {
  RowPack<T> pack;
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4)
      pack.words[i] = __builtin_bit_cast(std::uint32_t, from[i]);
    else
      pack.words[i] = round_two<T>(from[2 * i], from[2 * i + 1]);
  }
  return pack;
}

/// The elements from `at` on, a multiple of the pack's count, of a row of `n`. `Aligned`: the row
/// is at a multiple of 16 bytes, and the whole pack within it. If not, `beyond` stands for what
/// lies behind the row's end.
template <bool Aligned, class T>
__device__ inline RowPack<T> load_pack(const T* row, unsigned n, unsigned at, float beyond = 0) {
  if constexpr (Aligned) {
    return *reinterpret_cast<const RowPack<T>*>(row + at);
  } else {
    float values[pack_count<T>];
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < pack_count<T>; ++i)
      values[i] = at + i < n ? static_cast<float>(row[at + i]) : beyond;
    return rounded<T>(values);
  }
}
template <bool Aligned, class T>
__device__ inline void store_pack(T* row, unsigned n, unsigned at, const RowPack<T>& pack) {
  if constexpr (Aligned) {
    *reinterpret_cast<RowPack<T>*>(row + at) = pack;
  } else {
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < pack_count<T>; ++i) {
      if (at + i >= n) continue;
      if constexpr (sizeof(T) == 4)
        row[at + i] = __builtin_bit_cast(float, pack.words[i]);
      else
        row[at + i].bits = static_cast<std::uint16_t>(pack.words[i / 2] >> (16 * (i % 2)));
    }
  }
}

/// The same in fp32, for N elements: one pack of T or several.
template <bool Aligned, class T, unsigned N>
__device__ inline void load_values(const T* row, unsigned n, unsigned at, float (&to)[N],
                                   float beyond = 0) {
  constexpr unsigned count = pack_count<T>;
  static_assert(N % count == 0);
  SHARDEXPR_UNROLL
  for (unsigned first = 0; first < N; first += count) {
    float part[count];
    widen(load_pack<Aligned>(row, n, at + first, beyond), part);
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) to[first + i] = part[i];
  }
}
template <bool Aligned, class T, unsigned N>
__device__ inline void store_values(T* row, unsigned n, unsigned at, const float (&from)[N]) {
  constexpr unsigned count = pack_count<T>;
  static_assert(N % count == 0);
  SHARDEXPR_UNROLL
  for (unsigned first = 0; first < N; first += count) {
    float part[count];
    SHARDEXPR_UNROLL
    for (unsigned i = 0; i < count; ++i) part[i] = from[first + i];
    store_pack<Aligned>(row, n, at + first, rounded<T>(part));
  }
}
template <bool Aligned, class T, unsigned N>
__device__ inline void add_values(T* row, unsigned n, unsigned at, const float (&from)[N]) {
  float sum[N];
  load_values<Aligned>(row, n, at, sum);
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < N; ++i) sum[i] += from[i];
  store_values<Aligned>(row, n, at, sum);
}

/// e^x: of what the argument is off, x times a rounding and a half, and two of the instruction.
__device__ inline float exp_approximately(float x) { return two_to(x * 1.44269504f); }

/// Whether all these rows, `stride` elements apart, lie at multiples of 16 bytes.
template <class... T>
bool rows_are_aligned(std::size_t stride, const T*... data) {
  return ((reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride * sizeof(T) % 16 == 0) &&
          ...);
}

/// As much of a kernel's scratch as is needed; `what` needs it.
/// Errors:  throws DeviceError where there is less.
template <class T>
Tensor<T> part_of_scratch(const Tensor<T>& scratch, Shape needed, const char* what) {
  if (needed.count() > scratch.count())
    throw DeviceError(std::string{what} + " needs " + std::to_string(needed.count()) +
                      " numbers of scratch, not " + std::to_string(scratch.count()) +
                      ": describe it for the largest batch and width");
  return {scratch.data, needed};
}

/// In how many pieces of that size these lie.
constexpr std::size_t pieces_of(std::size_t count, std::size_t size) {
  return (count + size - 1) / size;
}

}  // namespace shardexpr::nn::detail
