// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string_view>

namespace shardexpr::detail {

constexpr bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/// Where the parameter list of `text` begins: the first bracket outside others that is no part of
/// a type or of `(anonymous namespace)`. Its size if there is none.
constexpr std::size_t parameters_begin(std::string_view text) {
  constexpr std::string_view no_function[] = {"decltype", "noexcept", "alignas"};
  std::size_t depth = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const std::string_view before = text.substr(0, at);
    if (before.ends_with("operator") && (c == '<' || c == '(')) {
      if (text.substr(at).starts_with("()")) return at + 2;
      return text.find('(', at);
    }
    if (c == '(' && depth == 0 && at > 0) {
      bool name = is_name_char(before.back()) || before.back() == '>' || before.back() == '=';
      for (const std::string_view word : no_function) name = name && !before.ends_with(word);
      if (name || before.find("operator") != before.npos) return at;
    }
    if (c == '<' || c == '(' || c == '[' || c == '{') ++depth;
    if ((c == '>' || c == ')' || c == ']' || c == '}') && depth > 0) --depth;
  }
  return text.size();
}

/// The name of a function as its author writes it, of what `SourceLocation::function_name` says:
/// without result, scopes, template arguments and parameters. A lambda's is that of the function
/// it stands in, where the compiler tells (g++ does; clang 14 says `operator()`).
constexpr std::string_view bare_function_name(std::string_view text) {
  std::string_view name = text.substr(0, parameters_begin(text));
  if (const std::size_t at = name.find("operator");
      at != name.npos && (at == 0 || !is_name_char(name[at - 1])) &&
      (at + 8 == name.size() || !is_name_char(name[at + 8])))
    return name.substr(at);
  if (name.ends_with('>')) {  // arguments of a specialization
    std::size_t depth = 0, at = name.size();
    do {
      --at;
      if (name[at] == '>') ++depth;
      if (name[at] == '<') --depth;
    } while (depth != 0 && at != 0);
    name = name.substr(0, at);
  }
  std::size_t first = name.size();
  while (first > 0 && (is_name_char(name[first - 1]) || name[first - 1] == '~')) --first;
  return first == name.size() ? text : name.substr(first);
}

}  // namespace shardexpr::detail
