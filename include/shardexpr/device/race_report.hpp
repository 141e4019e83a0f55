// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/function_name.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/access_log.hpp>
#include <shardexpr/device/account.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace shardexpr::detail {

inline std::string_view bare_file_name(std::string_view path) {
  return path.substr(path.find_last_of("/\\") + 1);
}

/// "forward 3 (run_unit, gpt.hpp:81)", or without a label "run_unit (gpt.hpp:81)".
inline std::string operation_text(const Touch& touch) {
  std::string text{touch.label.what};
  if (!text.empty() && touch.label.unit != Label::no_unit)
    text += " " + std::to_string(touch.label.unit);
  const std::string_view function = bare_function_name(touch.where.function_name());
  text += text.empty() ? "" : " (";
  text += function;
  text += touch.label.what.empty() ? " (" : ", ";
  text += bare_file_name(touch.where.file_name());
  return text + ":" + std::to_string(touch.where.line()) + ")";
}

inline std::string_view noun_of(Touching how) {
  constexpr std::string_view nouns[] = {"read", "write", "retirement", "free"};
  return nouns[static_cast<std::size_t>(how)];
}

/// Whose access it is: "read by forward 3 (run_unit, gpt.hpp:81) on stream "compute"".
inline std::string touch_text(const Touch& touch) {
  if (touch.how == Touching::free) return "free by the host";
  std::string text{noun_of(touch.how)};
  text += " by " + operation_text(touch) + " on stream \"";
  return (text += touch.stream_name) += "\"";
}

inline std::string bytes_text(const AccessLog& log, std::uintptr_t begin, std::uintptr_t end) {
  const auto block = log.block_at(begin);
  const bool is_file = !block && begin >= FileRange::base;
  const std::uintptr_t base = block ? block->begin
                              : is_file
                                  ? begin - (begin - FileRange::base) % FileRange::largest_file
                                  : begin;
  std::string text =
      "bytes [" + std::to_string(begin - base) + ", " + std::to_string(end - base) + ") of ";
  if (block) {
    text += block->on_host ? "a host buffer for " : "a buffer for ";
    text += purpose_names[static_cast<std::size_t>(block->purpose)];
    return text + " of " + std::to_string(block->size_bytes) + " bytes";
  }
  if (is_file)
    return text + "file " + std::to_string((base - FileRange::base) / FileRange::largest_file);
  char digits[2 * sizeof base];
  text += "memory of another owner at 0x";
  return text.append(digits, std::to_chars(digits, digits + sizeof digits, base, 16).ptr);
}

/// One line: what, where, what to do.
inline std::string conflict_text(const AccessLog& log, const Conflict& conflict) {
  const Touch &now = conflict.now, &earlier = conflict.earlier;
  const std::string bytes = bytes_text(log, conflict.begin, conflict.end);
  if (conflict.is_ordered) {
    std::string text = "use after release of " + bytes + ": " + touch_text(now) + ", behind the " +
                       touch_text(earlier);
    if (earlier.how == Touching::free) return text + ": let the buffer live longer";
    return text + " and no write since: write them again before, or retire them later";
  }
  std::string text = "race on " + bytes + ": " + touch_text(now) + ", not ordered behind the " +
                     touch_text(earlier) + ": ";
  const std::string other = "\"" + std::string{earlier.stream_name} + "\"";
  if (now.how == Touching::free)
    return text + "synchronize with " + other + " before the buffer goes";
  return text + "let \"" + std::string{now.stream_name} + "\" wait for an event recorded on " +
         other + " behind it";
}

}  // namespace shardexpr::detail
