// SPDX-License-Identifier: Apache-2.0
#include "document.hpp"

#include <shardexpr/checkpoint/shown_name.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace from_config {

std::string shown(std::string_view text) { return shardexpr::detail::shown(text); }

void refuse(const std::string& file, std::size_t line, std::string_view key,
            const std::string& what) {
  std::string text = shardexpr::escaped(file) + ":" + std::to_string(line) + ": ";
  if (!key.empty()) {
    const std::string name = shown(key);  // what is escaped in a message is so in its key
    text += name.substr(1, name.size() - 2) + ": ";
  }
  throw BadFile(text + what);
}

std::string join(const std::string& above, std::string_view key) {
  // A dot in a key must not be read as a step down.
  const bool is_plain = !key.empty() && key.find_first_of(".'") == key.npos;
  const std::string name = is_plain ? std::string{key} : "'" + std::string{key} + "'";
  return above.empty() ? name : above + "." + name;
}

std::string read_bytes(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  if (!file)
    refuse(path, 1, "", "cannot be read: " + std::string{std::strerror(errno)} + "; name a file");
  std::string bytes(most_bytes + 1, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (file.bad()) refuse(path, 1, "", "cannot be read; name a file, not a folder");
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  return bytes;
}

namespace detail {

std::string_view check_bytes(const std::string& name, std::string_view bytes) {
  if (bytes.size() > most_bytes)
    refuse(name, 1, "", "has more than 1 MiB; a configuration is not that long");
  if (bytes.starts_with("\xff\xfe") || bytes.starts_with("\xfe\xff"))
    refuse(name, 1, "", "is UTF-16; write it as UTF-8");
  if (bytes.starts_with("\xef\xbb\xbf")) bytes.remove_prefix(3);
  std::size_t line = 1;
  for (std::string_view rest = bytes; !rest.empty();) {
    const auto c = shardexpr::detail::first_utf8(rest);
    if (c.bytes == 0)
      refuse(name, line, "",
             "byte " + std::to_string(bytes.size() - rest.size()) +
                 " is not UTF-8; write the file as UTF-8");
    if ((c.code < 0x20 && c.code != '\n' && c.code != '\r' && c.code != '\t') || c.code == 0x7f)
      refuse(name, line, "", "a control character stands here; remove it");
    if (c.code == '\n') ++line;
    rest.remove_prefix(c.bytes);
  }
  if (bytes.find_first_not_of(" \t\r\n") == bytes.npos)
    refuse(name, 1, "", "the file is empty; give at least one key");
  return bytes;
}

std::string Builder::path() const {
  std::string path;
  for (const Open& open : open_) {
    if (open.node.kind == Node::Kind::list)
      path += "[" + std::to_string(open.node.list.size()) + "]";
    else if (open.has_key)
      path = join(path, open.key);
  }
  return path;
}

bool Builder::expects_key() const {
  return !open_.empty() && open_.back().node.is_map() && !open_.back().has_key;
}

void Builder::key(std::string text, std::size_t line) {
  Open& open = open_.back();
  for (std::size_t i = 0; i < open.node.keys.size(); ++i)
    if (open.node.keys[i] == text)
      refuse(name_, line, join(path(), text),
             "stands twice, also in line " + std::to_string(open.node.key_lines[i]) +
                 "; keep one of them");
  open.key = std::move(text);
  open.key_line = line;
  open.has_key = true;
}

void Builder::scalar(Node node) { add(std::move(node)); }

void Builder::begin(Node::Kind kind, std::size_t line) {
  if (open_.size() == most_levels)
    refuse(name_, line, path(), "is nested deeper than 32 levels; no configuration is");
  Open open;
  open.node.kind = kind;
  open.node.line = line;
  open_.push_back(std::move(open));
}

void Builder::end() {
  Node node = std::move(open_.back().node);
  open_.pop_back();
  add(std::move(node));
}

void Builder::add(Node node) {
  if (open_.empty()) {
    root_ = std::move(node);
    is_done_ = true;
    return;
  }
  Open& open = open_.back();
  if (open.node.kind == Node::Kind::list) {
    open.node.list.push_back(std::move(node));
    return;
  }
  open.node.keys.push_back(std::move(open.key));
  open.node.key_lines.push_back(open.key_line);
  open.node.values.push_back(std::move(node));
  open.has_key = false;
}

Document Builder::finish() {
  if (!is_done_ || !root_.is_map())
    refuse(name_, is_done_ ? root_.line : 1, "",
           "does not hold keys and values; give `key: value`, or {\"key\": value}");
  return {name_, std::move(root_)};
}

}  // namespace detail
}  // namespace from_config
