// SPDX-License-Identifier: Apache-2.0
// Text out of files: what is UTF-8, how JSON writes it, how a line of text shows it.
#include <shardexpr/checkpoint/json_reader.hpp>
#include <shardexpr/checkpoint/json_text.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/utf8.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

using shardexpr::escaped;
using namespace shardexpr::detail;

TEST_CASE("every character is written as UTF-8 and read again, and no surrogate is one") {
  for (std::uint32_t code = 0; code < 0x120000; ++code) {
    std::string text;
    append_utf8(text, code);
    const Utf8Character read = first_utf8(text);
    const bool is_one = code < 0xd800 || (code >= 0xe000 && code < 0x110000);
    if (is_one ? read.code != code || read.bytes != text.size() : read.bytes != 0)
      FAIL("character ", code);
  }
}

// Against the ranges of the table in RFC 3629, section 4.
TEST_CASE("of all four bytes, those are UTF-8 that the standard lists") {
  const auto is_listed = [](const unsigned char* b, std::size_t bytes) {
    const auto in = [](unsigned char c, int from, int to) { return c >= from && c <= to; };
    if (bytes == 2) return in(b[0], 0xc2, 0xdf) && in(b[1], 0x80, 0xbf);
    if (bytes == 3)
      return in(b[2], 0x80, 0xbf) && ((b[0] == 0xe0 && in(b[1], 0xa0, 0xbf)) ||
                                      (in(b[0], 0xe1, 0xec) && in(b[1], 0x80, 0xbf)) ||
                                      (b[0] == 0xed && in(b[1], 0x80, 0x9f)) ||
                                      (in(b[0], 0xee, 0xef) && in(b[1], 0x80, 0xbf)));
    return in(b[2], 0x80, 0xbf) && in(b[3], 0x80, 0xbf) &&
           ((b[0] == 0xf0 && in(b[1], 0x90, 0xbf)) ||
            (in(b[0], 0xf1, 0xf3) && in(b[1], 0x80, 0xbf)) ||
            (b[0] == 0xf4 && in(b[1], 0x80, 0x8f)));
  };
  const unsigned char thirds[] = {0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xff};
  for (int first = 0x80; first < 256; ++first)
    for (int second = 0; second < 256; ++second)
      for (const unsigned char third : thirds)
        for (const unsigned char fourth : thirds) {
          const unsigned char bytes[] = {static_cast<unsigned char>(first),
                                         static_cast<unsigned char>(second), third, fourth};
          std::size_t expected = 0;
          for (std::size_t count = 2; count <= 4; ++count)
            if (is_listed(bytes, count)) expected = count;
          const std::string_view text{reinterpret_cast<const char*>(bytes), 4};
          if (first_utf8(text).bytes != expected) FAIL(first, " ", second, " ", third, " ", fourth);
          // Cut off, it is none.
          for (std::size_t cut = 1; cut < expected; ++cut)
            if (first_utf8(text.substr(0, cut)).bytes != 0) FAIL("cut ", first, " ", second);
        }
}

TEST_CASE("JSON means the text that was written") {
  for (std::uint32_t code = 0; code < 0x3000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string text = "a", json;
    append_utf8(text, code);
    append_json(json, text);
    JsonReader reader{json};
    if (reader.string() != text || reader.at() != json.size()) FAIL("character ", code);
  }
  std::string json;
  append_json(json, std::string_view{"\"\\/\b\f\n\r\t\0\x1f\x7f\u00e9", 13});
  CHECK(json == "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\u00e9\"");
}

TEST_CASE("names show as one line without what moves the cursor") {
  CHECK(escaped("transformer.h.0.attn/weight 'x'") == "transformer.h.0.attn/weight 'x'");
  CHECK(escaped("\u03b2\u03ac\u03c1\u03bf\u03c2 \U0001f600") ==
        "\u03b2\u03ac\u03c1\u03bf\u03c2 \U0001f600");
  CHECK(escaped(std::string_view{"\0\n\x1b[31m\x7f", 8}) == "\\x00\\x0a\\x1b[31m\\x7f");
  CHECK(escaped("\\x00") == "\\\\x00");
  CHECK(escaped("a\xff\xc3") == "a\\xff\\xc3");
  CHECK(escaped("\u0085\u009b\u00ad") == "\\u0085\\u009b\\u00ad");
  CHECK(escaped("\u200b\u202e\u2028\u2066\ufeff\U000e0041") ==
        "\\u200b\\u202e\\u2028\\u2066\\ufeff\\U000e0041");
  CHECK(escaped("\u200a\u2010\u202f\u00a0") == "\u200a\u2010\u202f\u00a0");
  CHECK(escaped("") == "");

  CHECK(shown("a") == "'a'");
  CHECK(shown(std::string(120, 'x')) == "'" + std::string(120, 'x') + "'");
  CHECK(shown(std::string(121, 'x')) == "'" + std::string(120, 'x') + "...'");
  // Not in the middle of a character.
  CHECK(shown(std::string(119, 'x') + "\u20ac\u20ac") == "'" + std::string(119, 'x') + "...'");
  CHECK(shown(std::string(118, 'x') + "\U0001f600") == "'" + std::string(118, 'x') + "...'");
  CHECK(shown(std::string(200, '\x80')).ends_with("\\x80...'"));
}
