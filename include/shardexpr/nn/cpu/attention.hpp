// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/loop.hpp>
#include <shardexpr/nn/cpu/math.hpp>
#include <shardexpr/nn/cpu/product.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
#include <shardexpr/nn/layer.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

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

// Where scores lie when they are multiplied: rounded to T, or as they are if T is as wide.
template <class T>
T* scores_to_multiply(const AttentionScratch<Tensor, T>& scratch) {
  if constexpr (std::is_same_v<T, Accumulate<T>>)
    return scratch.scores.data;
  else
    return scratch.rounded.data;
}

template <class T>
void attend(const AttentionSizes& s, const T* q, const T* k, const T* v,
            const AttentionScratch<Tensor, T>& scratch, Accumulate<T>* lse, T* out) {
  using A = Accumulate<T>;
  const A scale = 1 / std::sqrt(static_cast<A>(s.head));
  A* const scores = scratch.scores.data;
  T* const p = scores_to_multiply(scratch);
  for (std::size_t at = 0; at < s.context; at += attention_rows) {
    const std::size_t rows = std::min(attention_rows, s.context - at);
    const std::size_t keys = at + rows;  // no row of this block sees further
    multiply<Into::set>(Rows<const T>{q + at * s.stride, rows, s.head, s.stride},
                        transposed(Rows<const T>{k, keys, s.head, s.stride}),
                        Rows<A>{scores, rows, keys, s.context});
    for (std::size_t r = 0; r < rows; ++r) {
      A* row = scores + r * s.context;
      T* p_row = p + r * s.context;
      const std::size_t seen = at + r + 1;
      const A largest = max_of(row, seen);
      exp_row(row, seen, scale, largest * scale);
      const A sum = sum_of(row, seen);
      scale_row(row, seen, 1 / sum, p_row);  // in place, where p is the scores
      for (std::size_t c = seen; c < keys; ++c) p_row[c] = T{};
      lse[at + r] = multiply_add(largest, scale, std::log(sum));
    }
    multiply<Into::set>(Rows<const T>{p, rows, keys, s.context},
                        Rows<const T>{v, keys, s.head, s.stride},
                        Rows<T>{out + at * s.embed, rows, s.head, s.embed});
  }
}

// Where the gradient of one head's k or v is summed: in scratch, or where it belongs if T is as
// wide as a sum.
template <class T>
Rows<Accumulate<T>> key_gradient(const AttentionSizes& s,
                                 const AttentionScratch<Tensor, T>& scratch, std::size_t which,
                                 T* dk) {
  if constexpr (std::is_same_v<T, Accumulate<T>>)
    return {dk, s.context, s.head, s.stride};
  else
    return {scratch.key_gradients.data + which * s.context * s.head, s.context, s.head, s.head};
}
template <class A>
Rows<A> first_rows(const Rows<A>& a, std::size_t count) {
  return {a.data, count, a.columns, a.stride};
}
template <class T>
void store_key_gradient(const AttentionSizes& s, const Rows<Accumulate<T>>& sum, T* dk) {
  if constexpr (!std::is_same_v<T, Accumulate<T>>)
    for (std::size_t r = 0; r < sum.rows; ++r)
      for (std::size_t c = 0; c < sum.columns; ++c)
        dk[r * s.stride + c] = static_cast<T>(sum.data[r * sum.stride + c]);
}

// One row of backward: from scores and dp, the gradient of probabilities, the probabilities p and
// the gradient of the scores, ds, both as they are multiplied. They may lie where scores and dp do.
template <class T>
void attend_backward_row(Accumulate<T>* scores, const Accumulate<T>* dp, std::size_t seen,
                         std::size_t keys, Accumulate<T> scale, Accumulate<T> lse,
                         Accumulate<T> mean, T* p, T* ds) {
  exp_row(scores, seen, scale, lse);
  shardexpr::detail::for_independent(
      seen, [=](std::size_t c) __attribute__((always_inline)) {
        ds[c] = static_cast<T>(scores[c] * (dp[c] - mean) * scale);
        if constexpr (!std::is_same_v<T, Accumulate<T>>) p[c] = static_cast<T>(scores[c]);
      });
  for (std::size_t c = seen; c < keys; ++c) p[c] = ds[c] = T{};
}

template <class T>
void attend_backward(const AttentionSizes& s, const T* q, const T* k, const T* v,
                     const Accumulate<T>* lse, const T* out, const T* dout,
                     const AttentionScratch<Tensor, T>& scratch, T* dq, T* dk, T* dv) {
  using A = Accumulate<T>;
  const A scale = 1 / std::sqrt(static_cast<A>(s.head));
  A* const scores = scratch.scores.data;
  A* const dp = scores + attention_rows * s.context;
  T* const p = scores_to_multiply(scratch);
  T* const ds = p + attention_rows * s.context;
  const Rows<A> dk_sum = key_gradient(s, scratch, 0, dk), dv_sum = key_gradient(s, scratch, 1, dv);
  // From the last block to the first: the last one sees every key, so it writes dk and dv whole
  // and nothing has to be zeroed before.
  const std::size_t blocks = ceil_div(s.context, attention_rows);
  for (std::size_t block = blocks; block-- > 0;) {
    const std::size_t at = block * attention_rows;
    const std::size_t rows = std::min(attention_rows, s.context - at);
    const std::size_t keys = at + rows;
    const Rows<const T> q_rows{q + at * s.stride, rows, s.head, s.stride};
    const Rows<const T> k_rows{k, keys, s.head, s.stride}, v_rows{v, keys, s.head, s.stride};
    const Rows<const T> dout_rows{dout + at * s.embed, rows, s.head, s.embed};
    multiply<Into::set>(q_rows, transposed(k_rows), Rows<A>{scores, rows, keys, s.context});
    multiply<Into::set>(dout_rows, transposed(v_rows), Rows<A>{dp, rows, keys, s.context});
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t row = r * s.context, seen = at + r + 1, offset = (at + r) * s.embed;
      const A mean = dot_of(dout + offset, out + offset, s.head);  // sum of p dp over the row
      attend_backward_row(scores + row, dp + row, seen, keys, scale, lse[at + r], mean, p + row,
                          ds + row);
    }
    const Rows<const T> p_rows{p, rows, keys, s.context}, ds_rows{ds, rows, keys, s.context};
    if (block + 1 == blocks) {
      multiply<Into::set>(transposed(p_rows), dout_rows, first_rows(dv_sum, keys));
      multiply<Into::set>(transposed(ds_rows), q_rows, first_rows(dk_sum, keys));
    } else {
      multiply<Into::add>(transposed(p_rows), dout_rows, first_rows(dv_sum, keys));
      multiply<Into::add>(transposed(ds_rows), q_rows, first_rows(dk_sum, keys));
    }
    multiply<Into::set>(ds_rows, k_rows, Rows<T>{dq + at * s.stride, rows, s.head, s.stride});
  }
  store_key_gradient(s, dk_sum, dk);
  store_key_gradient(s, dv_sum, dv);
}

}  // namespace detail

/// Computes causal self-attention: out = softmax(q k^T / sqrt(head)) v, each row seeing itself and
/// what comes before it.
///
/// Shapes:  qkv (B, T, 3 C): q, k, v side by side, each `heads` heads of C / heads; out (B, T, C);
///          lse (B, heads, T), the log of each row's sum of exponentials, kept for backward;
///          scratch as `attention_scratch` says.
/// Cost:    4 * B * C FLOPs for each pair of a row and a key up to its block's end; the (T, T)
///          matrix of probabilities is never whole in memory. With 16-bit T, scores and softmax are
///          fp32; probabilities are rounded to be multiplied by v, as are both in backward.
/// Source:  Dao et al., FlashAttention, NeurIPS 2022: keep lse, compute probabilities again.
template <HostDevice D, class T>
void attention_forward(const Context<D>& ctx, In<T> qkv, std::size_t heads,
                       const AttentionScratch<Tensor, std::type_identity_t<T>>& scratch,
                       Tensor<Accumulate<T>> lse, Tensor<T> out) {
  ctx.run(reads(qkv), writes(scratch.scores, scratch.rounded, lse, out), [=] {
    const detail::AttentionSizes s{qkv, heads};
    for (std::size_t b = 0; b < s.batch; ++b)
      for (std::size_t h = 0; h < heads; ++h) {
        const T* q = qkv.data + s.qkv_at(b, h);
        detail::attend(s, q, q + s.embed, q + 2 * s.embed, scratch,
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
                        In<T> out, In<T> dout,
                        const AttentionScratch<Tensor, std::type_identity_t<T>>& scratch,
                        Tensor<T> dqkv) {
  ctx.run(reads(qkv, lse, out, dout),
          writes(scratch.scores, scratch.rounded, scratch.key_gradients, dqkv), [=] {
            const detail::AttentionSizes s{qkv, heads};
            for (std::size_t b = 0; b < s.batch; ++b)
              for (std::size_t h = 0; h < heads; ++h) {
                const T* q = qkv.data + s.qkv_at(b, h);
                T* dq = dqkv.data + s.qkv_at(b, h);
                detail::attend_backward(s, q, q + s.embed, q + 2 * s.embed,
                                        lse.data + (b * heads + h) * s.context,
                                        out.data + s.out_at(b, h), dout.data + s.out_at(b, h),
                                        scratch, dq, dq + s.embed, dq + 2 * s.embed);
              }
          });
}

}  // namespace shardexpr::nn
