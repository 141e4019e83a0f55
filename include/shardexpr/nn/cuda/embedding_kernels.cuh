// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/cuda/reduce.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>
#include <cstdint>

// Kernels of the embedding.
namespace shardexpr::nn::detail {

inline constexpr unsigned embedding_threads = 128;

/// A warp adds the rows of one place of the batch.
template <class T, bool Aligned>
__global__ void __launch_bounds__(embedding_threads)
    add_embeddings(const std::int32_t* __restrict__ tokens, const T* __restrict__ wte,
                   const T* __restrict__ wpe, T* __restrict__ y, std::size_t count,
                   std::size_t context, unsigned width) {
  constexpr unsigned pack = pack_count<T>;
  const std::size_t i =
      std::size_t{blockIdx.x} * (embedding_threads / warp_threads) + threadIdx.x / warp_threads;
  if (i >= count) return;
  const T* word = wte + static_cast<std::size_t>(tokens[i]) * width;
  const T* place = wpe + i % context * width;
  for (unsigned at = threadIdx.x % warp_threads * pack; at < width; at += warp_threads * pack) {
    float sum[pack], other[pack];
    load_values<Aligned>(word, width, at, sum);
    load_values<Aligned>(place, width, at, other);
    SHARDEXPR_UNROLL
    for (unsigned c = 0; c < pack; ++c) sum[c] += other[c];
    store_values<Aligned>(y + i * width, width, at, sum);
  }
}

/// dwpe: a block has columns of one position, and sums them over the batch.
template <class T, class G, bool Aligned>
__global__ void __launch_bounds__(embedding_threads)
    add_position_gradients(const T* __restrict__ dy, std::size_t batch, std::size_t context,
                           unsigned width, G* __restrict__ dwpe) {
  constexpr unsigned pack = pack_count<T>;
  const unsigned at = (blockIdx.y * embedding_threads + threadIdx.x) * pack;
  if (at >= width) return;
  float sum[pack] = {};
  for (std::size_t b = 0; b < batch; ++b) {
    float row[pack];
    load_values<Aligned>(dy + (b * context + blockIdx.x) * width, width, at, row);
    SHARDEXPR_UNROLL
    for (unsigned c = 0; c < pack; ++c) sum[c] += row[c];
  }
  add_values<Aligned>(dwpe + std::size_t{blockIdx.x} * width, width, at, sum);
}

/// dwte: a block has columns of a stretch of the ordered places. It sums those of each token. A
/// token whose places all lie in the stretch is done; the sum of one that goes on is kept in sums
/// (stretches, 2, width): first that of a token that the stretch before has too, then that of one
/// that begins here.
template <class T, class G, bool Aligned>
__global__ void __launch_bounds__(embedding_threads)
    add_token_gradients(const std::int32_t* tokens, const std::int32_t* order, const T* dy,
                        std::size_t count, unsigned width, G* dwte, float* sums) {
  constexpr unsigned pack = pack_count<T>, stretch = embedding_stretch, at_once = 4;
  __shared__ std::int32_t place[stretch], token[stretch + 2];  // token: one before, one behind
  const std::size_t first = std::size_t{blockIdx.x} * stretch;
  const auto length = static_cast<unsigned>(count - first < stretch ? count - first : stretch);
  for (unsigned t = threadIdx.x; t < length + 2; t += embedding_threads) {
    const bool is_there = first + t > 0 && first + t <= count;
    const std::int32_t its_place = is_there ? order[first + t - 1] : 0;
    token[t] = is_there ? tokens[its_place] : -1;
    if (t > 0 && t <= length) place[t - 1] = its_place;
  }
  __syncthreads();
  const unsigned at = (blockIdx.y * embedding_threads + threadIdx.x) * pack;
  if (at >= width) return;

  float sum[pack] = {};
  bool began_before = token[0] == token[1];
  for (unsigned k = 0; k < length; k += at_once) {
    RowPack<T> rows[at_once];
    SHARDEXPR_UNROLL
    for (unsigned u = 0; u < at_once; ++u)
      if (k + u < length)
        rows[u] =
            load_pack<Aligned>(dy + static_cast<std::size_t>(place[k + u]) * width, width, at);
    SHARDEXPR_UNROLL
    for (unsigned u = 0; u < at_once; ++u) {
      const unsigned i = k + u;
      if (i >= length) continue;
      float row[pack];
      widen(rows[u], row);
      SHARDEXPR_UNROLL
      for (unsigned c = 0; c < pack; ++c) sum[c] += row[c];
      const std::int32_t mine = token[i + 1];
      const bool goes_on = token[i + 2] == mine;
      if (goes_on && i + 1 < length) continue;
      if (goes_on || began_before)
        store_values<Aligned>(sums + (std::size_t{blockIdx.x} * 2 + (began_before ? 0 : 1)) * width,
                              width, at, sum);
      else
        add_values<Aligned>(dwte + static_cast<std::size_t>(mine) * width, width, at, sum);
      began_before = false;
      SHARDEXPR_UNROLL
      for (unsigned c = 0; c < pack; ++c) sum[c] = 0;
    }
  }
}

/// The rest of dwte: a block has columns of the token that begins in a stretch and goes on behind
/// it, if there is one.
template <class T, class G, bool Aligned>
__global__ void __launch_bounds__(embedding_threads)
    add_long_token_gradients(const std::int32_t* tokens, const std::int32_t* order,
                             std::size_t count, unsigned width, const float* sums, G* dwte) {
  constexpr unsigned pack = pack_count<T>, stretch = embedding_stretch;
  const std::size_t stretches = (count + stretch - 1) / stretch, mine = blockIdx.x;
  if (mine + 1 >= stretches) return;
  const auto token_at = [=](std::size_t i) { return tokens[order[i]]; };
  const std::size_t behind = (mine + 1) * stretch;
  const std::int32_t token = token_at(behind - 1);
  if (token_at(behind) != token) return;
  if (token_at(mine * stretch) == token && mine > 0 && token_at(mine * stretch - 1) == token)
    return;  // began before

  // The first stretch behind that begins with another token: those between begin with this one.
  std::size_t low = mine + 2, high = stretches;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (token_at(middle * stretch) == token)
      low = middle + 1;
    else
      high = middle;
  }
  const unsigned at = (blockIdx.y * embedding_threads + threadIdx.x) * pack;
  if (at >= width) return;
  float sum[pack];
  load_values<Aligned>(sums + (mine * 2 + 1) * width, width, at, sum);
  for (std::size_t s = mine + 1; s < low; ++s) {
    float more[pack];
    load_values<Aligned>(sums + s * 2 * width, width, at, more);
    SHARDEXPR_UNROLL
    for (unsigned c = 0; c < pack; ++c) sum[c] += more[c];
  }
  add_values<Aligned>(dwte + static_cast<std::size_t>(token) * width, width, at, sum);
}

}  // namespace shardexpr::nn::detail
