// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is trained, whatever the strategy: sizes and steps from the command line, the rest from the
// file that the strategy was made of.
#include <cstddef>
#include <optional>
#include <string>

#include "../train_gpt/text.hpp"

struct Job {
  std::string data, strategy, nvme;
  std::optional<std::size_t> ranks, batch;  ///< else the file's, where it says them
  std::size_t steps = 100, layers = 2, heads = 2, embed = 64, context = 64;
  std::optional<float> lr;
  bool is_quiet = false;
};

/// What a run ended with.
struct Ended {
  double first_loss = 0, loss = 0;
  std::size_t ranks = 0, skipped = 0;
};

/// A strategy that the program was compiled with: one file, one line of FROM_CONFIG_FILES.
struct Entry {
  const char *name, *file, *policies;
  Ended (*train)(const Job&, const Text&);
};
