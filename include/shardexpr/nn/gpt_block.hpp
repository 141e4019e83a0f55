// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/cpu/layers.hpp>
#include <shardexpr/nn/gpt_config.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstddef>

namespace shardexpr::gpt {

/// How far a residual projection starts from zero: 0.02 / sqrt(2 layers), so that the sum of all
/// residual branches has the variance of one.
///
/// Source:  Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3.
constexpr float residual_deviation(std::size_t layers) {
  const double square = 2.0 * static_cast<double>(layers);
  double root = square;  // Newton's steps fall until they are exact; std::sqrt is not constexpr
  for (double next = (root + 1) / 2; next < root; next = (root + square / root) / 2) root = next;
  return static_cast<float>(0.02 / root);
}

/// A transformer block: x += attention(norm(x)), then x += mlp(norm(x)).
struct Block {
  using Config = GptConfig;
  using Batch = GptBatch;
  static constexpr Name prefix = "transformer.h.#.";

  /// By Hugging Face's names, `.` written `_`.
  template <class T>
  struct Params {
    T ln_1_weight, ln_1_bias;
    T attn_weight, attn_bias;  ///< q, k, v side by side
    T attn_proj_weight, attn_proj_bias;
    T ln_2_weight, ln_2_bias;
    T fc_weight, fc_bias;
    T mlp_proj_weight, mlp_proj_bias;
  };
  /// Biases and norms do not decay.
  static constexpr Params<Spec> describe(const Config& c) {
    const std::size_t n = c.embed;
    const Init residual = normal(residual_deviation(c.layers));
    return {.ln_1_weight = without_decay({"ln_1.weight", shape(n), ones}),
            .ln_1_bias = without_decay({"ln_1.bias", shape(n), zeros}),
            .attn_weight = {"attn.c_attn.weight", shape(n, 3 * n), normal(0.02f)},
            .attn_bias = without_decay({"attn.c_attn.bias", shape(3 * n), zeros}),
            .attn_proj_weight = {"attn.c_proj.weight", shape(n, n), residual},
            .attn_proj_bias = without_decay({"attn.c_proj.bias", shape(n), zeros}),
            .ln_2_weight = without_decay({"ln_2.weight", shape(n), ones}),
            .ln_2_bias = without_decay({"ln_2.bias", shape(n), zeros}),
            .fc_weight = {"mlp.c_fc.weight", shape(n, 4 * n), normal(0.02f)},
            .fc_bias = without_decay({"mlp.c_fc.bias", shape(4 * n), zeros}),
            .mlp_proj_weight = {"mlp.c_proj.weight", shape(4 * n, n), residual},
            .mlp_proj_bias = without_decay({"mlp.c_proj.bias", shape(n), zeros})};
  }

  template <template <class> class Of, class T>
  using Input = Hidden<Of, T>;
  template <template <class> class Of, class T>
  using Output = Hidden<Of, T>;
  template <class T>
  static constexpr Output<BufferSpec, T> output(const Config& c) {
    return hidden<T>(c);
  }

  /// Nine embeddings' width a token, and statistics. What costs a pass and no product (both norms'
  /// output, gelu's) is computed again in backward.
  template <template <class> class Of, class T>
  struct Saved {
    Of<Accumulate<T>> mean_1, rstd_1;
    Of<T> qkv;
    Of<Accumulate<T>> lse;
    Of<T> attended;
    Of<T> middle;  ///< x after attention
    Of<Accumulate<T>> mean_2, rstd_2;
    Of<T> fc;  ///< before gelu; in backward what gelu_rebuild leaves there
  };
  template <class T>
  static constexpr Saved<BufferSpec, T> saved(const Config& c) {
    const Shape rows = shape(c.batch, c.context);
    return {.mean_1 = rows,
            .rstd_1 = rows,
            .qkv = shape(c.batch, c.context, 3 * c.embed),
            .lse = shape(c.batch, c.heads, c.context),
            .attended = shape(c.batch, c.context, c.embed),
            .middle = shape(c.batch, c.context, c.embed),
            .mean_2 = rows,
            .rstd_2 = rows,
            .fc = shape(c.batch, c.context, 4 * c.embed)};
  }

  /// What a pass needs within itself.
  template <template <class> class Of, class T>
  struct Scratch {
    Of<T> narrow;  ///< a norm's output; in backward also gradients of that width
    Of<T> wide;    ///< gelu's output; in backward also dfc, then dqkv
    nn::AttentionScratch<Of, T> attention;
    nn::LayerScratch<Of> layers;
  };
  template <class T, class D>
  static constexpr Scratch<BufferSpec, T> scratch(const Config& c) {
    return {.narrow = shape(c.batch, c.context, c.embed),
            .wide = shape(c.batch, c.context, 4 * c.embed),
            .attention = nn::attention_scratch<T, D>(c.context, c.embed / c.heads),
            .layers = nn::layer_scratch<D>(c.tokens(), 4 * c.embed, c.heads)};
  }

  /// Multiplications and additions of the matrix products, attention's for the pairs that causality
  /// admits. Norms, gelu and softmax are left out. Backward does twice as many.
  static constexpr double forward_flops(const Config& c) {
    const double rows = static_cast<double>(c.tokens()), n = static_cast<double>(c.embed);
    return 24 * rows * n * n + 2 * rows * n * static_cast<double>(c.context + 1);
  }

  template <class D, class T>
  static void forward(const Forward<Block, D, T>& p) {
    const auto& [narrow, wide, scratch, layers] = p.scratch;
    const auto& s = p.saved;
    const auto& w = p.w;
    const nn::LayerContext<D> on{p.context, layers};
    layer_norm_forward(on, p.in.x, w.ln_1_weight, w.ln_1_bias, s.mean_1, s.rstd_1, narrow);
    linear_forward(on, narrow, w.attn_weight, w.attn_bias, s.qkv);
    attention_forward(on, s.qkv, p.config.heads, scratch, s.lse, s.attended);
    linear_residual_forward(on, p.in.x, s.attended, w.attn_proj_weight, w.attn_proj_bias, s.middle);
    layer_norm_forward(on, s.middle, w.ln_2_weight, w.ln_2_bias, s.mean_2, s.rstd_2, narrow);
    linear_gelu_forward(on, narrow, w.fc_weight, w.fc_bias, s.fc, wide);
    linear_residual_forward(on, s.middle, wide, w.mlp_proj_weight, w.mlp_proj_bias, p.out.x);
  }

  template <class D, class T, class G>
  static void backward(const Backward<Block, D, T, G>& p) {
    const auto& [narrow, wide, scratch, layers] = p.scratch;
    const auto& s = p.saved;
    const auto& w = p.w;
    const auto& dw = p.dw;
    const nn::LayerContext<D> on{p.context, layers};
    const auto& dx = p.din.x;  // first the gradient of the middle, then that of the input

    gelu_rebuild(on, s.fc, wide);
    linear_backward_params(on, wide, p.dout.x, dw.mlp_proj_weight, dw.mlp_proj_bias);
    linear_gelu_backward_input(on, p.dout.x, w.mlp_proj_weight, s.fc, wide);
    layer_norm_recompute(on, s.middle, w.ln_2_weight, w.ln_2_bias, s.mean_2, s.rstd_2, narrow);
    linear_backward_params(on, narrow, wide, dw.fc_weight, dw.fc_bias);
    linear_backward_input(on, wide, w.fc_weight, narrow);
    layer_norm_residual_backward(on, s.middle, w.ln_2_weight, s.mean_2, s.rstd_2, narrow, p.dout.x,
                                 dw.ln_2_weight, dw.ln_2_bias, dx);

    const Tensor<T> dqkv{wide.data, s.qkv.shape};
    linear_backward_params(on, s.attended, dx, dw.attn_proj_weight, dw.attn_proj_bias);
    linear_backward_input(on, dx, w.attn_proj_weight, narrow);
    attention_backward(on, s.qkv, p.config.heads, s.lse, s.attended, narrow, scratch, dqkv);
    layer_norm_recompute(on, p.in.x, w.ln_1_weight, w.ln_1_bias, s.mean_1, s.rstd_1, narrow);
    linear_backward_params(on, narrow, dqkv, dw.attn_weight, dw.attn_bias);
    linear_backward_input(on, dqkv, w.attn_weight, narrow);
    layer_norm_residual_backward(on, p.in.x, w.ln_1_weight, s.mean_1, s.rstd_1, narrow, dx,
                                 dw.ln_1_weight, dw.ln_1_bias, dx);
  }
};

}  // namespace shardexpr::gpt
