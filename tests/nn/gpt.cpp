// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <set>
#include <string>

#include "rounding.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using harness::GptRun;
using harness::gradient_error;
using harness::Tokens;

constexpr sx::GptConfig small{
    .vocabulary = 11, .context = 6, .embed = 6, .heads = 3, .layers = 2, .batch = 3};
static_assert((sx::validate(small), true));
static_assert(sx::gpt::Block::describe(small).fc_weight.shape == sx::shape(6, 24));
static_assert(sx::gpt::Head::describe(small).wte.is_tied());
static_assert(sx::gpt::Head::describe(small).wte.tied_unit == sx::type_hash<sx::gpt::Embedding>);
static_assert(sx::gpt::residual_deviation(2) == 0.01f);
static_assert(sx::Gpt::step_flops(small) > 0);

TEST_CASE("gpt: every parameter's gradient, by finite differences in double") {
  struct Case {
    sx::GptConfig config;
    std::size_t stride;
  };
  for (const Case& c :
       {Case{small, 1}, Case{{7, 5, 5, 1, 1, 2}, 1}, Case{{13, 70, 6, 3, 1, 1}, 7}}) {
    CAPTURE(c.config.context);
    GptRun<double> gpt{c.config};
    gpt.randomize();
    const Tokens tokens{c.config};
    const auto objective = [&] { return 1.5 * gpt.forward(tokens.batch()); };
    objective();
    gpt.zero_gradients();
    gpt.backward(tokens.batch(), 1.5);
    for (auto& entry : gpt.parameters) {  // no structured binding: clang 14 cannot capture one
      const std::string& name = entry.first;
      auto& p = entry.second;
      CAPTURE(name);
      // A key's bias moves all scores of a row alike: its gradient is zero in exact arithmetic.
      if (name.ends_with("c_attn.bias")) {
        const std::size_t n = c.config.embed;
        for (std::size_t i = n; i < 2 * n; ++i) CHECK(std::abs(p.dw[i]) < 1e-14);
      }
      CHECK(gradient_error(p.w, p.dw, objective, p.w.count() > 40 ? c.stride : 1) < 1e-6);
    }
  }
}

TEST_CASE("gpt: gradients are added, activations' gradients are not") {
  GptRun<double> gpt{small};
  gpt.randomize();
  const Tokens tokens{small};
  gpt.forward(tokens.batch());
  gpt.zero_gradients();
  gpt.backward(tokens.batch(), 1);
  std::map<std::string, std::vector<double>> once;
  for (auto& [name, p] : gpt.parameters)
    once[name].assign(p.dw.view.span().begin(), p.dw.view.span().end());
  gpt.forward(tokens.batch());
  gpt.backward(tokens.batch(), 1);
  for (auto& [name, p] : gpt.parameters)
    for (std::size_t i = 0; i < p.dw.count(); ++i)
      CHECK(p.dw[i] == doctest::Approx(2 * once[name][i]).epsilon(1e-9));
}

TEST_CASE("gpt: float agrees with double") {
  const sx::GptConfig config{61, 70, 36, 3, 3, 2};
  GptRun<double> exact{config};
  GptRun<float> single{config};
  exact.initialize(1234);
  single.initialize(1234);
  const Tokens tokens{config};
  CHECK(single.forward(tokens.batch()) ==
        doctest::Approx(exact.forward(tokens.batch())).epsilon(1e-6));
  exact.zero_gradients();
  single.zero_gradients();
  exact.backward(tokens.batch(), 1);
  single.backward(tokens.batch(), 1);
  for (auto& entry : single.parameters) {
    const std::string& name = entry.first;
    const auto& p = entry.second;
    CAPTURE(name);
    double difference = 0, norm = 0;
    const auto& right = exact.parameters.at(name).dw;
    for (std::size_t i = 0; i < p.dw.count(); ++i) {
      difference += std::pow(p.dw[i] - right[i], 2);
      norm += std::pow(right[i], 2);
    }
    CHECK(std::sqrt(difference) < 2e-5 * std::sqrt(norm));
  }
}

template <class T, class G>
void check_16_bit() {
  const sx::GptConfig config{61, 70, 36, 3, 3, 2};
  GptRun<double> exact{config};
  GptRun<T, G> rounded{config};
  exact.initialize(1234);
  rounded.initialize(1234);
  for (auto& entry : rounded.parameters) {
    const auto& w = entry.second.w;
    for (std::size_t i = 0; i < w.count(); ++i)
      exact.parameters.at(entry.first).w[i] = static_cast<double>(w[i]);
  }
  const Tokens tokens{config};
  const double scale = 256;  // of the loss, so that no gradient is below fp16's smallest number
  const double error = harness::gradient_error_in<T>(config);
  const double loss = static_cast<double>(rounded.forward(tokens.batch()));
  CHECK(std::abs(loss - exact.forward(tokens.batch())) <
        error * harness::loss_of_logit_error(config));
  exact.zero_gradients();
  rounded.zero_gradients();
  exact.backward(tokens.batch(), scale);
  rounded.backward(tokens.batch(), static_cast<float>(scale));
  for (auto& entry : rounded.parameters) {
    const std::string& name = entry.first;
    CAPTURE(name);
    double difference = 0, norm = 0;
    const auto& dw = entry.second.dw;
    const auto& right = exact.parameters.at(name).dw;
    for (std::size_t i = 0; i < dw.count(); ++i) {
      difference += std::pow(static_cast<double>(dw[i]) - right[i], 2);
      norm += std::pow(right[i], 2);
    }
    CHECK(std::sqrt(difference) < error * std::sqrt(norm));
  }
}

TEST_CASE("gpt: bf16 agrees with double") {
  check_16_bit<sx::bf16, float>();
  check_16_bit<sx::bf16, sx::bf16>();
}
TEST_CASE("gpt: fp16 agrees with double") {
  check_16_bit<sx::fp16, float>();
  check_16_bit<sx::fp16, sx::fp16>();
}

TEST_CASE("gpt: the same step twice is the same bits") {
  const sx::GptConfig config{61, 33, 36, 3, 2, 2};
  const Tokens tokens{config};
  GptRun<float> first{config}, second{config};
  for (auto* gpt : {&first, &second}) {
    gpt->initialize(3);
    gpt->zero_gradients();
    gpt->forward(tokens.batch());
    gpt->backward(tokens.batch(), 1);
  }
  for (auto& [name, p] : first.parameters)
    for (std::size_t i = 0; i < p.dw.count(); ++i)
      CHECK(p.dw[i] == second.parameters.at(name).dw[i]);
}

TEST_CASE("gpt: with a zero table every logit is equal and the loss is log V") {
  GptRun<float> gpt{small};
  gpt.randomize();
  for (float& w : gpt.parameters.at("transformer.wte.weight").w.view.span()) w = 0;
  CHECK(gpt.forward(Tokens{small}.batch()) == doctest::Approx(std::log(11.0)).epsilon(1e-6));
}

TEST_CASE("gpt: names are Hugging Face's") {
  GptRun<float> gpt{small};
  std::set<std::string> names;
  for (auto& [name, p] : gpt.parameters) names.insert(name);
  std::set<std::string> expected{"transformer.wte.weight", "transformer.wpe.weight",
                                 "transformer.ln_f.weight", "transformer.ln_f.bias"};
  for (const std::string layer : {"transformer.h.0.", "transformer.h.1."})
    for (const char* part :
         {"ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"})
      for (const char* kind : {".weight", ".bias"}) expected.insert(layer + part + kind);
  CHECK(names == expected);
}

TEST_CASE("gpt: a config that cannot be is refused in one line") {
  const auto refuses = [](sx::GptConfig c, const char* message) {
    CHECK_THROWS_WITH_AS(sx::validate(c), message, sx::ConfigError);
  };
  refuses({.heads = 3}, "GptConfig: embed (128) must be a multiple of heads (3)");
  refuses({.vocabulary = 0}, "GptConfig: vocabulary is 0; give at least 1");
  refuses({.context = 0}, "GptConfig: context is 0; give at least 1");
  refuses({.embed = 0}, "GptConfig: embed is 0; give at least 1");
  refuses({.heads = 0}, "GptConfig: heads is 0; give at least 1");
  refuses({.layers = 0}, "GptConfig: layers is 0; give at least 1");
  refuses({.batch = 0}, "GptConfig: batch is 0; give at least 1");
  refuses({.vocabulary = std::size_t{1} << 31},
          "GptConfig: vocabulary (2147483648) is beyond int32, the type of a token");
  CHECK_NOTHROW(sx::validate(small));
}

}  // namespace
