// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/safetensors_file.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../support/error_of.hpp"
#include "../support/json_fixture.hpp"
#include "../support/scratch.hpp"
#include <doctest/doctest.h>

/// A file: the length of `header`, `header`, `data`.
inline std::string container(std::string_view header, std::string_view data = {}) {
  std::string all(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) all[i] = static_cast<char>(header.size() >> 8 * i & 255);
  return all.append(header).append(data);
}

inline std::string from_hex(std::string_view hex) {
  const auto digit = [&](std::size_t i) {
    return static_cast<int>(std::string_view{"0123456789abcdef"}.find(hex[i]));
  };
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(digit(i) * 16 + digit(i + 1));
  return bytes;
}

/// Bytes that differ from those beside them and from those of other seeds.
inline std::string some_bytes(std::size_t count, unsigned seed = 0) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<char>((i * 37 + seed * 101 + i / 251) & 255);
  return bytes;
}
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span{text});
}

inline shardexpr::SafetensorsHeader parse(std::string_view file, const std::string& path = "file") {
  return shardexpr::parse_safetensors_header(
      path, file.substr(0, 8), file.size(),
      [&](std::size_t bytes) { return file.substr(8, bytes); });
}

/// A tensor's bytes out of an open file.
template <class File>
std::string read_tensor(const File& file, const shardexpr::StoredTensor& tensor) {
  std::string to(static_cast<std::size_t>(tensor.size_bytes()), '?');
  file.read(tensor, 0, std::as_writable_bytes(std::span{to}));
  return to;
}

template <class... Parts>
bool says(const std::string& text, const Parts&... parts) {
  const bool all = ((text.find(parts) != text.npos) && ...);
  if (!all) MESSAGE("it says: ", text);
  return all && text.find('\n') == text.npos;
}

inline std::string content(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, std::istreambuf_iterator<char>{}};
}
inline void put(const std::string& path, std::string_view bytes) {
  std::ofstream{path, std::ios::binary} << bytes;
}

/// A file of tests/fixtures/safetensors.json.
struct StoredCase {
  std::string name, bytes, rule, says;
  bool is_legal() const { return rule.empty(); }
};
inline std::vector<StoredCase> stored_cases(const char* list) {
  static const Json fixture = json_fixture("safetensors.json");
  std::vector<StoredCase> cases;
  for (const Json& value : fixture[list].array()) {
    const auto text = [&](const char* key) {
      return value.has(key) ? value[key].string() : std::string{};
    };
    cases.push_back({text("name"), from_hex(text("hex")), text("rule"), text("says")});
  }
  REQUIRE(cases.size() > 30);
  return cases;
}
