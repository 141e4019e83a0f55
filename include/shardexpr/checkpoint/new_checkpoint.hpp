// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/durable_files.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/verify.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace shardexpr::detail {

/// The folder's name for a step: one that is not there yet.
inline std::string free_step_folder(const std::string& directory, std::uint64_t step) {
  const std::string first = step_folder(step);
  std::string name = first;
  std::error_code error;
  for (std::size_t n = 1; std::filesystem::exists(directory + "/" + name, error); ++n)
    name = first + "-" + std::to_string(n);
  return name;
}

/// A checkpoint that is being written: a folder beside its place, moved there when it is whole.
template <class System>
class NewCheckpoint {
 public:
  NewCheckpoint(std::string directory, std::uint64_t step)
      : NewCheckpoint{std::move(directory), "." + step_folder(step)} {}
  /// Another of the same step, while this one is written.
  NewCheckpoint beside(const std::string& what) const {
    return {directory_, beside_.substr(0, beside_.rfind('.')) + "." + what};
  }

  /// Where ranks write their files.
  std::string folder() const { return directory_ + "/" + beside_; }

  /// For one rank.
  void begin() const {
    std::error_code error;
    if (!std::filesystem::exists(directory_, error)) make_folder<System>(directory_);
    // What a save that was killed, or failed, has left.
    for (const std::string& name : names_in(directory_))
      if (name.starts_with(".step-") && name.ends_with(".new"))
        remove_folder<System>(directory_ + "/" + name);
    make();
  }
  /// Of a checkpoint that is written beside one that was begun.
  void make() const { make_folder<System>(folder()); }
  void discard() const { remove_folder<System>(folder()); }
  /// For one rank, when all files are on the disk. Returns the folder's name.
  std::string commit(const Manifest& manifest) const {
    write_text<System>(folder() + "/" + std::string{Manifest::file_name}, manifest.text());
    sync_folder<System>(folder());
    const std::string name = free_step_folder(directory_, manifest.step);
    rename_in<System>(directory_, beside_, name);
    replace_text<System>(directory_, "latest", latest_text(name));
    return name;
  }
  /// Removes what is older than the `keep` newest, once the newest is known to be whole.
  /// Errors:  FormatError, IoError if it is not: then nothing was removed.
  void retain(std::size_t keep, const std::string& newest) const {
    if (keep == 0) return;
    std::vector<std::pair<std::pair<std::uint64_t, std::uint64_t>, std::string>> all;
    for (const std::string& name : names_in(directory_))
      if (is_step_folder(name)) all.emplace_back(step_of_folder(name), name);
    if (all.size() <= keep) return;
    verify_checkpoint<System>(directory_ + "/" + newest);
    std::sort(all.begin(), all.end());
    std::erase_if(all, [&](const auto& entry) { return entry.second == newest; });
    for (std::size_t i = 0; i + keep <= all.size(); ++i)
      remove_folder<System>(directory_ + "/" + all[i].second);
    sync_folder<System>(directory_);
  }

 private:
  NewCheckpoint(std::string directory, const std::string& name)
      : directory_{std::move(directory)}, beside_{name + ".new"} {}

  std::string directory_, beside_;
};

}  // namespace shardexpr::detail
