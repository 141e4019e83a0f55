// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "json.hpp"
#include "run.hpp"

/// The smallest job that still has two heads and two sequences; later options replace these.
inline const Words& tiny() {
  static const Words words{TRAIN_GPT, "--layers", "1", "--heads", "2", "--embed", "16", "--context",
                           "16",      "--batch",  "2", "--steps", "3"};
  return words;
}

/// A text with structure: far more to learn than byte frequencies.
inline const std::string& text() {
  static const std::string bytes = [] {
    std::string all;
    for (int i = 0; i < 200; ++i) all += "the quick brown fox jumps over the lazy dog\n";
    return all;
  }();
  return bytes;
}
inline const std::string& text_file() {
  static const std::string path = make_file("text", text());
  return path;
}

inline Ended train(const Words& options) {
  return run(tiny() + Words{"--data", text_file()} + options);
}

/// Number, loss, gradient norm and rate of each step in a log: equal text, equal bits.
inline std::vector<std::string> steps_of(const std::string& log) {
  std::vector<std::string> steps;
  for (const std::string& line : lines_of(read_file(log))) {
    const Json event = Json::parse(line);
    if (event["event"].string() == "step")
      steps.push_back(event["step"].text + ' ' + event["loss"].text + ' ' +
                      event["grad_norm"].text + ' ' + event["learning_rate"].text);
  }
  return steps;
}

/// --nvme and a folder, which is made.
inline Words nvme() {
  const std::string folder = scratch() / "nvme";
  std::filesystem::create_directory(folder);
  return {"--nvme", folder};
}

/// A strategy of the program, by --list.
struct Listed {
  std::string name, type;
  bool is_on_disk() const { return type.find("OnNvme") != std::string::npos; }
  /// The options that choose it.
  Words options() const { return Words{"--strategy", name} + (is_on_disk() ? nvme() : Words{}); }
};

inline std::vector<Listed> strategies() {
  std::vector<Listed> all;
  for (const std::string& line : lines_of(run({TRAIN_GPT, "--list"}).out)) {
    const std::size_t space = line.find(' ');
    all.push_back({line.substr(0, space), line.substr(line.find_first_not_of(' ', space))});
  }
  return all;
}

/// Standard error without the library's notices: a folder's file system may lack O_DIRECT.
inline std::string without_notices(const std::string& err) {
  std::string rest;
  for (const std::string& line : lines_of(err))
    if (!line.starts_with("shardexpr: ")) rest += line + '\n';
  return rest;
}
