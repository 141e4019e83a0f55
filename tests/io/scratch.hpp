// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/swap_file.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "../support/error_of.hpp"
#include "../support/scratch.hpp"

inline constexpr std::size_t block = 65536;

/// A directory for files of state, and all that was said about them.
class SwapScratch : public Scratch {
 public:
  SwapScratch() {
    const std::lock_guard lock{said_mutex};
    said.clear();
  }

  std::string file(int rank = 0) const {
    return path() + "/shardexpr-rank-" + std::to_string(rank) + ".swap";
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator{path()},
                                                  std::filesystem::directory_iterator{}));
  }
  shardexpr::NvmeOptions options(std::size_t queue_depth = 32) const {
    return {.directory = path(), .queue_depth = queue_depth, .notice = &keep};
  }
  /// Notices with that text in them.
  static std::size_t notices(const std::string& text) {
    const std::lock_guard lock{said_mutex};
    return static_cast<std::size_t>(
        std::count_if(said.begin(), said.end(),
                      [&](const std::string& line) { return line.find(text) != line.npos; }));
  }

 private:
  static void keep(const std::string& line) {
    const std::lock_guard lock{said_mutex};
    said.push_back(line);
  }
  static inline std::mutex said_mutex;
  static inline std::vector<std::string> said;
};

/// Memory as a SwapFile takes it.
class Memory {
 public:
  explicit Memory(std::size_t size_bytes)
      : size_bytes_{size_bytes},
        data_{static_cast<std::byte*>(std::aligned_alloc(4096, size_bytes)), &std::free} {
    clear();
  }
  static Memory random(std::size_t size_bytes, unsigned seed) {
    Memory memory{size_bytes};
    std::mt19937_64 generator{seed};
    for (std::size_t at = 0; at < size_bytes; at += 8) {
      const auto word = generator();
      std::memcpy(memory.data_.get() + at, &word, 8);
    }
    return memory;
  }
  void clear() { std::fill_n(data_.get(), size_bytes_, std::byte{0xa5}); }
  std::byte* data() const { return data_.get(); }
  std::span<std::byte> span() const { return {data_.get(), size_bytes_}; }
  std::span<std::byte> part(std::size_t at, std::size_t count) const {
    return span().subspan(at, count);
  }
  bool operator==(const Memory& other) const {
    return std::equal(span().begin(), span().end(), other.span().begin(), other.span().end());
  }

 private:
  std::size_t size_bytes_;
  std::unique_ptr<std::byte, void (*)(void*)> data_;
};

inline std::string moments() { return "the moments of decoder"; }

/// Whether the text has all of these in it.
template <class... Parts>
bool says(const std::string& text, const Parts&... parts) {
  return ((text.find(parts) != text.npos) && ...);
}

inline std::string content(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, std::istreambuf_iterator<char>{}};
}
inline void put(const std::string& path, const std::string& text) {
  std::ofstream{path, std::ios::binary} << text;
}
