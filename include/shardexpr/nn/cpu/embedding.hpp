// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
#include <shardexpr/nn/layer.hpp>
#include <shardexpr/nn/token.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace shardexpr::nn {

namespace detail {
// One row of a table's gradient: to += the sum of the rows of `from` that `next` names, from row
// `first` on, until it names `end`. Summed in A a stretch of columns at a time, rounded once.
template <class A, class T, class G, class Next>
void add_rows_named(const T* from, std::size_t width, std::size_t first, std::size_t end,
                    const Next& next, G* to) {
  constexpr std::size_t columns = 1024;
  A sum[columns];
  for (std::size_t at = 0; at < width; at += columns) {
    const std::size_t count = std::min(width - at, columns);
    for (std::size_t c = 0; c < count; ++c) sum[c] = to[at + c];
    for (std::size_t i = first; i < end; i = next(i)) {
      const T* row = from + i * width + at;
      for (std::size_t c = 0; c < count; ++c) sum[c] += row[c];
    }
    for (std::size_t c = 0; c < count; ++c) to[at + c] = static_cast<G>(sum[c]);
  }
}

// Gradients of 16 bits: each row of both tables is summed whole before it is rounded. The rows of
// one token are found by comparing, so that no scratch grows with batch or vocabulary.
template <class A, class T, class G>
void add_embedding_rounded(const std::int32_t* tokens, std::size_t count, std::size_t context,
                           const T* dy, Tensor<G> dwte, Tensor<G> dwpe) {
  const std::size_t width = dwte.shape[1];
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t token = tokens[i];
    const std::size_t row = checked_token(token, dwte.shape[0]);
    if (std::find(tokens, tokens + i, token) != tokens + i) continue;  // was summed at its first
    const auto next = [=](std::size_t at) {
      return static_cast<std::size_t>(std::find(tokens + at + 1, tokens + count, token) - tokens);
    };
    add_rows_named<A>(dy, width, i, count, next, dwte.data + row * width);
  }
  for (std::size_t place = 0; place < context; ++place) {
    const auto next = [=](std::size_t at) { return at + context; };
    add_rows_named<A>(dy, width, place, count, next, dwpe.data + place * width);
  }
}
}  // namespace detail

/// Where a device reads a batch's tokens or targets: on a host, where they are. A device with
/// memory of its own copies them; so the unit keeps `copied`, as `batch_copy` says, from forward to
/// backward.
template <HostDevice D>
const std::int32_t* bring_tokens(const Context<D>&, const std::int32_t* tokens,
                                 std::size_t /*vocabulary*/, Tensor<std::int32_t> /*copied*/) {
  return tokens;
}
/// What `bring_tokens` brought before.
template <HostDevice D>
const std::int32_t* brought_tokens(const Context<D>&, const std::int32_t* tokens,
                                   Tensor<std::int32_t> /*copied*/) {
  return tokens;
}

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
      for (std::size_t c = 0; c < width; ++c) to[c] = static_cast<T>(word[c] + place[c]);
    }
  });
}

/// Adds the gradients of both tables.
///
/// Shapes:  dy (B, T, C), dwte (V, C), dwpe (>= T, C).
/// Order:   rows are added in the order of the batch: a token that occurs twice sums reproducibly.
/// Cost:    gradients narrower than fp32 are summed in fp32, a table's row at a time, and rounded
///          once, however often a token occurs. No scratch grows with batch or vocabulary for that;
///          the tokens are compared with each other instead, at most (B * T)^2 times.
template <HostDevice D, class X, class G>
void embedding_backward(const Context<D>& ctx, const std::int32_t* tokens, Tensor<X> dy,
                        Tensor<G> dwte, Tensor<G> dwpe, const EmbeddingScratch<Tensor>& = {}) {
  using A = Accumulate<std::remove_const_t<X>>;
  const std::size_t context = dy.shape[1], width = dy.shape[2], count = dy.shape[0] * context;
  ctx.run(reads(std::span{tokens, count}, dy, dwte, dwpe), writes(dwte, dwpe), [=] {
    if constexpr (sizeof(G) < sizeof(A)) {
      detail::add_embedding_rounded<A>(tokens, count, context, dy.data, dwte, dwpe);
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        const X* from = dy.data + i * width;
        G* __restrict__ word = dwte.data + detail::checked_token(tokens[i], dwte.shape[0]) * width;
        G* __restrict__ place = dwpe.data + i % context * width;
        for (std::size_t c = 0; c < width; ++c) {
          word[c] += from[c];
          place[c] += from[c];
        }
      }
    }
  });
}

}  // namespace shardexpr::nn
