// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "document.hpp"
#include <nlohmann/json.hpp>

namespace from_config {
namespace {

/// Puts spaces in the place of comments and of commas behind a last element, so that what follows
/// keeps its line. DeepSpeed reads its file with hjson, which has both.
std::string without_comments(const std::string& name, std::string_view text) {
  std::string out{text};
  std::size_t line = 1;
  char before = 0;                        // the last character that means something
  std::size_t comma = std::string::npos;  // if that is a comma: where
  for (std::size_t i = 0; i < out.size();) {
    const char c = out[i];
    if (c == '"') {
      const std::size_t began = line;
      for (++i; i < out.size() && out[i] != '"'; ++i) {
        if (out[i] == '\\') ++i;
        if (i < out.size() && out[i] == '\n')
          refuse(name, began, "", "a text has no end in its line; close it with \"");
      }
      if (i >= out.size()) refuse(name, began, "", "a text has no end; close it with \"");
      ++i;
      before = '"';
      comma = std::string::npos;
    } else if (c == '#' || (c == '/' && out.substr(i, 2) == "//")) {
      while (i < out.size() && out[i] != '\n') out[i++] = ' ';
    } else if (c == '/' && out.substr(i, 2) == "/*") {
      const std::size_t end = out.find("*/", i + 2);
      if (end == std::string::npos)
        refuse(name, line, "", "a comment has no end; close it with */");
      for (; i < end + 2; ++i)
        if (out[i] == '\n')
          ++line;
        else
          out[i] = ' ';
    } else {
      if (c == '\n') ++line;
      if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
        if ((c == '}' || c == ']') && comma != std::string::npos) out[comma] = ' ';
        const bool follows_value =
            before != 0 && std::string_view{"{[,:"}.find(before) == std::string_view::npos;
        comma = c == ',' && follows_value ? i : std::string::npos;
        before = c;
      }
      ++i;
    }
  }
  return out;
}

/// Characters of a text; `line` counts how far a parser has read.
struct Counted {
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  const char* at;
  std::size_t* line;
  reference operator*() const { return *at; }
  Counted& operator++() {
    if (*at == '\n') ++*line;
    ++at;
    return *this;
  }
  bool operator==(const Counted& other) const { return at == other.at; }
  bool operator!=(const Counted& other) const { return at != other.at; }
};

/// nlohmann's events. A text's own event comes before anything behind it is read; of a number one
/// character behind it was, which may be the end of its line.
struct Events {
  using json = nlohmann::json;
  detail::Builder& build;
  const std::size_t& line;
  std::size_t value_line = 1;  // of the key, which stands before its value

  std::size_t here() const { return value_line == 0 ? line : value_line; }
  bool give(Node node) {
    node.line = here();
    build.scalar(std::move(node));
    return true;
  }
  bool give_number(double value, std::string text, bool is_whole) {
    if (!std::isfinite(value))
      refuse(build.name(), here(), build.path(), text + " is not finite; give a number that is");
    Node node;
    node.kind = Node::Kind::number;
    node.number = value;
    node.text = std::move(text);
    node.is_whole = is_whole;
    return give(std::move(node));
  }

  bool null() { return give({}); }
  bool boolean(bool value) {
    Node node;
    node.kind = Node::Kind::boolean;
    node.boolean = value;
    node.text = value ? "true" : "false";
    return give(std::move(node));
  }
  bool number_integer(std::int64_t value) {
    return give_number(static_cast<double>(value), std::to_string(value), true);
  }
  bool number_unsigned(std::uint64_t value) {
    return give_number(static_cast<double>(value), std::to_string(value), true);
  }
  bool number_float(double value, const std::string& text) {
    return give_number(value, text, text.find_first_of(".eE") == text.npos);
  }
  bool string(std::string& text) {
    Node node;
    node.kind = Node::Kind::text;
    node.text = text;
    return give(std::move(node));
  }
  bool binary(json::binary_t&) { return false; }
  bool start_object(std::size_t) {
    build.begin(Node::Kind::map, here());
    return true;
  }
  bool end_object() {
    build.end();
    return true;
  }
  bool start_array(std::size_t) {
    build.begin(Node::Kind::list, here());
    return true;
  }
  bool end_array() {
    build.end();
    return true;
  }
  bool key(std::string& text) {
    value_line = line;
    build.key(text, line);
    return true;
  }
  bool parse_error(std::size_t, const std::string& last, const json::exception& error) {
    const std::string_view what = error.what();
    if (what.find("number overflow") != what.npos)
      refuse(build.name(), line, build.path(),
             shown(last) + " is not finite; give a number that is");
    if (what.find("unexpected end of input") != what.npos)
      refuse(build.name(), line, build.path(), "the file ends too soon; close what is open");
    // It begins with what was read before, where that was no token by itself.
    const std::size_t before = last.find_last_of(" :,{[>\t");
    const std::string token =
        last.substr(before == last.npos || before + 1 == last.size() ? 0 : before + 1);
    refuse(build.name(), line, build.path(),
           "not JSON at " + shown(token) +
               "; texts and keys stand in \"quotes\", elements are set apart by commas");
  }
};

}  // namespace

Document read_json(const std::string& name, std::string_view bytes) {
  const std::string text = without_comments(name, detail::check_bytes(name, bytes));
  detail::Builder build{name};
  std::size_t line = 1;
  Events events{build, line};
  const char* const begin = text.data();
  nlohmann::json::sax_parse(Counted{begin, &line}, Counted{begin + text.size(), &line}, &events);
  return build.finish();
}

}  // namespace from_config
