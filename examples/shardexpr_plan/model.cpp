// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <shardexpr/core/error.hpp>
#include <shardexpr/nn/gpt_huggingface.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>

#include "job.hpp"

namespace planner {
namespace {

struct Preset {
  const char* name;
  std::size_t embed, heads, layers;
};
constexpr Preset presets[] = {{"gpt2", 768, 12, 12},
                              {"gpt2-medium", 1024, 16, 24},
                              {"gpt2-large", 1280, 20, 36},
                              {"gpt2-xl", 1600, 25, 48}};

constexpr std::size_t most_embed = std::size_t{1} << 18;

/// The width, a multiple of `step`, whose number of parameters is nearest.
std::size_t width_for(shardexpr::GptConfig model, double parameters, std::size_t step) {
  const auto at = [&](std::size_t embed) {
    model.embed = embed;
    return parameters_of(model);
  };
  std::size_t embed = step;
  while (embed + step <= most_embed && at(embed + step) <= parameters) embed += step;
  if (embed + step <= most_embed && at(embed + step) - parameters < parameters - at(embed))
    embed += step;
  return embed;
}

/// Heads of 128 elements, of 64 where the width is no multiple or below 1024.
std::size_t heads_for(std::size_t embed) {
  for (const std::size_t head : {std::size_t{128}, std::size_t{64}})
    if (embed % head == 0 && (head == 64 || embed >= 1024)) return embed / head;
  throw BadInput("--embed " + std::to_string(embed) + " is no multiple of 64; give --heads");
}

void check_countable(const shardexpr::GptConfig& model) {
  const double tokens = static_cast<double>(model.batch) * static_cast<double>(model.context);
  const double kept = static_cast<double>(model.layers) * 40 * static_cast<double>(model.embed) +
                      8 * static_cast<double>(model.vocabulary);
  if (tokens * kept > 1e18)
    throw BadInput("a micro-batch of " + std::to_string(model.batch) + " times " +
                   std::to_string(model.context) +
                   " tokens keeps more than 10^18 bytes of activations; give less");
}

}  // namespace

double parameters_of(const shardexpr::GptConfig& model) {
  const double e = static_cast<double>(model.embed);
  return (static_cast<double>(model.vocabulary) + static_cast<double>(model.context)) * e +
         static_cast<double>(model.layers) * (12 * e + 13) * e + 2 * e;
}

shardexpr::GptConfig model_of(const ModelWish& wish, std::size_t batch) {
  const bool sized = wish.parameters || wish.layers || wish.embed || wish.heads || wish.vocabulary;
  const int ways = (wish.preset.empty() ? 0 : 1) + (wish.config_file.empty() ? 0 : 1) + sized;
  if (ways == 0)
    throw BadInput(
        "no model; give --parameters and --layers, --embed and --layers, --model or --config");
  if (ways > 1)
    throw BadInput(
        "--model, --config and sizes each say which model; keep one (--context may stand with "
        "any)");

  shardexpr::GptConfig model{
      .vocabulary = 50257, .context = 1024, .embed = 0, .heads = 0, .layers = 0, .batch = batch};
  if (!wish.preset.empty()) {
    for (const Preset& preset : presets)
      if (wish.preset == preset.name) {
        model.embed = preset.embed;
        model.heads = preset.heads;
        model.layers = preset.layers;
      }
    if (model.embed == 0)
      throw BadInput("--model '" + wish.preset +
                     "' is none of gpt2, gpt2-medium, gpt2-large, gpt2-xl; give sizes, or --config "
                     "FILE");
  } else if (!wish.config_file.empty()) {
    model = shardexpr::read_gpt2_config(wish.config_file);
    model.batch = batch;
  } else {
    if (!wish.layers) throw BadInput("no --layers; say how many blocks the model has");
    if (wish.parameters.has_value() == wish.embed.has_value())
      throw BadInput(wish.embed
                         ? "--parameters and --embed both say how wide the model is; keep one"
                         : "no --parameters and no --embed; give one of them");
    model.layers = *wish.layers;
    model.vocabulary = wish.vocabulary.value_or(model.vocabulary);
  }
  model.context = wish.context.value_or(model.context);
  if (wish.embed) model.embed = *wish.embed;
  if (wish.parameters) {
    const std::size_t step = wish.heads.value_or(128);
    model.embed = width_for(model, *wish.parameters, step);
    if (!wish.heads && model.embed < 1024) model.embed = width_for(model, *wish.parameters, 64);
    const double nearest = parameters_of(model);
    if (nearest > 2 * *wish.parameters || nearest < *wish.parameters / 2) {
      char text[200];
      std::snprintf(text, sizeof text,
                    "--parameters %g: the nearest with %zu layers has %.3g (embed %zu); change "
                    "--layers, --heads, --vocabulary or --context",
                    *wish.parameters, model.layers, nearest, model.embed);
      throw BadInput(text);
    }
  }
  if (wish.heads)
    model.heads = *wish.heads;
  else if (model.heads == 0)
    model.heads = heads_for(model.embed);
  if (model.embed % model.heads != 0)
    throw BadInput("--heads " + std::to_string(model.heads) + " does not divide --embed " +
                   std::to_string(model.embed) + "; choose heads that do");
  check_countable(model);
  try {
    shardexpr::validate(model);
  } catch (const shardexpr::ConfigError& error) {
    throw BadInput(error.what());
  }
  return model;
}

}  // namespace planner
