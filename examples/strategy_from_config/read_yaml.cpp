// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "document.hpp"
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

namespace from_config {
namespace {

std::size_t line_of(const YAML::Mark& mark) { return static_cast<std::size_t>(mark.line) + 1; }

template <std::size_t N>
bool is_among(std::string_view text, const std::array<const char*, N>& words) {
  for (const char* word : words)
    if (text == word) return true;
  return false;
}

/// A scalar without quotes is what YAML 1.1 makes of it, as Accelerate's reader does. Its numbers
/// with an exponent need a point and a sign, `1.0e+8`: `1e8` is a text there, and here.
Node plain(const std::string& text) {
  static const std::array nulls{"", "~", "null", "Null", "NULL"};
  static const std::array trues{"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"};
  static const std::array falses{"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"};
  Node node;
  node.text = text;
  if (is_among(text, nulls)) return node;
  if (is_among(text, trues) || is_among(text, falses)) {
    node.kind = Node::Kind::boolean;
    node.boolean = is_among(text, trues);
    return node;
  }
  node.kind = Node::Kind::text;
  const bool is_signed = text[0] == '-' || text[0] == '+';
  const std::string_view digits = std::string_view{text}.substr(is_signed ? 1 : 0);
  const std::size_t whole = digits.find_first_not_of("0123456789");
  const bool is_whole =
      whole == digits.npos && !digits.empty() && (digits == "0" || digits[0] != '0');
  bool is_real = false;
  if (!is_whole && whole != 0 && whole != digits.npos && digits[whole] == '.') {
    std::string_view rest = digits.substr(whole + 1);
    rest.remove_prefix(std::min(rest.find_first_not_of("0123456789"), rest.size()));
    is_real = rest.empty();
    if (rest.size() > 2 && (rest[0] == 'e' || rest[0] == 'E') && (rest[1] == '+' || rest[1] == '-'))
      is_real = rest.find_first_not_of("0123456789", 2) == rest.npos;
  }
  const bool is_infinite = digits == ".inf" || digits == ".nan" || digits == ".Inf" ||
                           digits == ".NaN" || digits == ".INF" || digits == ".NAN";
  if (!is_whole && !is_real && !is_infinite) return node;
  node.kind = Node::Kind::number;
  node.is_whole = is_whole;
  node.number = HUGE_VAL;
  const char* const begin = text.data() + (text[0] == '+' ? 1 : 0);
  double value = 0;
  if (!is_infinite && std::from_chars(begin, text.data() + text.size(), value).ec == std::errc{})
    node.number = value;
  return node;
}

class Events final : public YAML::EventHandler {
 public:
  Events(detail::Builder& build, std::string_view text) : build_{build}, text_{text} {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1)
      refuse(build_.name(), line_of(mark), "", "a second document begins; keep one");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    take(mark, "?", anchor, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(build_.name(), line_of(mark), build_.path(), "an alias; write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    take(mark, tag, anchor, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    begin(Node::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { build_.end(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    begin(Node::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { build_.end(); }

 private:
  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0)
      refuse(build_.name(), line_of(mark), build_.path(), "an anchor; write values out");
    // Of plain scalars "?", of quoted "!"; of maps and lists "?" or nothing.
    if (!tag.empty() && tag != "?" && tag != "!")
      refuse(build_.name(), line_of(mark), build_.path(),
             "a tag, " + shown(tag) + "; leave it out");
  }
  void begin(Node::Kind kind, const YAML::Mark& mark, const std::string& tag,
             YAML::anchor_t anchor) {
    check(mark, tag, anchor);
    if (build_.expects_key())
      refuse(build_.name(), line_of(mark), build_.path(), "a key that is a list or a map; name it");
    build_.begin(kind, line_of(mark));
  }
  void take(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            const std::string& value) {
    check(mark, tag, anchor);
    const std::size_t line = line_of(mark);
    if (tag == "!") check_closed(mark);
    if (build_.expects_key()) {
      if (value == "<<")
        refuse(build_.name(), line, build_.path(), "a merge key; write the values out");
      return build_.key(value, line);
    }
    Node node;
    if (tag == "!") {
      node.kind = Node::Kind::text;
      node.text = value;
    } else {
      node = plain(value);
    }
    if (node.kind == Node::Kind::number && !std::isfinite(node.number))
      refuse(build_.name(), line, build_.path(),
             shown(value) + " is not finite; give a number that is");
    node.line = line;
    build_.scalar(std::move(node));
  }

  /// yaml-cpp takes a text in quotes that the file ends in.
  void check_closed(const YAML::Mark& mark) {
    const auto begin = static_cast<std::size_t>(mark.pos);
    const char quote = begin < text_.size() ? text_[begin] : '\0';
    bool is_closed = false;
    if (quote == '\'' || quote == '"')
      for (std::size_t i = begin + 1; i < text_.size() && !is_closed; ++i) {
        const bool escapes = quote == '"' ? text_[i] == '\\' : text_.substr(i, 2) == "''";
        if (escapes)
          ++i;
        else
          is_closed = text_[i] == quote;
      }
    if (!is_closed)
      refuse(build_.name(), line_of(mark), build_.path(),
             "a text in quotes has no end; close it with the quote that begins it");
  }

  detail::Builder& build_;
  std::string_view text_;
  int documents_ = 0;
};

}  // namespace

Document read_yaml(const std::string& name, std::string_view bytes) {
  const std::string_view checked = detail::check_bytes(name, bytes);
  std::istringstream text{std::string{checked}};
  detail::Builder build{name};
  Events events{build, checked};
  try {
    YAML::Parser parser{text};
    while (parser.HandleNextDocument(events)) {
    }
  } catch (const YAML::Exception& error) {
    refuse(name, error.mark.is_null() ? 1 : line_of(error.mark), build.path(),
           "not YAML: " + shown(error.msg).substr(0, 200) + "; check indentation and brackets");
  }
  return build.finish();
}

}  // namespace from_config
