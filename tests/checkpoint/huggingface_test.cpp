// SPDX-License-Identifier: Apache-2.0
// A model that transformers saved computes here what it computes there; what is not such a model is
// refused.
#include <shardexpr/checkpoint/load_model.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/nn/gpt_huggingface.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../nn/harness.hpp"
#include "../support/error_of.hpp"
#include "../support/json_fixture.hpp"
#include "../support/scratch.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using Trainer = sx::Sharded<sx::Gpt, sx::FullShard>;
using Mixed = sx::Sharded<sx::Gpt, sx::ShardGradOp, sx::MixedPrecision<sx::bf16, sx::fp32>>;

/// The tensors of a file, to be changed.
struct Tensors {
  struct One {
    std::string name, dtype;
    std::vector<std::uint64_t> shape;
    std::string data;
  };
  std::vector<One> all;

  explicit Tensors(const std::string& file) {
    const sx::SafetensorsHeader header = parse(file);
    for (const sx::StoredTensor& tensor : header.tensors)
      all.push_back({tensor.name, std::string{tensor.dtype.name}, tensor.shape,
                     file.substr(header.data_offset + tensor.begin, tensor.size_bytes())});
  }
  One& at(const std::string& name) {
    return *std::find_if(all.begin(), all.end(), [&](const One& one) { return one.name == name; });
  }
  void remove(const std::string& name) {
    std::erase_if(all, [&](const One& one) { return one.name == name; });
  }
  One renamed(const std::string& from, const std::string& to) {
    One one = at(from);
    one.name = to;
    return one;
  }
  std::string bytes() {
    std::vector<sx::TensorToStore> described;
    for (const One& one : all) described.push_back({one.name, one.dtype, one.shape});
    const sx::SafetensorsLayout layout = sx::lay_out_safetensors(std::move(described));
    std::string file = layout.first_bytes;
    for (const sx::StoredTensor& tensor : layout.header.tensors) file += at(tensor.name).data;
    return file;
  }
};

const Json& fixture() {
  static const Json json = json_fixture("gpt2_model.json");
  return json;
}
std::size_t size(const char* name) { return fixture()["sizes"][name].count(); }

/// A folder of the fixture, written out.
struct Saved {
  Scratch scratch{Scratch::in_memory()};

  explicit Saved(const char* kind) {
    for (const char* name : {"config.json", "model.safetensors"})
      put(path() + "/" + name, from_hex(fixture()[kind][name].string()));
  }
  std::string path() const { return scratch.path(); }
  std::string model() const { return path() + "/model.safetensors"; }
};

using Weights = std::map<std::string, std::vector<float>>;

/// What a trainer of `ranks` ranks has when it has loaded; rank 0 alone sees the files with
/// LoadOnRank0.
template <class T = Trainer, class From = sx::LoadOnEachRank>
Weights load(const std::string& path, std::size_t ranks, From from = {}) {
  Weights weights;
  sx::GptConfig config = sx::read_gpt2_config(path + "/config.json");
  sx::launch(ranks, [&](sx::Threads& comm) {
    sx::Cpu device;
    T trainer{device, comm, config};
    const harness::Tokens tokens{config};
    (void)trainer.step(tokens.batch());  // moments and a step that loading has to forget
    const bool sees = std::is_same_v<From, sx::LoadOnEachRank> || comm.rank() == 0;
    sx::load_model(trainer, sees ? path : "seen by rank 0 alone", from, sx::Gpt2Names{});
    CHECK(trainer.steps() == 0);
    Weights mine;
    trainer.summon([&](const std::string& name, auto value) {
      mine[name].assign(value.data, value.data + value.count());
    });
    if (comm.rank() == 0) weights = mine;
  });
  return weights;
}

TEST_CASE("a model of transformers gives the same logits") {
  const Saved saved{"lm_head"};
  sx::GptConfig config = sx::read_gpt2_config(saved.path() + "/config.json");
  CHECK(config == sx::GptConfig{size("vocab_size"), size("n_positions"), size("n_embd"),
                                size("n_head"), size("n_layer"), 1});
  config.batch = 2;
  const Weights weights = load(saved.path(), 2);
  harness::GptRun<float> gpt{config};
  REQUIRE(weights.size() == gpt.parameters.size());
  for (auto& [name, parameter] : gpt.parameters) {
    const auto found = weights.find(name);
    REQUIRE(found != weights.end());
    std::copy(found->second.begin(), found->second.end(), parameter.w.view.data);
  }
  std::vector<std::int32_t> tokens;
  for (const Json& token : fixture()["tokens"].array())
    tokens.push_back(static_cast<std::int32_t>(token.count()));
  REQUIRE(tokens.size() == config.tokens());
  (void)gpt.forward({tokens.data(), tokens.data()});
  const auto w = [&](const char* name) -> sx::Tensor<const float> {
    return gpt.parameters.at(name).w.view;
  };
  const harness::Owned<float> norm{gpt.hidden().shape}, mean{sx::shape(config.tokens())},
      rstd{sx::shape(config.tokens())}, logits{sx::shape(2, config.context, config.vocabulary)};
  const auto on = harness::context();
  sx::nn::layer_norm_forward(on, gpt.hidden(), w("transformer.ln_f.weight"),
                             w("transformer.ln_f.bias"), mean.view, rstd.view, norm.view);
  sx::nn::classifier_forward<sx::Cpu, float>(on, norm, w("transformer.wte.weight"), logits.view);
  const std::string theirs = from_hex(fixture()["logits"].string());
  REQUIRE(theirs.size() == 4 * logits.count());
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < logits.count(); ++i) {
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 4; ++k)
      bits = bits << 8 | static_cast<unsigned char>(theirs[4 * i + k]);
    const double expected = static_cast<double>(std::bit_cast<float>(bits));
    largest = std::max(largest, std::abs(expected));
    worst = std::max(worst, std::abs(static_cast<double>(logits[i]) - expected));
  }
  CAPTURE(worst);
  CHECK(largest > 1);
  CHECK(worst < 16 * 0x1p-24 * largest);  // sums of some tens of terms, twice
}

TEST_CASE("names without a prefix, masks and the tied head's copy are understood") {
  const Saved with{"lm_head"}, without{"base"};
  const Weights weights = load(with.path(), 1);
  CHECK(load(without.path(), 3) == weights);
  // As older versions saved it: the head's matrix once more, and each block's causal mask.
  Tensors older{content(with.model())};
  older.all.push_back(older.renamed("transformer.wte.weight", "lm_head.weight"));
  older.all.push_back({"transformer.h.0.attn.bias", "BOOL", {1, 1, 12, 12}, std::string(144, 1)});
  older.all.push_back({"transformer.h.1.attn.masked_bias", "F32", {}, std::string(4, 0)});
  put(with.model(), older.bytes());
  CHECK(load(with.path(), 2) == weights);
  older.at("lm_head.weight").data[5] ^= 1;
  put(with.model(), older.bytes());
  CHECK(error_of([&] {
          load(with.path(), 1);
        }).find("tensor 'lm_head.weight': its values are not those of 'transformer.wte.weight'") !=
        std::string::npos);
}

TEST_CASE("one rank reads for all, and no rank holds the model") {
  const Saved saved{"lm_head"};
  const Weights weights = load(saved.path(), 1);
  CHECK(load(saved.path(), 3, sx::LoadOnRank0{}) == weights);
  CHECK(load<Mixed>(saved.path(), 2, sx::LoadOnRank0{}) == weights);
  CHECK(load<Mixed>(saved.path(), 2) == weights);

  // Deep enough that a layer is a small part of it.
  const sx::GptConfig deep{
      .vocabulary = 64, .context = 8, .embed = 32, .heads = 2, .layers = 12, .batch = 1};
  const Scratch scratch{Scratch::in_memory()};
  std::size_t model_bytes = 0;
  sx::launch(1, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, deep};
    trainer.summon(
        [&](const std::string&, auto value) { model_bytes += value.span().size_bytes(); });
    sx::save_checkpoint(trainer, scratch.path(), sx::FullState{});
  });
  const std::string folder = scratch.path() + "/" + sx::detail::step_folder(0);
  constexpr std::size_t world = 8;
  sx::launch(world, [&](sx::Threads& comm) {
    const auto peak = [&](auto from) {
      sx::Cpu device;
      Trainer trainer{device, comm, deep};
      const std::size_t before = device.account().live_bytes();
      // The constructor has made what a step needs, and nothing more.
      CHECK(device.account().peak_bytes() == before);
      CHECK(before == sx::plan<Trainer>(deep, world).device_peak_bytes);
      sx::load_model(trainer, folder, from);
      return device.account().peak_bytes() - before;
    };
    const std::size_t kept = 3 * model_bytes / world;
    CHECK(peak(sx::LoadOnEachRank{}) < model_bytes / 20);
    // The largest unit and its moments, on its way to the others.
    const std::size_t relayed = peak(sx::LoadOnRank0{});
    CHECK(relayed > 3 * model_bytes / 14);
    CHECK(relayed < 3 * model_bytes / 11);
    CHECK(kept < model_bytes);
  });
}

TEST_CASE("what is not the model is refused by name") {
  const Saved saved{"lm_head"};
  const std::string good = content(saved.model());
  const auto refused = [&](auto change, const std::string& what) {
    Tensors file{good};
    change(file);
    put(saved.model(), file.bytes());
    const std::string said = error_of([&] { load(saved.path(), 1); });
    CAPTURE(said);
    CHECK(said.find(what) != std::string::npos);
    std::string other_rank = error_of([&] { load(saved.path(), 2, sx::LoadOnRank0{}); });
    CHECK(other_rank.find(what) != std::string::npos);
  };
  refused([](Tensors& file) { file.remove("transformer.ln_f.bias"); },
          "no tensor for the parameter 'transformer.ln_f.bias'");
  refused(
      [](Tensors& file) {
        file.at("transformer.ln_f.bias").shape = {2, 4};
      },
      "it has the shape (2, 4), the parameter 'transformer.ln_f.bias' has (8)");
  refused([](Tensors& file) { file.at("transformer.ln_f.bias").dtype = "I32"; },
          "its dtype is I32");
  refused(
      [](Tensors& file) {
        file.all.push_back({"h.7.x", "F32", {1}, "abcd"});
      },
      "tensor 'h.7.x': the model has no such parameter");
  refused(
      [](Tensors& file) { file.all.push_back(file.renamed("transformer.ln_f.bias", "ln_f.bias")); },
      "another tensor is the same parameter");
}

TEST_CASE("a configuration that this Gpt does not compute is refused") {
  const auto said = [](const std::string& text) {
    return error_of([&] { sx::detail::parse_gpt2_config("c.json", text); });
  };
  CHECK(said("{}").empty());
  const sx::GptConfig standard = sx::detail::parse_gpt2_config("c.json", "{}");
  CHECK(standard == sx::GptConfig{50257, 1024, 768, 12, 12, 1});
  CHECK(said(sx::gpt2_config_text(standard)).empty());
  CHECK(sx::detail::parse_gpt2_config("c.json", sx::gpt2_config_text({300, 24, 32, 4, 3, 8})) ==
        sx::GptConfig{300, 24, 32, 4, 3, 1});
  CHECK(said(R"({"activation_function": "relu"})") ==
        "c.json, byte 24: activation_function is \"relu\"; this library's Gpt has gelu_new");
  for (const char* text :
       {R"({"model_type": "llama"})", R"({"layer_norm_epsilon": 1e-6})",
        R"({"tie_word_embeddings": false})", R"({"scale_attn_weights": false})",
        R"({"scale_attn_by_inverse_layer_idx": true})", R"({"add_cross_attention": true})"})
    CHECK(said(text).find("this library's Gpt has") != std::string::npos);
  CHECK(said(R"({"n_inner": 100})").find("4 n_embd, 3072") != std::string::npos);
  CHECK(said(R"({"n_inner": 3072, "layer_norm_epsilon": 0.00001})").empty());
  CHECK(said(R"({"n_head": 5})").find("c.json: GptConfig: embed (768)") != std::string::npos);
  CHECK(said(R"({"n_head": -5})").find("c.json, byte 11: expected n_head") != std::string::npos);
  CHECK(said(R"({"n_head": 4, "n_head": 4})").find("stands twice") != std::string::npos);
  CHECK(said("{").find("the text ends") != std::string::npos);
}

}  // namespace
