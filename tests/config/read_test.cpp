// SPDX-License-Identifier: Apache-2.0
// The two readers: what they take, and that what they refuse they refuse in one line with file,
// line and key.
#include <string>
#include <string_view>

#include "../../examples/strategy_from_config/document.hpp"
#include <doctest/doctest.h>

using namespace from_config;

namespace {

using Read = Document (*)(const std::string&, std::string_view);

/// What a reader says to bytes; empty if it takes them.
std::string said(Read read, std::string_view bytes) {
  try {
    (void)read("file", bytes);
    return {};
  } catch (const BadFile& error) {
    return error.what();
  }
}
std::string json(std::string_view bytes) { return said(read_json, bytes); }
std::string yaml(std::string_view bytes) { return said(read_yaml, bytes); }

bool begins(const std::string& text, const std::string& with) { return text.starts_with(with); }

}  // namespace

TEST_CASE("json: values, kinds and lines") {
  const Document d = read_json("file",
                               "{\n\"a\": 5e8,\n\"b\": {\"c\": \"auto\",\n \"d\": [0.9,\n2]},"
                               "\n\n\"e\": true, \"f\": null\n}\n");
  const Node* const a = d.root.find("a");
  REQUIRE(a != nullptr);
  CHECK(a->kind == Node::Kind::number);
  CHECK(a->number == 5e8);
  CHECK(a->text == "5e8");
  CHECK_FALSE(a->is_whole);
  CHECK(a->line == 2);
  const Node* const b = d.root.find("b");
  REQUIRE(b != nullptr);
  CHECK(b->find("c")->kind == Node::Kind::text);
  CHECK(b->find("c")->text == "auto");
  CHECK(b->find("d")->line == 4);
  CHECK(b->find("d")->list.size() == 2);
  CHECK(d.root.find("e")->boolean);
  CHECK(d.root.find("e")->line == 7);
  CHECK(d.root.find("f")->kind == Node::Kind::null);
  CHECK(d.root.key_lines == std::vector<std::size_t>{2, 3, 7, 7});
}

TEST_CASE("json: comments and last commas are read over, and keep the lines") {
  const Document d = read_json(
      "file",
      "# of the run\n{ // what\n/* two\nlines */ \"a\": [1, 2, ], # a\n \"b\": \"//#/*\",}\n");
  CHECK(d.root.find("a")->line == 4);
  CHECK(d.root.find("a")->list.size() == 2);
  CHECK(d.root.find("b")->text == "//#/*");
  CHECK(d.root.find("b")->line == 5);
  CHECK(json("{\"a\": \"\\\"//\"}").empty());  // an escaped quote does not end a text
  for (const char* text : {"{,}", "{\"a\": [,]}", "{\"a\": 1,,}", "{\"a\":,}", "{\"a\": 1} /"})
    CHECK_FALSE(json(text).empty());
  CHECK(json("{\"a\": 1 /* no end\n") == "file:1: a comment has no end; close it with */");
}

TEST_CASE("json: what is malformed is one line with file, line and key") {
  CHECK(json("{\n\"a\": {\"b\": 1,\n\"b\": 2}}") ==
        "file:3: a.b: stands twice, also in line 2; keep one of them");
  CHECK(json("{\n\"a\": 1,\n\"b\": {\"c\": ") ==
        "file:3: b.c: the file ends too soon; close what is open");
  CHECK(begins(json("{\n\"stage\":\nCONFIG_STAGE}"), "file:3: stage: not JSON at 'C'; texts"));
  CHECK(begins(json("{stage: 1}"), "file:1: not JSON at 's'"));
  CHECK(begins(json("{\"a\": 'x'}"), "file:1: a: not JSON"));
  CHECK(begins(json("{\"a\": NaN}"), "file:1: a: not JSON"));
  CHECK(json("{\"a\": 1e999}") == "file:1: a: '1e999' is not finite; give a number that is");
  CHECK(json("{\"a\": \"x\n\"}") == "file:1: a text has no end in its line; close it with \"");
  CHECK(json("{\"a\": \"x") == "file:1: a text has no end; close it with \"");
  CHECK(begins(json("{\"a\": 1} 2"), "file:1: not JSON at '2'"));
  CHECK(begins(json("[1]"), "file:1: does not hold keys"));
  CHECK(begins(json("3"), "file:1: does not hold keys"));
}

TEST_CASE("json: whole numbers beyond 64 bits stay what they are") {
  const Document d = read_json("file", "{\"a\": 123456789012345678901234567890, \"b\": -1}");
  CHECK(d.root.find("a")->text == "123456789012345678901234567890");
  CHECK(d.root.find("a")->is_whole);
  CHECK(d.root.find("a")->number > 1e29);
  CHECK(d.root.find("b")->number == -1);
}

TEST_CASE("both: bytes that are no text") {
  for (const Read read : {&read_json, &read_yaml}) {
    CHECK(said(read, "") == "file:1: the file is empty; give at least one key");
    CHECK(said(read, " \r\n\t") == "file:1: the file is empty; give at least one key");
    CHECK(said(read, std::string_view{"\xff\xfe{\0", 4}) == "file:1: is UTF-16; write it as UTF-8");
    CHECK(said(read, "{\n\"a\": \"\xc3\x28\"}") ==
          "file:2: byte 8 is not UTF-8; write the file as UTF-8");
    CHECK(said(read, std::string_view{"{\"a\": \0}", 8}) ==
          "file:1: a control character stands here; remove it");
    CHECK(said(read, "{\"a\": \"\x1b[31m\"}") ==
          "file:1: a control character stands here; remove it");
    CHECK(said(read, std::string(most_bytes + 1, ' ')) ==
          "file:1: has more than 1 MiB; a configuration is not that long");
    CHECK(said(read, "\xef\xbb\xbf{\"a\": 1}").empty());
    CHECK(said(read, "{\"a\": 1,\r\n\"b\": 2}\r\n").empty());
    CHECK(said(read, "{\"\xc3\xa4\": \"\xe2\x82\xac\"}").empty());
  }
}

TEST_CASE("both: nesting ends at 32 levels") {
  for (const Read read : {&read_json, &read_yaml}) {
    const auto nested = [](std::size_t levels) {
      return "{\"a\": " + std::string(levels - 1, '[') + std::string(levels - 1, ']') + "}";
    };
    CHECK(said(read, nested(32)).empty());
    CHECK(begins(said(read, nested(33)), "file:1: a[0]"));
    CHECK(said(read, nested(33)).ends_with("is nested deeper than 32 levels; no configuration is"));
    CHECK_FALSE(said(read, nested(100'000)).empty());
    CHECK_FALSE(said(read, "{\"a\": " + std::string(100'000, '[')).empty());
  }
}

TEST_CASE("yaml: values as Accelerate's reader has them") {
  const Document d = read_yaml(
      "file",
      "a: no\nb: 'no'\nc: \"true\"\nd: 29501\ne: 1e8\nf: 1.0e+8\ng:\nh: {}\ni: []\nj: 0.5  # half\n"
      "k: 010\nl: -3\nm: 1.5e8\nn: ~\n");
  const auto kind = [&](const char* key) { return d.root.find(key)->kind; };
  CHECK(kind("a") == Node::Kind::boolean);
  CHECK_FALSE(d.root.find("a")->boolean);
  CHECK(kind("b") == Node::Kind::text);
  CHECK(kind("c") == Node::Kind::text);
  CHECK(kind("d") == Node::Kind::number);
  CHECK(d.root.find("d")->is_whole);
  CHECK(kind("e") == Node::Kind::text);  // no point: a text of YAML 1.1
  CHECK(kind("f") == Node::Kind::number);
  CHECK(d.root.find("f")->number == 1e8);
  CHECK(kind("g") == Node::Kind::null);
  CHECK(kind("h") == Node::Kind::map);
  CHECK(kind("i") == Node::Kind::list);
  CHECK(d.root.find("j")->number == 0.5);
  CHECK(d.root.find("j")->line == 10);
  CHECK(kind("k") == Node::Kind::text);
  CHECK(d.root.find("l")->number == -3);
  CHECK(kind("m") == Node::Kind::text);
  CHECK(kind("n") == Node::Kind::null);
}

TEST_CASE("yaml: what is malformed is one line with file, line and key") {
  CHECK(yaml("a: 1\nb:\n  c: 2\n  c: 3\n") ==
        "file:4: b.c: stands twice, also in line 3; keep one of them");
  CHECK(begins(yaml("a: 1\n b: 2\n"), "file:2: "));
  CHECK(begins(yaml("a: {b: 1\n"), "file:2: "));
  CHECK(begins(yaml("a: [1, 2\n"), "file:2: "));
  for (const char* text : {"a: 'x\n", "a: 'x''\n", "a: \"x\\\"\n", "a: \"x"})
    CHECK_FALSE(yaml(text).empty());
  CHECK(yaml("a: 'x\n") ==
        "file:1: a: a text in quotes has no end; close it with the quote that begins it");
  CHECK(yaml("\xc3\xa4: '\xe2\x82\xac'\r\na: 'it''s'\r\nb: \"\\\"\"\n'c': \"\"\n").empty());
  CHECK_FALSE(yaml("b: [1, 'x\n").empty());
  CHECK(begins(yaml("a: .inf\n"), "file:1: a: '.inf' is not finite"));
  CHECK(begins(yaml("a: .nan\n"), "file:1: a: '.nan' is not finite"));
  CHECK(begins(yaml("a: 1" + std::string(400, '0') + "\n"), "file:1: a: '1000"));
  CHECK(yaml("a: &x 1\nb: *x\n") == "file:1: a: an anchor; write values out");
  CHECK(begins(yaml("b: *x\n"), "file:1: "));
  CHECK(yaml("a: !!int 3\n") == "file:1: a: a tag, 'tag:yaml.org,2002:int'; leave it out");
  CHECK(yaml("<<: {a: 1}\n") == "file:1: a merge key; write the values out");
  CHECK(yaml("a: 1\n---\nb: 2\n") == "file:2: a second document begins; keep one");
  CHECK(begins(yaml("[a, b]: 1\n"), "file:1: a key that is a list or a map"));
  CHECK(begins(yaml("- a\n"), "file:1: does not hold keys"));
  CHECK(begins(yaml("just words\n"), "file:1: does not hold keys"));
  CHECK(begins(yaml("# nothing\n"), "file:1: does not hold keys"));
}

TEST_CASE("messages stay one line, whatever a key is") {
  for (const std::string& text : {json("{\"a\\n\\u001b[31m\": 1, \"a\\n\\u001b[31m\": 2}"),
                                  yaml("\"a\\n\\e[31m\": 1\n\"a\\n\\e[31m\": 2\n"),
                                  json("{\"" + std::string(5000, 'k') + "\": ?}")}) {
    CHECK_FALSE(text.empty());
    CHECK(text.size() < 1000);
    CHECK(text.find_first_of("\n\r\x1b") == text.npos);
  }
}
