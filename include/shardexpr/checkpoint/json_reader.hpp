// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/utf8.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace shardexpr::detail {

/// What a text breaks, and where: a byte of the text.
struct JsonFault {
  std::string what;
  std::size_t at = 0;
};

/// Reads a JSON text in order, once, as its caller expects it; what is not JSON by RFC 8259 is a
/// fault, and so are a number that is not written as a whole one where one is asked for, and more
/// than `most_depth` levels.
///
/// Errors:  JsonFault, thrown.
/// Cost:    one pass. Strings are copied where they are asked for; what is skipped is not.
/// Source:  RFC 8259.
class JsonReader {
 public:
  static constexpr std::size_t most_depth = 127;  // as serde_json, which refuses the 128th

  explicit JsonReader(std::string_view text) : text_{text} {}

  std::size_t at() const { return at_; }
  [[noreturn]] void fail(std::string what) const { throw JsonFault{std::move(what), at_}; }
  [[noreturn]] static void fail_at(std::string what, std::size_t at) {
    throw JsonFault{std::move(what), at};
  }

  /// Calls `member(key, at)` for each member; it must read the value. `at` is where the key stands.
  template <class Member>
  void object(Member member) {
    const Level level{*this};
    expect('{', "an object");
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      const std::size_t at = at_;
      std::string key = string("a member's name");
      skip_space();
      expect(':', "':'");
      skip_space();
      member(std::move(key), at);
      skip_space();
    } while (take(','));
    expect('}', "',' or '}'");
  }
  /// Calls `element()` for each element; it must read it.
  template <class Element>
  void array(Element element) {
    const Level level{*this};
    expect('[', "an array");
    skip_space();
    if (take(']')) return;
    do {
      skip_space();
      element();
      skip_space();
    } while (take(','));
    expect(']', "',' or ']'");
  }

  std::string string(const char* what = "a string") {
    std::string value;
    read_string(what, &value);
    return value;
  }
  /// A number that is written as a whole one and is not negative.
  std::uint64_t integer(const char* what) {
    const std::size_t begin = at_;
    if (!is_digit(peek())) fail(std::string{"expected "} + what + ", a whole number");
    std::uint64_t value = 0;
    while (is_digit(peek())) {
      const auto digit = static_cast<std::uint64_t>(peek() - '0');
      if (at_ > begin && value == 0) fail_at("a number begins with 0", begin);
      if (value > (std::numeric_limits<std::uint64_t>::max() - digit) / 10)
        fail_at(std::string{what} + " is beyond 64 bits", begin);
      value = 10 * value + digit;
      ++at_;
    }
    if (peek() == '.' || peek() == 'e' || peek() == 'E')
      fail_at(std::string{what} + " is no whole number", begin);
    return value;
  }
  void skip_value() {
    switch (peek()) {
      case '{':
        return object([this](std::string&&, std::size_t) { skip_value(); });
      case '[':
        return array([this] { skip_value(); });
      case '"':
        return read_string("a string", nullptr);
      case 't':
        return skip_word("true");
      case 'f':
        return skip_word("false");
      case 'n':
        return skip_word("null");
      default:
        skip_number();
    }
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }
  /// Nothing but white space may follow.
  void end() {
    skip_space();
    if (at_ != text_.size()) fail("something follows the object");
  }

 private:
  struct Level {
    explicit Level(JsonReader& r) : reader{r} {
      if (++reader.depth_ > most_depth)
        reader.fail("nested more than " + std::to_string(most_depth) + " levels deep");
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --reader.depth_; }
    JsonReader& reader;
  };

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_plain(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
  }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c, const char* what) {
    if (!take(c)) fail(std::string{"expected "} + what + found());
  }
  std::string found() const { return at_ < text_.size() ? "" : ", and the text ends"; }

  void skip_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("expected a value");
    at_ += word.size();
  }
  void skip_digits() {
    if (!is_digit(peek())) fail("expected a digit");
    while (is_digit(peek())) ++at_;
  }
  void skip_number() {
    if (peek() != '-' && !is_digit(peek())) fail("expected a value" + found());
    take('-');
    if (!take('0')) skip_digits();
    if (is_digit(peek())) fail("a number begins with 0");
    if (take('.')) skip_digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      skip_digits();
    }
  }

  void read_string(const char* what, std::string* to) {
    const std::size_t begin = at_;
    if (!take('"')) fail(std::string{"expected "} + what + found());
    for (;;) {
      const std::size_t plain = at_;
      while (at_ < text_.size() && is_plain(text_[at_])) ++at_;
      if (to != nullptr) to->append(text_.substr(plain, at_ - plain));
      if (at_ == text_.size()) fail_at("a string does not end", begin);
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fail("a control character in a string: write \\u00..");
      if (c == '\\')
        read_escape(to);
      else
        read_utf8(to);
    }
    ++at_;
  }
  void read_utf8(std::string* to) {
    const std::size_t bytes = first_utf8(text_.substr(at_)).bytes;
    if (bytes == 0) fail("bytes that are not UTF-8");
    if (to != nullptr) to->append(text_.substr(at_, bytes));
    at_ += bytes;
  }
  void read_escape(std::string* to) {
    const std::size_t begin = at_++;
    constexpr std::string_view named = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (at_ < text_.size() && c == 'u') {
      ++at_;
      std::uint32_t code = read_hex(begin);
      if (code >= 0xdc00 && code < 0xe000) fail_at("half a surrogate pair", begin);
      if (code >= 0xd800 && code < 0xdc00) {
        if (text_.substr(at_, 2) != "\\u") fail_at("half a surrogate pair", begin);
        at_ += 2;
        const std::uint32_t low = read_hex(begin);
        if (low < 0xdc00 || low >= 0xe000) fail_at("half a surrogate pair", begin);
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      }
      if (to != nullptr) append_utf8(*to, code);
      return;
    }
    const std::size_t which = at_ < text_.size() ? named.find(c) : std::string_view::npos;
    if (which == std::string_view::npos) fail_at("an escape that JSON does not have", begin);
    if (to != nullptr) to->push_back(meant[which]);
    ++at_;
  }
  std::uint32_t read_hex(std::size_t begin) {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      std::uint32_t digit = 0;
      if (is_digit(c))
        digit = static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<std::uint32_t>(c - 'A' + 10);
      else
        fail_at("\\u without four hexadecimal digits", begin);
      code = code * 16 + digit;
    }
    return code;
  }
  std::string_view text_;
  std::size_t at_ = 0, depth_ = 0;
};

}  // namespace shardexpr::detail
