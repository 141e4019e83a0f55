// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/cpu/layers.hpp>
#include <shardexpr/nn/gpt_config.hpp>
#include <shardexpr/nn/gpt_embedding.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstdint>

namespace shardexpr::gpt {

/// The last unit of a GPT: norm, the classifier that shares the embedding's table, cross-entropy.
struct Head {
  using Config = GptConfig;
  using Batch = GptBatch;
  static constexpr Name prefix = "transformer.";

  /// The last norm's, and the table, which is the embedding's.
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

  /// Statistics of the norm, and the loss's gradient.
  template <template <class> class Of, class T>
  struct Saved {
    Of<Accumulate<T>> mean, rstd;
    Of<T> error;               ///< logits, until the loss turns them into softmax minus one-hot
    Of<std::int32_t> targets;  ///< where the device has memory of its own
  };
  template <class T, class D>
  static constexpr Saved<BufferSpec, T> saved(const Config& c) {
    const Shape rows = shape(c.batch, c.context);
    return {.mean = rows,
            .rstd = rows,
            .error = shape(c.batch, c.context, nn::logits_stride<T, D>(c.vocabulary)),
            .targets = nn::batch_copy<D>(rows)};
  }

  /// What a pass needs within itself.
  template <template <class> class Of, class T>
  struct Scratch {
    Of<T> norm;  ///< in backward also its gradient
    nn::LayerScratch<Of> layers;
  };
  template <class T, class D>
  static constexpr Scratch<BufferSpec, T> scratch(const Config& c) {
    return {.norm = shape(c.batch, c.context, c.embed),
            .layers = nn::layer_scratch<D>(c.tokens(), 2 * c.embed)};
  }

  /// Multiplications and additions of the classifier's product. Backward does twice as many.
  static constexpr double forward_flops(const Config& c) {
    return 2 * static_cast<double>(c.tokens()) * static_cast<double>(c.embed) *
           static_cast<double>(c.vocabulary);
  }

  template <class D, class T>
  static void forward(const Forward<Head, D, T>& p) {
    const nn::LayerContext<D> on{p.context, p.scratch.layers};
    const auto& norm = p.scratch.norm;
    const auto& s = p.saved;
    layer_norm_forward(on, p.in.x, p.w.ln_f_weight, p.w.ln_f_bias, s.mean, s.rstd, norm);
    classifier_forward(on, norm, p.w.wte, s.error);
    const auto* targets = bring_tokens(on, p.batch.targets, p.config.vocabulary, s.targets);
    cross_entropy_forward(on, s.error, p.config.vocabulary, targets, p.out.loss);
  }
  template <class D, class T, class G>
  static void backward(const Backward<Head, D, T, G>& p) {
    const nn::LayerContext<D> on{p.context, p.scratch.layers};
    const auto& norm = p.scratch.norm;
    const auto& s = p.saved;
    layer_norm_recompute(on, p.in.x, p.w.ln_f_weight, p.w.ln_f_bias, s.mean, s.rstd, norm);
    classifier_backward(on, s.error, p.dout.loss, norm, p.w.wte, p.dw.wte, norm);
    layer_norm_backward(on, p.in.x, p.w.ln_f_weight, s.mean, s.rstd, norm, p.dw.ln_f_weight,
                        p.dw.ln_f_bias, p.din.x);
  }
};

}  // namespace shardexpr::gpt
