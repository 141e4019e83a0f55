// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/model/fields.hpp>
#include <shardexpr/model/spec.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace shardexpr {

/// The sizes of a GPT. Usable in constant expressions, so that plans are too.
struct GptConfig {
  std::size_t vocabulary = 256;
  std::size_t context = 128;  ///< tokens in a sequence, all of them used
  std::size_t embed = 128;
  std::size_t heads = 4;
  std::size_t layers = 4;
  std::size_t batch = 8;  ///< sequences that one rank computes at a time

  /// Of a micro-batch.
  constexpr std::size_t tokens() const { return batch * context; }
  friend constexpr bool operator==(const GptConfig&, const GptConfig&) = default;
};

/// One rank's micro-batch.
///
/// Shapes:  tokens, targets (batch, context), row-major, each in [0, vocabulary). They must live
///          until the device has run the step.
struct GptBatch {
  const std::int32_t* tokens = nullptr;
  const std::int32_t* targets = nullptr;
};

/// Refuses a config that no GPT can have.
///
/// Errors:  throws ConfigError on a zero field, on heads that do not divide embed, and on a
///          vocabulary beyond what a token can name. In a constant expression it does not compile.
constexpr void validate(const GptConfig& c) {
  const auto positive = [](std::size_t value, const char* name) {
    if (value == 0) throw ConfigError(std::string("GptConfig: ") + name + " is 0; give at least 1");
  };
  positive(c.vocabulary, "vocabulary");
  positive(c.context, "context");
  positive(c.embed, "embed");
  positive(c.heads, "heads");
  positive(c.layers, "layers");
  positive(c.batch, "batch");
  if (c.embed % c.heads != 0)
    throw ConfigError("GptConfig: embed (" + std::to_string(c.embed) +
                      ") must be a multiple of heads (" + std::to_string(c.heads) + ")");
  if (c.vocabulary > INT32_MAX)
    throw ConfigError("GptConfig: vocabulary (" + std::to_string(c.vocabulary) +
                      ") is beyond int32, the type of a token");
}

namespace gpt {

/// What flows between the units of a GPT.
///
/// Shapes:  x (batch, context, embed).
template <template <class> class Of, class T>
struct Hidden {
  Of<T> x;
};

/// Its shapes.
template <class T>
constexpr Hidden<BufferSpec, T> hidden(const GptConfig& c) {
  return {.x = shape(c.batch, c.context, c.embed)};
}

}  // namespace gpt
}  // namespace shardexpr
