// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/cpu/layers.hpp>
#include <shardexpr/nn/gpt_config.hpp>
#include <shardexpr/nn/gpt_embedding.hpp>
#include <shardexpr/nn/layer.hpp>

namespace shardexpr::gpt {

/// The last unit of a GPT: norm, the classifier that shares the embedding's table, cross-entropy.
struct Head {
  using Config = GptConfig;
  using Batch = GptBatch;
  static constexpr Name prefix = "transformer.";

  template <class T>
  struct Params {
    T ln_f_weight, ln_f_bias;
    T wte;
  };
  /// The norm does not decay; the table, an embedding, does.
  static constexpr Params<Spec> describe(const Config& c) {
    return {.ln_f_weight = without_decay({"ln_f.weight", shape(c.embed), ones}),
            .ln_f_bias = without_decay({"ln_f.bias", shape(c.embed), zeros}),
            .wte = tied<Embedding>("wte.weight")};
  }

  template <template <class> class Of, class T>
  using Input = Hidden<Of, T>;
  /// The mean over the batch's tokens, in nats.
  template <template <class> class Of, class T>
  struct Output {
    Of<Accumulate<T>> loss;
  };
  template <class T>
  static constexpr Output<BufferSpec, T> output(const Config&) {
    return {.loss = Shape{}};
  }

  template <template <class> class Of, class T>
  struct Saved {
    Of<Accumulate<T>> mean, rstd;
    Of<T> error;  // logits, until the loss turns them into softmax minus one-hot
  };
  template <class T>
  static constexpr Saved<BufferSpec, T> saved(const Config& c) {
    return {.mean = shape(c.batch, c.context),
            .rstd = shape(c.batch, c.context),
            .error = shape(c.batch, c.context, c.vocabulary)};
  }

  template <template <class> class Of, class T>
  struct Scratch {
    Of<T> norm;  // in backward also its gradient
  };
  template <class T>
  static constexpr Scratch<BufferSpec, T> scratch(const Config& c) {
    return {.norm = shape(c.batch, c.context, c.embed)};
  }

  /// Multiplications and additions of the classifier's product. Backward does twice as many.
  static constexpr double forward_flops(const Config& c) {
    return 2 * static_cast<double>(c.tokens()) * static_cast<double>(c.embed) *
           static_cast<double>(c.vocabulary);
  }

  template <class D, class T>
  static void forward(const Forward<Head, D, T>& p) {
    const nn::LayerContext<D> on{p.context};
    const auto& norm = p.scratch.norm;
    const auto& s = p.saved;
    layer_norm_forward(on, p.in.x, p.w.ln_f_weight, p.w.ln_f_bias, s.mean, s.rstd, norm);
    classifier_forward(on, norm, p.w.wte, s.error);
    cross_entropy_forward(on, s.error, p.batch.targets, p.out.loss);
  }
  template <class D, class T, class G>
  static void backward(const Backward<Head, D, T, G>& p) {
    const nn::LayerContext<D> on{p.context};
    const auto& norm = p.scratch.norm;
    const auto& s = p.saved;
    layer_norm_recompute(on, p.in.x, p.w.ln_f_weight, p.w.ln_f_bias, s.mean, s.rstd, norm);
    classifier_backward(on, s.error, p.dout.loss, norm, p.w.wte, p.dw.wte, norm);
    layer_norm_backward(on, p.in.x, p.w.ln_f_weight, s.mean, s.rstd, norm, p.dw.ln_f_weight,
                        p.dw.ln_f_bias, p.din.x);
  }
};

}  // namespace shardexpr::gpt
