// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/initialize.hpp>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "options.hpp"
#include "report.hpp"

/// A file's bytes, each a token.
class Text {
 public:
  static constexpr std::size_t least_vocabulary = 256;

  /// Errors:  BadInput if the file cannot be read or is too short for one sequence.
  Text(const std::string& path, std::size_t context) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (std::filesystem::is_directory(status))
      throw BadInput("--data " + path + " is a folder; name a file");
    // A pipe may never end, /dev/zero never does.
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
      throw BadInput("--data " + path + " is a pipe or a device; write the text to a file first");
    const auto size = static_cast<double>(std::filesystem::file_size(path, error));
    if (!error && size > machine_bytes())
      throw BadInput("--data " + path + " has " + human_bytes(size) + ", this machine has " +
                     human_bytes(machine_bytes()) + " of memory; take a part of it");
    std::ifstream file{path, std::ios::binary};
    if (!file)
      throw BadInput("--data " + path + " cannot be read: " + std::strerror(errno) +
                     "; name a readable file");
    if (!error) bytes_.reserve(static_cast<std::size_t>(size) + 1);
    bytes_.assign(std::istreambuf_iterator<char>{file}, {});
    if (file.bad()) throw BadInput("--data " + path + ": reading failed part way");
    if (bytes_.size() < context + 1)
      throw BadInput("--data " + path + " has " + std::to_string(bytes_.size()) +
                     " bytes; --context " + std::to_string(context) + " needs at least " +
                     std::to_string(context + 1));
  }

  /// Entropy of single bytes, in nats: the loss of a model that knows frequencies and no context.
  double unigram_entropy() const {
    std::array<std::size_t, least_vocabulary> count{};
    for (unsigned char byte : bytes_) ++count[byte];
    double entropy = 0;
    for (std::size_t n : count)
      if (n != 0) {
        const double p = static_cast<double>(n) / static_cast<double>(bytes_.size());
        entropy -= p * std::log(p);
      }
    return entropy;
  }

  /// Fills one rank's micro-batch of a step: random windows, each target the byte after its token.
  /// The windows are a function of seed, step and rank, so a run can be repeated from any step.
  void sample(std::uint64_t seed, std::size_t step, std::size_t rank, std::size_t rows,
              std::size_t context, std::vector<std::int32_t>& tokens,
              std::vector<std::int32_t>& targets) const {
    std::uint64_t state = shardexpr::mix(shardexpr::mix(seed + 0x5eed) + step);
    state = shardexpr::mix(state + rank);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t at = shardexpr::mix(state + row) % (bytes_.size() - context);
      for (std::size_t i = 0; i < context; ++i) {
        tokens[row * context + i] = static_cast<unsigned char>(bytes_[at + i]);
        targets[row * context + i] = static_cast<unsigned char>(bytes_[at + i + 1]);
      }
    }
  }

 private:
  std::vector<char> bytes_;
};
