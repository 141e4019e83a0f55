// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/matrix.hpp>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace shardexpr::nn {

namespace detail {

// One head of one sequence: rows of q, k, v are `3 C` apart, rows of the output `C`.
struct AttentionSizes {
  std::size_t batch, context, heads, embed, head, stride;

  template <class T>
  AttentionSizes(const Tensor<T>& qkv, std::size_t heads_)
      : batch{qkv.shape[0]},
        context{qkv.shape[1]},
        heads{heads_},
        embed{qkv.shape[2] / 3},
        head{embed / heads_},
        stride{qkv.shape[2]} {}

  std::size_t qkv_at(std::size_t b, std::size_t h) const { return b * context * stride + h * head; }
  std::size_t out_at(std::size_t b, std::size_t h) const { return b * context * embed + h * head; }
};

template <class T>
void attend(const AttentionSizes& s, const T* q, const T* k, const T* v, T* scores,
            Accumulate<T>* lse, T* out) {
  const T scale = 1 / std::sqrt(static_cast<T>(s.head));
  for (std::size_t at = 0; at < s.context; at += attention_rows) {
    const std::size_t rows = std::min(attention_rows, s.context - at);
    const std::size_t keys = at + rows;  // no row of this block sees further
    auto p = matrix(scores, rows, keys, s.context);
    p.noalias() = matrix(q + at * s.stride, rows, s.head, s.stride) *
                  matrix(k, keys, s.head, s.stride).transpose();
    for (std::size_t r = 0; r < rows; ++r) {
      T* row = scores + r * s.context;
      const std::size_t seen = at + r + 1;
      const T largest = max_of(row, seen);
      exp_row(row, seen, scale, largest * scale);
      const T sum = sum_of(row, seen);
      scale_row(row, seen, 1 / sum);
      for (std::size_t c = seen; c < keys; ++c) row[c] = 0;
      lse[at + r] = multiply_add(largest, scale, std::log(sum));
    }
    matrix(out + at * s.embed, rows, s.head, s.embed).noalias() =
        p * matrix(v, keys, s.head, s.stride);
  }
}

template <class T>
void attend_backward(const AttentionSizes& s, const T* q, const T* k, const T* v,
                     const Accumulate<T>* lse, const T* out, const T* dout, T* scores, T* dscores,
                     T* dq, T* dk, T* dv) {
  const T scale = 1 / std::sqrt(static_cast<T>(s.head));
  // From the last block to the first: the last one sees every key, so it writes dk and dv whole
  // and nothing has to be zeroed before.
  const std::size_t blocks = ceil_div(s.context, attention_rows);
  for (std::size_t block = blocks; block-- > 0;) {
    const std::size_t at = block * attention_rows;
    const std::size_t rows = std::min(attention_rows, s.context - at);
    const std::size_t keys = at + rows;
    const auto q_rows = matrix(q + at * s.stride, rows, s.head, s.stride);
    const auto k_rows = matrix(k, keys, s.head, s.stride);
    const auto v_rows = matrix(v, keys, s.head, s.stride);
    const auto dout_rows = matrix(dout + at * s.embed, rows, s.head, s.embed);
    auto p = matrix(scores, rows, keys, s.context);
    auto dp = matrix(dscores, rows, keys, s.context);
    p.noalias() = q_rows * k_rows.transpose();
    dp.noalias() = dout_rows * v_rows.transpose();
    for (std::size_t r = 0; r < rows; ++r) {
      T* __restrict__ row = scores + r * s.context;
      T* __restrict__ drow = dscores + r * s.context;
      const std::size_t seen = at + r + 1;
      const std::size_t offset = (at + r) * s.embed;
      const T mean = dot_of(dout + offset, out + offset, s.head);  // sum of p dp over the row
      exp_row(row, seen, scale, lse[at + r]);
      for (std::size_t c = 0; c < seen; ++c) drow[c] = row[c] * (drow[c] - mean) * scale;
      for (std::size_t c = seen; c < keys; ++c) row[c] = drow[c] = 0;
    }
    auto dk_rows = matrix(dk, keys, s.head, s.stride);
    auto dv_rows = matrix(dv, keys, s.head, s.stride);
    if (block + 1 == blocks) {
      dv_rows.noalias() = p.transpose() * dout_rows;
      dk_rows.noalias() = dp.transpose() * q_rows;
    } else {
      dv_rows.noalias() += p.transpose() * dout_rows;
      dk_rows.noalias() += dp.transpose() * q_rows;
    }
    matrix(dq + at * s.stride, rows, s.head, s.stride).noalias() = dp * k_rows;
  }
}

}  // namespace detail

/// Computes causal self-attention: out = softmax(q k^T / sqrt(head)) v, each row seeing itself and
/// what comes before it.
///
/// Shapes:  qkv (B, T, 3 C): q, k, v side by side, each `heads` heads of C / heads; out (B, T, C);
///          lse (B, heads, T), the log of each row's sum of exponentials, kept for backward; scores
///          (2, attention_rows, T), scratch.
/// Cost:    4 * B * C FLOPs for each pair of a row and a key up to its block's end; the (T, T)
///          matrix of probabilities is never whole in memory.
/// Source:  Dao et al., FlashAttention, NeurIPS 2022: keep lse, compute probabilities again.
template <HostDevice D, class T>
void attention_forward(const Context<D>& ctx, In<T> qkv, std::size_t heads, Tensor<T> scores,
                       Tensor<Accumulate<T>> lse, Tensor<T> out) {
  ctx.run(reads(qkv), writes(scores, lse, out), [=] {
    const detail::AttentionSizes s{qkv, heads};
    for (std::size_t b = 0; b < s.batch; ++b)
      for (std::size_t h = 0; h < heads; ++h) {
        const T* q = qkv.data + s.qkv_at(b, h);
        detail::attend(s, q, q + s.embed, q + 2 * s.embed, scores.data,
                       lse.data + (b * heads + h) * s.context, out.data + s.out_at(b, h));
      }
  });
}

/// Writes the gradient of q, k and v.
///
/// Shapes:  dout (B, T, C), dqkv (B, T, 3 C); the others as in `attention_forward`.
/// Cost:    2.5 times the FLOPs of forward: the scores are computed again.
template <HostDevice D, class T>
void attention_backward(const Context<D>& ctx, In<T> qkv, std::size_t heads, In<Accumulate<T>> lse,
                        In<T> out, In<T> dout, Tensor<T> scores, Tensor<T> dqkv) {
  ctx.run(reads(qkv, lse, out, dout), writes(scores, dqkv), [=] {
    const detail::AttentionSizes s{qkv, heads};
    T* const dscores = scores.data + attention_rows * s.context;
    for (std::size_t b = 0; b < s.batch; ++b)
      for (std::size_t h = 0; h < heads; ++h) {
        const T* q = qkv.data + s.qkv_at(b, h);
        T* dq = dqkv.data + s.qkv_at(b, h);
        detail::attend_backward(s, q, q + s.embed, q + 2 * s.embed,
                                lse.data + (b * heads + h) * s.context, out.data + s.out_at(b, h),
                                dout.data + s.out_at(b, h), scores.data, dscores, dq, dq + s.embed,
                                dq + 2 * s.embed);
      }
  });
}

}  // namespace shardexpr::nn
