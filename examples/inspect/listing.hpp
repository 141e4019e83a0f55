// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/shown_name.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace sx = shardexpr;

/// What is listed, whatever it was read from: names are still as the file has them.
struct Listing {
  struct Row {
    std::string name, dtype;
    std::vector<std::uint64_t> shape;
    std::uint64_t bytes = 0;
    std::string file;  // empty: there is one file
  };
  std::vector<Row> rows;
  std::size_t files = 0;
};

/// "[2, 3]"; "[]" is a scalar.
inline std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text = "[";
  for (const std::uint64_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

/// "1 tensor", "2 tensors"
inline std::string counted(std::uint64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

/// Characters of UTF-8, near enough to columns.
inline std::size_t columns(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

/// Lines, columns one below the other; numbers end below each other in column `number`. The last
/// one is as wide as it is.
inline void print_table(const std::vector<std::vector<std::string>>& lines, std::size_t number) {
  constexpr std::size_t widest_padded = 80;  // one long name does not move all others
  std::vector<std::size_t> width(lines.empty() ? 0 : lines.front().size(), 0);
  for (const std::vector<std::string>& line : lines)
    for (std::size_t i = 0; i < width.size(); ++i)
      if (const std::size_t wide = columns(line[i]); wide <= widest_padded)
        width[i] = std::max(width[i], wide);
  for (const std::vector<std::string>& line : lines) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::size_t wide = columns(line[i]);
      const std::string padding(width[i] > wide ? width[i] - wide : 0, ' ');
      if (i > 0) text += "  ";
      text += i == number ? padding + line[i] : line[i] + padding;
    }
    text.resize(text.find_last_not_of(' ') + 1);
    text += '\n';
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
}

/// A line a tensor, and a line of totals.
inline void print(const Listing& listing) {
  std::vector<std::vector<std::string>> lines;
  std::uint64_t bytes = 0;
  for (const Listing::Row& row : listing.rows) {
    lines.push_back({sx::escaped(row.name), row.dtype, shape_text(row.shape),
                     std::to_string(row.bytes), sx::escaped(row.file)});
    bytes += row.bytes;
  }
  print_table(lines, 3);
  std::printf("%s, %s in %s\n", counted(listing.rows.size(), "tensor").c_str(),
              counted(bytes, "byte").c_str(), counted(listing.files, "file").c_str());
}
