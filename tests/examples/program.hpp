// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

/// A folder of this test process, gone with it.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "train_gpt_test.XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline Scratch& scratch() {
  static Scratch folder;
  return folder;
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
  const auto began = std::chrono::steady_clock::now();
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() - began > patience) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, keeps ? read_file(out) : "",
          read_file(err)};
}

using Words = std::vector<std::string>;

inline Words operator+(Words left, const Words& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

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
