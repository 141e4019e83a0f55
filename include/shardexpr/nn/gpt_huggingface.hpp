// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/json_reader.hpp>
#include <shardexpr/checkpoint/load_model.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>
#include <shardexpr/nn/gpt_config.hpp>
#include <shardexpr/nn/layer.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <system_error>

// Hugging Face's GPT2LMHeadModel and this library's Gpt: the same parameters, names and shapes.
namespace shardexpr {

/// What the tensors of a stored GPT-2 are to `Gpt`. The prefix "transformer." may be left out, as
/// GPT2Model does; lm_head.weight is the embedding's table; causal masks are made anew.
///
/// Source:  Hugging Face, transformers, modeling_gpt2.
struct Gpt2Names {
  StoredAs operator()(std::string_view stored) const {
    constexpr std::string_view prefix = "transformer.";
    if (stored == "lm_head.weight") return {StoredAs::What::copy, "transformer.wte.weight"};
    if (stored.ends_with(".attn.bias") || stored.ends_with(".attn.masked_bias"))
      return {StoredAs::What::nothing, {}};
    if (stored.starts_with(prefix)) stored.remove_prefix(prefix.size());
    return {StoredAs::What::parameter, std::string{prefix} += stored};
  }
};

namespace detail {

/// A member of a configuration that is a number.
inline double number_of(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() ? value : -1;
}

inline GptConfig parse_gpt2_config(const std::string& path, std::string_view text) {
  GptConfig config{
      .vocabulary = 50257, .context = 1024, .embed = 768, .heads = 12, .layers = 12, .batch = 1};
  std::size_t inner = 0;
  JsonReader reader{text};
  std::set<std::string> keys;
  try {
    reader.object([&](const std::string& key, std::size_t key_at) {
      if (!keys.insert(key).second)
        JsonReader::fail_at("the member " + shown(key) + " stands twice", key_at);
      const std::size_t begin = reader.at();
      const auto count = [&](std::size_t& to) {
        to = static_cast<std::size_t>(reader.integer(key.c_str()));
      };
      // One that changes what the model computes may have one value alone.
      const auto only = [&](bool is_right, const char* right) {
        if (!is_right)
          JsonReader::fail_at(key + " is " + std::string{text.substr(begin, reader.at() - begin)} +
                                  "; this library's Gpt has " + right,
                              begin);
      };
      const auto word = [&] {
        reader.skip_value();
        return text.substr(begin, reader.at() - begin);
      };
      if (key == "vocab_size")
        count(config.vocabulary);
      else if (key == "n_positions")
        count(config.context);
      else if (key == "n_embd")
        count(config.embed);
      else if (key == "n_head")
        count(config.heads);
      else if (key == "n_layer")
        count(config.layers);
      else if (key == "n_inner" && reader.peek() != 'n')
        count(inner);
      else if (key == "model_type")
        only(word() == "\"gpt2\"", "gpt2");
      else if (key == "activation_function")
        only(word() == "\"gelu_new\"" ||
                 text.substr(begin, reader.at() - begin) == "\"gelu_pytorch_tanh\"",
             "gelu_new");
      else if (key == "layer_norm_epsilon")
        only(number_of(word()) == nn::layer_norm_epsilon, "1e-5");
      else if (key == "scale_attn_weights" || key == "tie_word_embeddings")
        only(word() == "true", "true");
      else if (key == "scale_attn_by_inverse_layer_idx" || key == "add_cross_attention")
        only(word() == "false", "false");
      else
        reader.skip_value();
    });
    reader.end();
  } catch (const JsonFault& fault) {
    throw ConfigError(path + ", byte " + std::to_string(fault.at) + ": " + fault.what);
  }
  if (inner != 0 && inner != 4 * config.embed)
    throw ConfigError(path + ": n_inner is " + std::to_string(inner) +
                      "; this library's Gpt has 4 n_embd, " + std::to_string(4 * config.embed));
  try {
    validate(config);
  } catch (const ConfigError& error) {
    throw ConfigError(path + ": " + error.what());
  }
  return config;
}

}  // namespace detail

/// The sizes in a GPT-2's `config.json`; `batch` is 1. Dropout, which Gpt does not have, and what
/// else does not change what is computed without it are passed over; a member that is left out has
/// the value that Hugging Face gives it.
///
/// Errors:  ConfigError for what Gpt does not compute, another activation, say, and for what is no
///          JSON: file, byte. IoError if the file cannot be read.
template <class System = detail::LinuxSystem>
GptConfig read_gpt2_config(const std::string& path) {
  const auto file = detail::FileHandle<System>::to_read(path);
  return detail::parse_gpt2_config(
      path, detail::read_text(file, 1'000'000, [] { return "the configuration"; }));
}

/// The text of a `config.json` with which Hugging Face loads a Gpt of these sizes, stored in
/// `dtype`.
inline std::string gpt2_config_text(const GptConfig& config, std::string_view dtype = "float32") {
  const auto number = [](const char* name, std::size_t value) {
    return std::string{"  \""} + name + "\": " + std::to_string(value) + ",\n";
  };
  return "{\n  \"architectures\": [\"GPT2LMHeadModel\"],\n  \"model_type\": \"gpt2\",\n"
         "  \"activation_function\": \"gelu_new\",\n  \"layer_norm_epsilon\": 1e-05,\n"
         "  \"attn_pdrop\": 0.0,\n  \"embd_pdrop\": 0.0,\n  \"resid_pdrop\": 0.0,\n" +
         number("n_embd", config.embed) + number("n_head", config.heads) +
         number("n_layer", config.layers) + number("n_positions", config.context) +
         number("vocab_size", config.vocabulary) +
         "  \"tie_word_embeddings\": true,\n  \"torch_dtype\": \"" + std::string{dtype} + "\"\n}\n";
}

}  // namespace shardexpr
