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

/// A line a tensor, columns one below the other, and a line of totals.
inline void print(const Listing& listing) {
  constexpr std::size_t widest_padded = 80;  // one long name does not move all others
  std::vector<std::vector<std::string>> lines;
  std::vector<std::size_t> width(4, 0);
  std::uint64_t bytes = 0;
  for (const Listing::Row& row : listing.rows) {
    lines.push_back({sx::escaped(row.name), row.dtype, shape_text(row.shape),
                     std::to_string(row.bytes), sx::escaped(row.file)});
    for (std::size_t i = 0; i < width.size(); ++i)
      if (const std::size_t wide = columns(lines.back()[i]); wide <= widest_padded)
        width[i] = std::max(width[i], wide);
    bytes += row.bytes;
  }
  const auto padded = [&](const std::string& text, std::size_t column) {
    const std::size_t wide = columns(text);
    return std::string(width[column] > wide ? width[column] - wide : 0, ' ');
  };
  for (const std::vector<std::string>& line : lines) {
    std::string text;
    for (std::size_t i = 0; i < 3; ++i) text += line[i] + padded(line[i], i) + "  ";
    text += padded(line[3], 3) + line[3];  // numbers end below each other
    if (!line[4].empty()) text += "  " + line[4];
    text += '\n';
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  std::printf("%s, %s in %s\n", counted(listing.rows.size(), "tensor").c_str(),
              counted(bytes, "byte").c_str(), counted(listing.files, "file").c_str());
}
