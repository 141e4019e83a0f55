// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../support/scratch.hpp"
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

/// A folder of this test process, gone with it.
inline Scratch& scratch() {
  static Scratch folder{std::filesystem::temp_directory_path()};
  return folder;
}

/// A path in it where nothing is.
inline std::string fresh(const std::string& name) {
  const std::string path = scratch() / name;
  std::filesystem::remove_all(path);
  return path;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}

/// Writes a file into the scratch folder; returns its path.
inline std::string make_file(const std::string& name, const std::string& bytes) {
  const std::string path = scratch() / name;
  std::ofstream{path, std::ios::binary} << bytes;
  return path;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in{text};
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

struct Ended {
  int status = -1;  ///< -1: killed by a signal, or for running too long
  std::string out, err;
  std::size_t peak_bytes = 0;  ///< of its memory, or of this process when it was started if more
};

/// How long a program may run; less where a broken one would eat memory all the while.
inline std::chrono::seconds patience{60};

/// Runs a program to its end; standard input is empty. `out` names a file for standard output.
inline Ended run(std::vector<std::string> words, std::string out = {}) {
  const bool keeps = out.empty();
  if (keeps) out = scratch() / "stdout";
  const std::string err = scratch() / "stderr";
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawnp(&child, argv[0], &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) throw std::runtime_error("cannot run " + words[0]);

  int status = 0;
  rusage used{};
  const auto began = std::chrono::steady_clock::now();
  while (wait4(child, &status, WNOHANG, &used) == 0) {
    if (std::chrono::steady_clock::now() - began > patience) {
      kill(child, SIGKILL);
      wait4(child, &status, 0, &used);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, keeps ? read_file(out) : "", read_file(err),
          static_cast<std::size_t>(used.ru_maxrss) * 1024};
}

using Words = std::vector<std::string>;

inline Words operator+(Words left, const Words& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}
