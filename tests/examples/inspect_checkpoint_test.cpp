// SPDX-License-Identifier: Apache-2.0
// inspect, given a checkpoint.
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints.hpp"
#include "run.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

std::string new_directory() {
  static int count = 0;
  return scratch() / ("checkpoints" + std::to_string(count++));
}
Ended inspect(const Words& words) { return run(Words{INSPECT} + words); }

void check_refuses(const Words& words, const std::string& what) {
  const Ended ended = inspect(words);
  CAPTURE(ended.err);
  CHECK(ended.status == 2);
  CHECK(ended.out == "");
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.find(what) != std::string::npos);
}
void write(const std::string& path, const std::string& bytes) {
  std::ofstream{path, std::ios::binary | std::ios::trunc} << bytes;
}
std::string size_text(const std::string& path) { return std::to_string(fs::file_size(path)); }

}  // namespace

TEST_CASE("a checkpoint is listed with what it is, its tensors and its files") {
  const std::string directory = new_directory(), folder = save_small(directory);
  // Sizes that the file system knows; the widest has three digits.
  const auto file = [&](const std::string& name) {
    const std::string size = size_text(folder + "/" + name);
    return name + std::string(13 - name.size() + 2 + 3 - size.size(), ' ') + size;
  };
  std::size_t bytes = 0;
  for (const auto& entry : fs::directory_iterator{folder}) bytes += entry.file_size();
  const std::vector<std::string> lines{
      "checkpoint  step-000000000003, the latest",
      "form        sharded",
      "strategy    Sharded<Model, FullShard>",
      "step        3",
      "world       2",
      "seed        7",
      "optimizer   AdamW::Options, 2 moments of F32",
      R"(cursor      page 7\x0a)",
      "",
      "a.weight  F32   [5, 3]  180  2 moments",  // 15 * 4 * 3
      R"(\x1b[2J   BF16  [4]       8  0 moments)",
      "mean      F32   [2]      16  buffer",  // of two ranks
      "",
      file("part-0"),
      file("part-0.sums"),
      file("part-1"),
      file("part-1.sums"),
      file("manifest.json"),
      "",
      "2 parameters, 1 buffer, 204 bytes; 5 files, " + std::to_string(bytes) + " bytes"};
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  for (const std::string& path : {directory, folder, folder + "/"}) {
    CAPTURE(path);
    const Ended ended = inspect({path});
    CHECK(ended.status == 0);
    CHECK(ended.err == "");
    CHECK(ended.out == text);
  }
  const Ended verified = inspect({"--verify", directory});
  CHECK(verified.status == 0);
  CHECK(verified.out == inspect({directory}).out + "verified: every byte is what was saved\n");

  // A later one: this one is no longer the latest.
  auto manifest = manifest_of({{"a", "F32", {1}}});
  manifest.step = 4;
  manifest.cursor = "";
  save(directory, manifest, {{{"parameter@0/a", "F32", {1}}}});
  CHECK(lines_of(inspect({folder}).out)[0] == "checkpoint  step-000000000003");
  CHECK(lines_of(inspect({directory}).out)[0] == "checkpoint  step-000000000004, the latest");
  CHECK(lines_of(inspect({directory}).out)[7] == "");  // no cursor
  // What is beside a folder that was named is not asked for more.
  write(directory + "/latest", "broken");
  CHECK(lines_of(inspect({folder}).out)[0] == "checkpoint  step-000000000003");
  check_refuses({directory}, "/latest is not as it was saved");
}

TEST_CASE("a broken checkpoint is one line") {
  const std::string directory = new_directory(), folder = save_small(directory);
  const auto with = [&](const std::string& name, auto change, const Words& words,
                        const std::string& what) {
    CAPTURE(name);
    const std::string path = folder + "/" + name, whole = read_file(path);
    change(path, whole);
    check_refuses(words, what);
    write(path, whole);
  };
  const auto cut = [](const std::string& path, const std::string& whole) {
    write(path, whole.substr(0, whole.size() - 1));
  };
  const auto remove = [](const std::string& path, const std::string&) { fs::remove(path); };
  const auto flip = [](const std::string& path, std::string bytes) {
    bytes.back() ^= 1;
    write(path, bytes);
  };
  with("manifest.json", cut, {directory}, "manifest.json: it does not end in its checksum");
  with("part-0.sums", cut, {directory}, "part-0.sums has ");
  with("part-0.sums", flip, {directory}, "part-0.sums: its checksum is not that");
  with("part-1", remove, {directory}, "part-1 does not exist");
  with("part-1", cut, {directory}, "part-1: rule 'contiguous data'");
  // What is read only with --verify.
  with("part-1", flip, {"--verify", directory}, "part-1, tensor 'parameter@8/a.weight', byte ");
  CHECK(inspect({"--verify", directory}).status == 0);

  const auto manifest = manifest_of({{"a", "F32", {9}}});
  for (const auto& [second, what] :
       std::vector<std::pair<std::string, std::string>>{{"5", "elements 4 to 5 are missing"},
                                                        {"3", "elements 3 to 4 stand twice"},
                                                        {"4", "8 elements were saved"}}) {
    const std::string gap = new_directory();
    save(gap, manifest,
         {{{"parameter@0/a", "F32", {4}}, {"parameter@" + second + "/a", "F32", {4}}}});
    check_refuses({gap}, what);
  }
}

TEST_CASE("memory as it lay is not told apart, and its files are checked") {
  const std::string directory = new_directory();
  auto manifest = manifest_of({{"a", "F32", {9}}});
  manifest.kind = "local";
  const std::string folder =
      save(directory, manifest, {{{"parameter@0/flat", "F32", {16}}, {"moment0@0/x", "F32", {3}}}});
  const auto lines = lines_of(inspect({"--verify", directory}).out);
  REQUIRE(lines.size() == 17);
  CHECK(lines[1] == "form        local");
  CHECK(lines[9] == "a  F32  [9]  -  in flats");
  CHECK(lines[15].starts_with("1 parameter; 3 files, "));
  fs::resize_file(folder + "/part-0.sums", 10);
  check_refuses({directory}, "part-0.sums has 10 bytes");
}

TEST_CASE("what is no checkpoint has no checksums; a model beside a foreign `latest` is a model") {
  const std::string directory = new_directory();
  fs::create_directory(directory);
  write(directory + "/model.safetensors",
        sx::lay_out_safetensors({{"w", "U8", {1}}}).first_bytes + "x");
  check_refuses({"--verify", directory}, "is no checkpoint");
  write(directory + "/latest", "global_step100");
  CHECK(inspect({directory}).out == "w  U8  [1]  1\n1 tensor, 1 byte in 1 file\n");
}
