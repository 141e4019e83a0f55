// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a configuration file says, with the line where it says it.
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Reading, judging and writing of Accelerate's and DeepSpeed's configuration files.
namespace from_config {

/// A file that is malformed. One line: file, line, key, what, what to do. Status 2.
struct BadFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Node;

/// A value of a file. Numbers are as written in `text`, with the value beside.
struct Node {
  enum class Kind { null, boolean, number, text, list, map };
  Kind kind = Kind::null;
  bool boolean = false;
  bool is_whole = false;  ///< of a number: written without a fraction and an exponent
  double number = 0;
  std::string text;  ///< as written; of a text, without its quotes
  std::size_t line = 1;
  std::vector<Node> list;
  std::vector<std::string> keys;       ///< of a map, in their order
  std::vector<std::size_t> key_lines;  ///< of each key
  std::vector<Node> values;            ///< of each key

  bool is_map() const { return kind == Kind::map; }
  /// The value of a key of a map, or null.
  const Node* find(std::string_view key) const {
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (keys[i] == key) return &values[i];
    return nullptr;
  }
};

struct Document {
  std::string name;  ///< of the file, as messages show it
  Node root;         ///< a map
};

/// What a file may be; beyond it is malformed.
inline constexpr std::size_t most_bytes = std::size_t{1} << 20, most_levels = 32;

/// `file:line: key: what`, or without a key `file:line: what`; each part shown as one line of text.
[[noreturn]] void refuse(const std::string& file, std::size_t line, std::string_view key,
                         const std::string& what);

/// A text out of a file as a message shows it: escaped, in quotes, not too long.
std::string shown(std::string_view text);

/// A key below another as messages name it, "zero_optimization.stage".
std::string join(const std::string& above, std::string_view key);

/// DeepSpeed's JSON: comments (`//`, `#`, `/* */`) and a comma after a last element are read over,
/// as its own reader does; keys and texts are quoted.
/// Errors:  BadFile for whatever is no such JSON, for a key that stands twice, invalid UTF-8, a
///          number that is not finite, more than `most_levels` or `most_bytes`.
Document read_json(const std::string& name, std::string_view bytes);

/// Accelerate's YAML: one document, by the rules of YAML 1.1 that its reader has (`no` is false).
/// Errors:  BadFile as read_json, and for anchors, aliases, merge keys and tags.
Document read_yaml(const std::string& name, std::string_view bytes);

/// The bytes of a file. Errors:  BadFile if it cannot be read, or has more than `most_bytes`.
std::string read_bytes(const std::string& path);

namespace detail {
/// Refuses what neither format may be; returns the bytes without a byte order mark.
std::string_view check_bytes(const std::string& name, std::string_view bytes);

/// Builds a document from the events of a parser; both formats have the same.
class Builder {
 public:
  explicit Builder(std::string name) : name_{std::move(name)} {}
  void key(std::string text, std::size_t line);
  void scalar(Node node);
  void begin(Node::Kind kind, std::size_t line);
  void end();
  /// Errors:  BadFile unless a map was built.
  Document finish();
  /// Where the parser is, for messages: the path of the open key.
  std::string path() const;
  bool expects_key() const;
  const std::string& name() const { return name_; }

 private:
  struct Open {
    Node node;
    std::string key;  // whose value comes next
    std::size_t key_line = 0;
    bool has_key = false;
  };
  void add(Node node);

  std::string name_;
  std::vector<Open> open_;
  Node root_;
  bool is_done_ = false;
};
}  // namespace detail

}  // namespace from_config
