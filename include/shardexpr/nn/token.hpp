// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace shardexpr::nn::detail {

// A token as an index, once it is known to be one.
inline std::size_t checked_token(std::int32_t token, std::size_t vocabulary) {
  if (token < 0 || static_cast<std::size_t>(token) >= vocabulary)
    throw Error("token " + std::to_string(token) + " is outside the vocabulary of " +
                std::to_string(vocabulary) + ": tokenize with the vocabulary of the config");
  return static_cast<std::size_t>(token);
}

}  // namespace shardexpr::nn::detail
