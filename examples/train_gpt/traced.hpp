// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "options.hpp"
#include "text.hpp"
#include "train.hpp"

/// The file of --trace. It is touched when the run begins, so that one that cannot be written is
/// known then; a run that fails leaves it as it was.
class TraceFile {
 public:
  /// Errors:  BadInput if the file cannot be written.
  explicit TraceFile(const std::string& path) : path_{path} {
    if (path.empty()) return;
    std::error_code error;
    const bool is_new = !std::filesystem::exists(path, error);
    if (!std::ofstream{path, std::ios::app})
      throw BadInput("--trace " + path + " cannot be written: " + std::strerror(errno) +
                     "; name a file in a folder that you may write to");
    is_ours_ = is_new;
  }
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;
  ~TraceFile() {
    std::error_code error;
    if (is_ours_) std::filesystem::remove(path_, error);
  }

  const std::string& path() const { return path_; }

  /// Calls `write(std::ostream&)` on the emptied file.
  /// Errors:  std::runtime_error if it does not take all.
  template <class Write>
  void write(Write write) {
    std::ofstream file{path_, std::ios::trunc | std::ios::binary};
    is_ours_ = false;
    if (file) write(file);
    if (!file.flush())
      throw std::runtime_error("--trace " + path_ + ": writing failed: " + std::strerror(errno));
  }

 private:
  std::string path_;
  bool is_ours_ = false;  // made here, and nothing in it yet
};

#if TRAIN_GPT_TRACE
/// Errors:  BadInput for a strategy that has a device of its own.
void check_traceable(const std::string& strategy);
/// Trains as without --trace, and writes what the streams of all ranks did.
Result train_traced(const std::string& strategy, const Options& o, const Text& text, Log& log,
                    TraceFile& file);
#else
inline void check_traceable(const std::string&) {
#if defined(TRAIN_GPT_MPI)
  throw BadInput("--trace is of ranks in one process: give it to train_gpt, or leave it out");
#else
  throw BadInput("--trace is not in this program; build it with -DTRAIN_GPT_TRACE=ON");
#endif
}
inline Result train_traced(const std::string&, const Options&, const Text&, Log&, TraceFile&) {
  return {};
}
#endif
