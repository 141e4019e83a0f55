// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/cpu/layers.hpp>
#include <shardexpr/nn/gpt_config.hpp>
#include <shardexpr/nn/layer.hpp>

#include <cstdint>

namespace shardexpr::gpt {

/// The first unit of a GPT: the token's embedding plus the position's.
struct Embedding {
  using Config = GptConfig;
  using Batch = GptBatch;
  static constexpr Name prefix = "transformer.";

  /// The tables of tokens and of positions.
  template <class T>
  struct Params {
    T wte, wpe;
  };
  /// Both start from normal numbers, of deviation 0.02 and 0.01.
  static constexpr Params<Spec> describe(const Config& c) {
    return {.wte = {"wte.weight", shape(c.vocabulary, c.embed), normal(0.02f)},
            .wpe = {"wpe.weight", shape(c.context, c.embed), normal(0.01f)}};
  }

  template <template <class> class Of, class T>
  using Input = Nothing<Of, T>;
  template <template <class> class Of, class T>
  using Output = Hidden<Of, T>;
  template <class T>
  static constexpr Output<BufferSpec, T> output(const Config& c) {
    return hidden<T>(c);
  }

  /// What backward needs of the batch.
  template <template <class> class Of, class T>
  struct Saved {
    Of<std::int32_t> tokens;  ///< where the device has memory of its own
  };
  template <class T, class D>
  static constexpr Saved<BufferSpec, T> saved(const Config& c) {
    return {.tokens = nn::batch_copy<D>(shape(c.batch, c.context))};
  }

  /// What a pass needs within itself.
  template <template <class> class Of, class T>
  struct Scratch {
    nn::EmbeddingScratch<Of> embedding;
    nn::LayerScratch<Of> layers;
  };
  template <class T, class D>
  static constexpr Scratch<BufferSpec, T> scratch(const Config& c) {
    return {.embedding = nn::embedding_scratch<D>(c.tokens(), c.embed),
            .layers = nn::layer_scratch<D>(c.tokens(), c.embed)};
  }

  /// Zero: no matrix products here.
  static constexpr double forward_flops(const Config&) { return 0; }

  template <class D, class T>
  static void forward(const Forward<Embedding, D, T>& p) {
    const nn::LayerContext<D> on{p.context, p.scratch.layers};
    const auto* tokens = bring_tokens(on, p.batch.tokens, p.config.vocabulary, p.saved.tokens);
    embedding_forward(on, tokens, p.w.wte, p.w.wpe, p.out.x);
  }
  template <class D, class T, class G>
  static void backward(const Backward<Embedding, D, T, G>& p) {
    const nn::LayerContext<D> on{p.context, p.scratch.layers};
    const auto* tokens = brought_tokens(on, p.batch.tokens, p.saved.tokens);
    embedding_backward(on, tokens, p.dout.x, p.dw.wte, p.dw.wpe, p.scratch.embedding);
  }
};

}  // namespace shardexpr::gpt
