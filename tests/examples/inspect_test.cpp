// SPDX-License-Identifier: Apache-2.0
// inspect as a user meets it: a listing, or one line and a status.
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/safetensors_set_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "run.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

std::string file_of(const std::vector<shardexpr::TensorToStore>& tensors) {
  const auto layout = shardexpr::lay_out_safetensors(tensors);
  return layout.first_bytes +
         std::string(static_cast<std::size_t>(layout.header.data_bytes()), 'd');
}

Ended inspect(const std::string& path) { return run({INSPECT, path}); }

void check_lists(const std::string& path, const std::vector<std::string>& lines) {
  const Ended ended = inspect(path);
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  CHECK(lines_of(ended.out) == lines);
}

void check_refuses(const Words& words, const std::string& what, int status = 2) {
  const Ended ended = run(Words{INSPECT} + words);
  CAPTURE(ended.err);
  CHECK(ended.status == status);
  CHECK(ended.out == "");
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("inspect: "));
  CHECK(ended.err.find(what) != std::string::npos);
}

}  // namespace

TEST_CASE("the tensors of a file") {
  const std::string path =
      make_file("one.safetensors",
                file_of({{"wte.weight", "F32", {7, 12}}, {"b", "BF16", {}}, {"e", "I64", {3, 0}}}));
  check_lists(path, {
                        "b           BF16  []         2",
                        "e           I64   [3, 0]     0",
                        "wte.weight  F32   [7, 12]  336",
                        "3 tensors, 338 bytes in 1 file",
                    });
  check_lists(make_file("none.safetensors", file_of({})), {"0 tensors, 0 bytes in 1 file"});
  check_lists(make_file("a.safetensors", file_of({{"a", "U8", {1}}})),
              {"a  U8  [1]  1", "1 tensor, 1 byte in 1 file"});
}

TEST_CASE("the tensors of a set") {
  const std::string directory = scratch() / "set";
  fs::create_directory(directory);
  const auto layout = shardexpr::lay_out_safetensors_set(
      {{"b", "U8", {4}}, {"a", "U8", {5}}, {"c", "U8", {6}}}, {}, 9);
  auto writer = shardexpr::SafetensorsSetWriter<>::create(directory, layout);
  writer.finish();
  const std::vector<std::string> lines{
      "a  U8  [5]  5  model-00001-of-00002.safetensors",
      "b  U8  [4]  4  model-00001-of-00002.safetensors",
      "c  U8  [6]  6  model-00002-of-00002.safetensors",
      "3 tensors, 15 bytes in 2 files",
  };
  check_lists(directory, lines);
  check_lists(directory + "/model.safetensors.index.json", lines);
  fs::remove(directory + "/model-00002-of-00002.safetensors");
  check_refuses({directory}, "rule 'every file is there'");
}

TEST_CASE("names of strangers do nothing to a terminal") {
  check_lists(
      make_file("names.safetensors",
                file_of({{"\x1b[2J\n", "U8", {1}}, {"../../x", "U8", {1}}, {"\\", "U8", {1}}})),
      {
          R"(\x1b[2J\x0a  U8  [1]  1)",
          R"(../../x      U8  [1]  1)",
          R"(\\           U8  [1]  1)",
          "3 tensors, 3 bytes in 1 file",
      });
}

TEST_CASE("columns are counted in characters") {
  const std::string name = "\u03b2\u03ac\u03c1\u03bf\u03c2";
  check_lists(make_file("greek.safetensors", file_of({{name, "U8", {1}}, {"abc", "U8", {1}}})),
              {"abc    U8  [1]  1", name + "  U8  [1]  1", "2 tensors, 2 bytes in 1 file"});
}

TEST_CASE("one long name moves no other") {
  const std::string name(500, 'n');
  check_lists(make_file("long.safetensors", file_of({{name, "U8", {1}}, {"a", "F32", {1}}})),
              {"a  F32  [1]  4", name + "  U8   [1]  1", "2 tensors, 5 bytes in 1 file"});
}

TEST_CASE("a file that breaks a rule") {
  const std::string whole = file_of({{"w", "F32", {2}}});
  check_refuses({make_file("cut", whole.substr(0, whole.size() - 1))},
                "rule 'contiguous data', tensor 'w', byte 9: ");
  check_refuses({make_file("text", "hello, this is text")}, "rule 'header length', byte 0: ");
  check_refuses({make_file("empty", "")}, "rule 'header length'");
  check_refuses({make_file("x.json", "{}")}, "rule 'index JSON'");
  // A path with a line break is still one line.
  check_refuses({make_file("a\nb", "")}, "rule 'header length'");
}

TEST_CASE("what is no model at all") {
  check_refuses({scratch() / "missing"}, "does not exist");
  check_refuses({"/dev/null"}, "no regular file");
  const std::string empty = scratch() / "empty_directory";
  fs::create_directory(empty);
  check_refuses({empty}, "has neither");
}

TEST_CASE("bad usage") {
  check_refuses({}, "name one file or directory, not 0");
  check_refuses({"a", "b"}, "name one file or directory, not 2");
  check_refuses({""}, "name one file");
  check_refuses({"--list"}, "unknown option '--list'");
  check_refuses({"-x", "a"}, "unknown option '-x'");
  const Ended help = run({INSPECT, "--help"});
  CHECK(help.status == 0);
  CHECK(help.out.starts_with("usage: inspect [--verify] FILE|DIR\n"));
  CHECK(help.err == "");
}

TEST_CASE("a full disk is an error") {
  const std::string path = make_file("full.safetensors", file_of({{"w", "F32", {2}}}));
  for (const Words& words : {Words{path}, Words{"--help"}}) {
    const Ended ended = run(Words{INSPECT} + words, "/dev/full");
    CHECK(ended.status == 1);
    CHECK(ended.err == "inspect: the output cannot be written: No space left on device\n");
  }
}
