// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// A value of a log or a trace: an object, an array, a string or a number. Strict: no other kinds,
/// no space outside strings but for a line break around the values of an array, no escapes but
/// those that must be, no name twice, nothing behind the end. Files of this project need no more,
/// and null would hide a NaN.
struct Json {
  enum class Kind { object, array, string, number };
  Kind kind = Kind::object;
  std::string text;  ///< of a string, or a number as written
  double number = 0;
  std::vector<std::string> keys;  ///< of an object, as written
  std::vector<Json> values;       ///< one for each key, or those of an array

  /// Errors:  std::runtime_error on anything else.
  static Json parse(std::string_view text) {
    const std::string whole{text};
    Json value = parse_value(text);
    if (!text.empty()) throw std::runtime_error("more behind the end: " + whole);
    return value;
  }

  bool has(std::string_view name) const {
    return std::find(keys.begin(), keys.end(), name) != keys.end();
  }
  const Json& operator[](std::string_view name) const {
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (keys[i] == name) return values[i];
    throw std::runtime_error("no field " + std::string(name));
  }
  const std::vector<Json>& array() const { return of(Kind::array).values; }
  std::string string() const { return of(Kind::string).text; }
  double real() const { return of(Kind::number).number; }
  /// A count: digits and nothing else.
  std::size_t count() const {
    if (of(Kind::number).text.find_first_not_of("0123456789") != std::string::npos)
      throw std::runtime_error("no whole number: " + text);
    return std::strtoull(text.c_str(), nullptr, 10);
  }
  std::string names() const {
    std::string all;
    for (const std::string& key : of(Kind::object).keys) all += (all.empty() ? "" : " ") + key;
    return all;
  }

 private:
  const Json& of(Kind wanted) const {
    if (kind != wanted) throw std::runtime_error("a value of another kind");
    return *this;
  }
  static bool eat(std::string_view& text, char c) {
    if (text.empty() || text.front() != c) return false;
    text.remove_prefix(1);
    return true;
  }
  static void need(std::string_view& text, char c) {
    if (!eat(text, c))
      throw std::runtime_error(std::string("want '") + c + "' at: " + std::string(text));
  }
  static std::string parse_string(std::string_view& text) {
    need(text, '"');
    std::string value;
    while (!text.empty() && text.front() != '"') {
      if (static_cast<unsigned char>(text.front()) < ' ')
        throw std::runtime_error("control character at: " + std::string(text));
      if (eat(text, '\\'))
        value += parse_escape(text);
      else {
        value += text.front();
        text.remove_prefix(1);
      }
    }
    need(text, '"');
    return value;
  }
  static char parse_escape(std::string_view& text) {
    for (const char c : {'"', '\\'})
      if (eat(text, c)) return c;
    need(text, 'u');
    unsigned code = 0;
    for (int digit = 0; digit < 4; ++digit) {
      const std::size_t at =
          std::string_view{"0123456789abcdef"}.find(text.empty() ? ' ' : text[0]);
      if (at == std::string_view::npos)
        throw std::runtime_error("no digit at: " + std::string(text));
      code = code * 16 + static_cast<unsigned>(at);
      text.remove_prefix(1);
    }
    if (code >= ' ') throw std::runtime_error("needless escape before: " + std::string(text));
    return static_cast<char>(code);
  }
  static Json parse_value(std::string_view& text) {
    Json value;
    if (eat(text, '[')) {
      value.kind = Kind::array;
      eat(text, '\n');
      if (eat(text, ']')) return value;
      for (;;) {
        value.values.push_back(parse_value(text));
        if (!eat(text, ',')) break;
        eat(text, '\n');
      }
      eat(text, '\n');
      need(text, ']');
      return value;
    }
    if (eat(text, '{')) {
      if (eat(text, '}')) return value;
      do {
        std::string name = parse_string(text);
        for (const std::string& key : value.keys)
          if (key == name) throw std::runtime_error("twice: " + name);
        need(text, ':');
        value.keys.push_back(std::move(name));
        value.values.push_back(parse_value(text));
      } while (eat(text, ','));
      need(text, '}');
      return value;
    }
    if (!text.empty() && text.front() == '"') {
      value.kind = Kind::string;
      value.text = parse_string(text);
      return value;
    }
    value.kind = Kind::number;
    const auto digits = [&] {
      std::size_t n = 0;
      for (; n < text.size() && std::isdigit(static_cast<unsigned char>(text[n])) != 0; ++n) {
      }
      if (n == 0) throw std::runtime_error("no value at: " + std::string(text));
      value.text += text.substr(0, n);
      text.remove_prefix(n);
      return n;
    };
    if (eat(text, '-')) value.text += '-';
    const bool zero = !text.empty() && text.front() == '0';
    if (digits() > 1 && zero) throw std::runtime_error("leading zero: " + value.text);
    if (eat(text, '.')) value.text += '.', digits();
    if (eat(text, 'e')) {
      value.text += 'e';
      if (eat(text, '-'))
        value.text += '-';
      else if (eat(text, '+'))
        value.text += '+';
      digits();
    }
    value.number = std::strtod(value.text.c_str(), nullptr);
    if (!std::isfinite(value.number)) throw std::runtime_error("beyond double: " + value.text);
    return value;
  }
};
