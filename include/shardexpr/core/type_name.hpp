// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace shardexpr {

namespace detail {
template <class T>
constexpr std::string_view pretty() {
  return __PRETTY_FUNCTION__;
}
// The compiler's own wording around the name, measured once on a type whose name is known.
inline constexpr std::size_t pretty_prefix = pretty<int>().find("int");
inline constexpr std::size_t pretty_suffix = pretty<int>().size() - pretty_prefix - 3;

template <class T>
constexpr std::string_view raw_type_name() {
  std::string_view text = pretty<T>();
  return text.substr(pretty_prefix, text.size() - pretty_prefix - pretty_suffix);
}
}  // namespace detail

/// FNV-1a, 64 bits. Names of parameters and types are compared and seeded by it.
constexpr std::uint64_t hash_of(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

/// A number that tells types apart in constant expressions; not stable across compilers.
template <class T>
inline constexpr std::uint64_t type_hash = hash_of(detail::raw_type_name<T>());

/// A type as its user writes it: the compiler's name without `shardexpr::`.
template <class T>
std::string type_name() {
  std::string name{detail::raw_type_name<T>()};
  for (std::size_t at; (at = name.find("shardexpr::")) != std::string::npos;) name.erase(at, 11);
  return name;
}

}  // namespace shardexpr
