// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/shown_name.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace shardexpr::detail {

/// Appends a string of JSON that means `text`, which is UTF-8. Only what must be is escaped.
/// Source:  RFC 8259, section 7.
inline void append_json(std::string& to, std::string_view text) {
  constexpr std::string_view meant = "\"\\\b\f\n\r\t", named = "\"\\bfnrt";
  to += '"';
  while (!text.empty()) {
    const auto* const special = std::find_if(text.data(), text.data() + text.size(), [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\';
    });
    const auto plain = static_cast<std::size_t>(special - text.data());
    to += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    to += '\\';
    const std::size_t which = meant.find(text[0]);
    if (which != std::string_view::npos) {
      to += named[which];
    } else {
      to += 'u';
      append_hex(to, static_cast<unsigned char>(text[0]), 4);
    }
    text.remove_prefix(1);
  }
  to += '"';
}

}  // namespace shardexpr::detail
