// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {

/// A file that breaks its format's rules.
class FormatError : public IoError {
 public:
  using IoError::IoError;
};

/// A dtype of the safetensors format.
struct StoredDtype {
  std::string_view name;
  std::size_t bits = 0;
  friend bool operator==(const StoredDtype&, const StoredDtype&) = default;
};

/// All of them, those of less than a byte included, in the format's own order: alignment rises.
/// Source:  Hugging Face, safetensors 0.8.
inline constexpr std::array<StoredDtype, 22> stored_dtypes{
    {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
     {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
     {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
     {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
     {"I64", 64},        {"U64", 64}}};

/// The dtype of that name, capitals as they are, or null.
inline constexpr const StoredDtype* find_stored_dtype(std::string_view name) {
  for (const StoredDtype& dtype : stored_dtypes)
    if (dtype.name == name) return &dtype;
  return nullptr;
}

/// The format's name of an element type.
template <class T>
inline constexpr std::string_view stored_dtype_name = "";
template <>
inline constexpr std::string_view stored_dtype_name<fp32> = "F32";
template <>
inline constexpr std::string_view stored_dtype_name<double> = "F64";
template <>
inline constexpr std::string_view stored_dtype_name<bf16> = "BF16";
template <>
inline constexpr std::string_view stored_dtype_name<fp16> = "F16";

static_assert(std::endian::native == std::endian::little,
              "safetensors files hold little-endian numbers, which are copied as they are");

/// A tensor as a file's header describes it.
struct StoredTensor {
  std::string name;
  StoredDtype dtype{};
  std::vector<std::uint64_t> shape;  ///< any rank; none: a scalar
  std::uint64_t begin = 0, end = 0;  ///< bytes of the data, behind the header

  std::uint64_t size_bytes() const { return end - begin; }
  friend bool operator==(const StoredTensor&, const StoredTensor&) = default;
};

/// Text by text, for programs and people; the format gives it no meaning.
using StoredMetadata = std::vector<std::pair<std::string, std::string>>;

/// The header of a safetensors file.
struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  ///< in the order of their bytes
  StoredMetadata metadata;            ///< as it stands in the file
  std::uint64_t data_offset = 0;      ///< of the file
  std::vector<std::size_t> by_name;   ///< places in `tensors`, by name

  /// Null if there is none of that name.
  /// Cost:  O(log n).
  const StoredTensor* find(std::string_view name) const {
    const auto found = std::lower_bound(by_name.begin(), by_name.end(), name,
                                        [&](std::size_t place, std::string_view n) {
                                          return std::string_view{tensors[place].name} < n;
                                        });
    if (found == by_name.end() || tensors[*found].name != name) return nullptr;
    return &tensors[*found];
  }
  /// Of all tensors together.
  std::uint64_t data_bytes() const { return tensors.empty() ? 0 : tensors.back().end; }
  /// Of the whole file, header and data.
  std::uint64_t file_bytes() const { return data_offset + data_bytes(); }
};

namespace detail {

inline constexpr std::uint64_t most_u64 = std::numeric_limits<std::uint64_t>::max();

/// The bits of a tensor; nothing where the product, taken from the left, is beyond 64 bits.
inline std::optional<std::uint64_t> stored_bits(const StoredDtype& dtype,
                                                const std::vector<std::uint64_t>& shape) {
  std::uint64_t bits = 1;
  const auto times = [&](std::uint64_t by) {
    if (by != 0 && bits > most_u64 / by) return false;
    bits *= by;
    return true;
  };
  for (const std::uint64_t extent : shape)
    if (!times(extent)) return std::nullopt;
  if (!times(dtype.bits)) return std::nullopt;
  return bits;
}

/// Places 0 to `count` - 1, sorted by `before`.
template <class Before>
std::vector<std::size_t> sorted_places(std::size_t count, Before before) {
  std::vector<std::size_t> places(count);
  for (std::size_t i = 0; i < count; ++i) places[i] = i;
  if (!std::is_sorted(places.begin(), places.end(), before))
    std::sort(places.begin(), places.end(), before);
  return places;
}

/// Places of what has names, by name and then by place. A hash would leave how long it takes to
/// who chose the names.
template <class NameOf>
std::vector<std::size_t> places_by_name(std::size_t count, NameOf name_of) {
  return sorted_places(count, [&](std::size_t a, std::size_t b) {
    const int order = std::string_view{name_of(a)}.compare(name_of(b));
    return order != 0 ? order < 0 : a < b;
  });
}

/// The first place whose name stands at an earlier one, too.
template <class NameOf>
std::optional<std::size_t> first_repeated(const std::vector<std::size_t>& by_name, NameOf name_of) {
  std::optional<std::size_t> first;
  for (std::size_t i = 1; i < by_name.size(); ++i)
    if (name_of(by_name[i]) == name_of(by_name[i - 1]) && (!first || by_name[i] < *first))
      first = by_name[i];
  return first;
}

}  // namespace detail
}  // namespace shardexpr
