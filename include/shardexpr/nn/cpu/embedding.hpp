// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/nn/cpu/matrix.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace shardexpr::nn {

namespace detail {
// A token as an index, once it is known to be one.
inline std::size_t checked_token(std::int32_t token, std::size_t vocabulary) {
  if (token < 0 || static_cast<std::size_t>(token) >= vocabulary)
    throw Error("token " + std::to_string(token) + " is outside the vocabulary of " +
                std::to_string(vocabulary) + ": tokenize with the vocabulary of the config");
  return static_cast<std::size_t>(token);
}
}  // namespace detail

/// Computes y = the token's row of wte + the position's row of wpe.
///
/// Shapes:  tokens (B, T), wte (V, C), wpe (>= T, C), y (B, T, C).
/// Errors:  throws Error if a token is negative or not below V.
template <HostDevice D, class T>
void embedding_forward(const Context<D>& ctx, const std::int32_t* tokens, In<T> wte, In<T> wpe,
                       Tensor<T> y) {
  const std::size_t context = y.shape[1], width = y.shape[2], count = y.shape[0] * context;
  ctx.run(reads(std::span{tokens, count}, wte, wpe), writes(y), [=] {
    for (std::size_t i = 0; i < count; ++i) {
      const T* word = wte.data + detail::checked_token(tokens[i], wte.shape[0]) * width;
      const T* place = wpe.data + i % context * width;
      T* __restrict__ to = y.data + i * width;
      for (std::size_t c = 0; c < width; ++c) to[c] = word[c] + place[c];
    }
  });
}

/// Adds the gradients of both tables.
///
/// Shapes:  dy (B, T, C), dwte (V, C), dwpe (>= T, C).
/// Order:   rows are added in the order of the batch: a token that occurs twice sums reproducibly.
template <HostDevice D, class T>
void embedding_backward(const Context<D>& ctx, const std::int32_t* tokens, In<T> dy, Tensor<T> dwte,
                        Tensor<T> dwpe) {
  const std::size_t context = dy.shape[1], width = dy.shape[2], count = dy.shape[0] * context;
  ctx.run(reads(std::span{tokens, count}, dy, dwte, dwpe), writes(dwte, dwpe), [=] {
    for (std::size_t i = 0; i < count; ++i) {
      const T* from = dy.data + i * width;
      T* __restrict__ word = dwte.data + detail::checked_token(tokens[i], dwte.shape[0]) * width;
      T* __restrict__ place = dwpe.data + i % context * width;
      for (std::size_t c = 0; c < width; ++c) {
        word[c] += from[c];
        place[c] += from[c];
      }
    }
  });
}

}  // namespace shardexpr::nn
