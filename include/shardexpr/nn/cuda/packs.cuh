// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cuda_kernels.cuh>
#include <shardexpr/nn/cuda/launch.cuh>

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

// Element-wise kernels that read and write 16 bytes at a time.
namespace shardexpr::nn::detail {

/// What a thread loads or stores at once.
template <class T>
struct alignas(16) Pack {
  static constexpr std::size_t width = 16 / sizeof(T);
  T element[width];
};

template <class... T>
bool are_packs(const T*... data) {
  return ((reinterpret_cast<std::uintptr_t>(data) % 16 == 0) && ...);
}

template <class T>
SHARDEXPR_HOST_DEVICE inline Pack<T> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T>*>(from);
}
template <class T>
SHARDEXPR_HOST_DEVICE inline void store_pack(T* to, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(to) = pack;
}

/// y = op(a) or op(a, b), computed in fp32; one call for each pack. y may be a or b.
template <class T, class Op, std::size_t inputs>
struct MapPacks {
  const T* in[inputs];
  T* out;
  std::size_t count;
  bool are_aligned;

  static std::size_t packs(std::size_t count) { return ceil_div(count, Pack<T>::width); }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    constexpr std::size_t width = Pack<T>::width;
    const std::size_t first = i * width;
    if (are_aligned && first + width <= count) {
      Pack<T> from[inputs], to;
      for (std::size_t n = 0; n < inputs; ++n) from[n] = load_pack(in[n] + first);
      for (std::size_t e = 0; e < width; ++e)
        if constexpr (inputs == 1)
          to.element[e] = static_cast<T>(Op{}(static_cast<float>(from[0].element[e])));
        else
          to.element[e] = static_cast<T>(
              Op{}(static_cast<float>(from[0].element[e]), static_cast<float>(from[1].element[e])));
      store_pack(out + first, to);
    } else {
      for (std::size_t at = first; at < first + width && at < count; ++at)
        if constexpr (inputs == 1)
          out[at] = static_cast<T>(Op{}(static_cast<float>(in[0][at])));
        else
          out[at] =
              static_cast<T>(Op{}(static_cast<float>(in[0][at]), static_cast<float>(in[1][at])));
    }
  }
};

template <class Op, class T>
MapPacks<T, Op, 1> map_packs(const T* a, T* y, std::size_t count) {
  return {{a}, y, count, are_packs(a, static_cast<const T*>(y))};
}
template <class Op, class T>
MapPacks<T, Op, 2> map_packs(const T* a, const T* b, T* y, std::size_t count) {
  return {{a, b}, y, count, are_packs(a, b, static_cast<const T*>(y))};
}

/// Enqueues it behind what a library has enqueued on a stream.
template <class T, class Op, std::size_t inputs>
void enqueue_map(cudaStream_t stream, const char* what, const MapPacks<T, Op, inputs>& map) {
  constexpr unsigned threads = shardexpr::detail::cuda_block_threads;
  const std::size_t packs = map.packs(map.count);
  if (packs == 0) return;
  shardexpr::detail::cuda_launch(stream, static_cast<unsigned>(ceil_div(packs, threads)), threads,
                                 what, shardexpr::detail::run_each<MapPacks<T, Op, inputs>>, map,
                                 packs);
}

}  // namespace shardexpr::nn::detail
