// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/utf8.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace shardexpr {
namespace detail {

/// What does not show, moves the cursor, breaks the line or turns the direction of writing.
inline bool is_shown(std::uint32_t code) {
  return !(code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0xad ||
           (code >= 0x200b && code < 0x2010) || (code >= 0x2028 && code < 0x202f) ||
           (code >= 0x2060 && code < 0x2070) || code == 0xfeff ||
           (code >= 0xfff9 && code < 0xfffc) || (code >= 0xe0000 && code < 0xe1000));
}

inline void append_hex(std::string& to, std::uint32_t value, unsigned digits) {
  for (unsigned i = digits; i-- > 0;) to += "0123456789abcdef"[value >> 4 * i & 15];
}

}  // namespace detail

/// A name out of a file as a line of text can carry it: control characters, invisible ones and what
/// is not UTF-8 are written `\x1b`, `\u202e`, `\U000e0001`, a backslash as two. Names are text of
/// strangers: they go to a terminal in this form alone, and never to the system as a path.
inline std::string escaped(std::string_view name) {
  std::string text;
  while (!name.empty()) {
    const detail::Utf8Character c = detail::first_utf8(name);
    const std::size_t bytes = c.bytes == 0 ? 1 : c.bytes;
    if (c.bytes == 0 || (c.bytes == 1 && !detail::is_shown(c.code))) {
      text += "\\x";
      detail::append_hex(text, static_cast<unsigned char>(name[0]), 2);
    } else if (!detail::is_shown(c.code)) {
      text += c.code < 0x10000 ? "\\u" : "\\U";
      detail::append_hex(text, c.code, c.code < 0x10000 ? 4 : 8);
    } else if (c.code == '\\') {
      text += "\\\\";
    } else {
      text += name.substr(0, bytes);
    }
    name.remove_prefix(bytes);
  }
  return text;
}

namespace detail {

/// A name as a message shows it: escaped, in quotes, not too long.
inline std::string shown(std::string_view name) {
  constexpr std::size_t most = 120;
  if (name.size() <= most) return "'" + escaped(name) + "'";
  std::size_t cut = most;
  while (cut > most - 4 && (static_cast<unsigned char>(name[cut]) & 0xc0) == 0x80) --cut;
  return "'" + escaped(name.substr(0, cut)) + "...'";
}

}  // namespace detail
}  // namespace shardexpr
