// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/nn/cuda/embedding_kernels.cuh>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/math.cuh>
#include <shardexpr/nn/cuda/token_order.cuh>
#include <shardexpr/nn/layer.hpp>
#include <shardexpr/nn/token.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <cuda_runtime.h>

// The embedding on a GPU; on a CPU it is nn/cpu/embedding.hpp.
namespace shardexpr::nn {

/// Copies a batch's tokens or targets to where the device reads them, as many as `copied` has.
///
/// Errors:  throws Error if one is negative or not below the vocabulary, here and now: no kernel
///          asks again.
/// Cost:    the host looks at each. It waits for nothing: of the host's ordinary memory CUDA takes
///          64 KiB at a time without.
/// Source:  CUDA C++ Programming Guide, Asynchronous Concurrent Execution.
template <KernelDevice D>
const std::int32_t* bring_tokens(const LayerContext<D>& on, const std::int32_t* tokens,
                                 std::size_t vocabulary, Tensor<std::int32_t> copied) {
  constexpr std::size_t most = (std::size_t{64} << 10) / sizeof(std::int32_t);
  const std::span<const std::int32_t> all{tokens, copied.count()};
  for (const std::int32_t token : all) detail::checked_token(token, vocabulary);
  on.enqueue(reads(all), writes(copied), [&](cudaStream_t stream) {
    for (std::size_t at = 0; at < all.size(); at += most) {
      const auto part = all.subspan(at, std::min(most, all.size() - at));
      shardexpr::detail::cuda_check(cudaMemcpyAsync(copied.data + at, part.data(),
                                                    part.size_bytes(), cudaMemcpyDefault, stream),
                                    "copy tokens");
    }
  });
  return copied.data;
}
/// What `bring_tokens` brought before.
template <KernelDevice D>
const std::int32_t* brought_tokens(const LayerContext<D>&, const std::int32_t* /*tokens*/,
                                   Tensor<std::int32_t> copied) {
  return copied.data;
}

/// Computes y = the token's row of wte + the position's row of wpe.
///
/// Shapes:  tokens (B, T), as `bring_tokens` returned them; wte (V, C), wpe (>= T, C), y (B, T, C).
template <KernelDevice D, detail::KernelDtype T>
void embedding_forward(const LayerContext<D>& on, const std::int32_t* tokens, In<T> wte, In<T> wpe,
                       Tensor<T> y) {
  const std::size_t context = y.shape[1], width = y.shape[2], count = y.shape[0] * context;
  detail::launch(on, reads(std::span{tokens, count}, wte, wpe), writes(y), "start the embedding",
                 {.x = detail::pieces_of(count, detail::embedding_threads / detail::warp_threads),
                  .threads = detail::embedding_threads},
                 detail::rows_are_aligned(width, wte.data, wpe.data, y.data)
                     ? detail::add_embeddings<T, true>
                     : detail::add_embeddings<T, false>,
                 tokens, wte.data, wpe.data, y.data, count, context, static_cast<unsigned>(width));
}

/// Adds the gradients of both tables, each left out where its data is null.
///
/// Shapes:  dy (B, T, C), dwte (V, C), dwpe (>= T, C); scratch as `embedding_scratch` says.
/// Order:   a row is summed in fp32, in the order of the batch, and added once. That of a token is
///          summed in stretches, which the batch's tokens decide.
/// Cost:    three kernels for each 8 bits of the vocabulary, then two that read dy once.
template <KernelDevice D, class X, class G>
  requires detail::KernelDtype<std::remove_const_t<X>>
void embedding_backward(const LayerContext<D>& on, const std::int32_t* tokens, Tensor<X> dy,
                        Tensor<G> dwte, Tensor<G> dwpe, const EmbeddingScratch<Tensor>& scratch) {
  using T = std::remove_const_t<X>;
  using detail::launch;
  const std::size_t context = dy.shape[1], width = dy.shape[2], count = dy.shape[0] * context;
  const T* const from = dy.data;
  const auto columns = static_cast<unsigned>(width);
  const std::size_t blocks_of_width =
      detail::pieces_of(width, detail::embedding_threads * detail::pack_count<T>);
  if (dwpe.data != nullptr) {
    const Tensor<G> used{dwpe.data, shape(context, width)};
    launch(on, reads(dy, used), writes(used), "start the gradient of positions",
           {.x = context, .y = blocks_of_width, .threads = detail::embedding_threads},
           detail::rows_are_aligned(width, from) && detail::rows_are_aligned(width, dwpe.data)
               ? detail::add_position_gradients<T, G, true>
               : detail::add_position_gradients<T, G, false>,
           from, dy.shape[0], context, columns, dwpe.data);
  }
  if (dwte.data == nullptr) return;

  const auto order = detail::order_by_token(on, tokens, count, dwte.shape[0], scratch);
  const std::size_t stretches = detail::pieces_of(count, embedding_stretch);
  const auto sums =
      detail::part_of_scratch(scratch.sums, shape(stretches, 2, width), "the embedding's backward");
  const bool aligned = detail::rows_are_aligned(width, from) &&
                       detail::rows_are_aligned(width, dwte.data) &&
                       detail::rows_are_aligned(width, sums.data);
  const std::span all{tokens, count};
  const detail::Grid grid{
      .x = stretches, .y = blocks_of_width, .threads = detail::embedding_threads};
  launch(
      on, reads(all, order, dy, dwte), writes(dwte, sums), "start the gradient of tokens", grid,
      aligned ? detail::add_token_gradients<T, G, true> : detail::add_token_gradients<T, G, false>,
      tokens, order.data, from, count, columns, dwte.data, sums.data);
  launch(on, reads(all, order, sums, dwte), writes(dwte), "start the gradient of long tokens", grid,
         aligned ? detail::add_long_token_gradients<T, G, true>
                 : detail::add_long_token_gradients<T, G, false>,
         tokens, order.data, count, columns, static_cast<const float*>(sums.data), dwte.data);
}

}  // namespace shardexpr::nn
