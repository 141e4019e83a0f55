// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/shown_name.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace shardexpr::detail {

/// Appends a string of JSON that means `text`, which is UTF-8. Only what must be is escaped.
/// Source:  RFC 8259, section 7.
inline void append_json(std::string& to, std::string_view text) {
  constexpr std::string_view meant = "\"\\\b\f\n\r\t", named = "\"\\bfnrt";
  to += '"';
  for (const char c : text) {
    const std::size_t which = meant.find(c);
    if (which != std::string_view::npos) {
      to += '\\';
      to += named[which];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      to += "\\u";
      append_hex(to, static_cast<unsigned char>(c), 4);
    } else {
      to += c;
    }
  }
  to += '"';
}

}  // namespace shardexpr::detail
