// SPDX-License-Identifier: Apache-2.0
// The rules of a safetensors header.
#include <shardexpr/checkpoint/safetensors_header.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "memory_system.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>

using shardexpr::FormatError;
using shardexpr::SafetensorsFile;
using shardexpr::SafetensorsHeader;
using shardexpr::StoredTensor;

namespace {

const std::string two = R"({"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                        R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";

/// Opens `bytes` and reads every tensor; the error, or "".
std::string open_and_read(const std::string& bytes) {
  MemorySystem::file = bytes;
  MemorySystem::read_outside = 0;
  std::string said;
  try {
    const SafetensorsFile<MemorySystem> file{"file"};
    for (const StoredTensor& tensor : file.header().tensors)
      if (read_tensor(file, tensor) !=
          bytes.substr(static_cast<std::size_t>(file.offset_of(tensor)),
                       static_cast<std::size_t>(tensor.size_bytes())))
        said = "other bytes than those of the file";
  } catch (const FormatError& error) {
    said = error.what();
  }
  if (MemorySystem::read_outside != 0) said = "a read outside of the file";
  return said;
}

}  // namespace

TEST_CASE("a header says what it says") {
  const SafetensorsHeader header = parse(container(two, some_bytes(11)));
  REQUIRE(header.tensors.size() == 2);
  const StoredTensor& w = header.tensors[0];
  CHECK(w.name == "w");
  CHECK(w.dtype.name == "F32");
  CHECK(w.dtype.bits == 32);
  CHECK(w.shape == std::vector<std::uint64_t>{2, 1});
  CHECK(w.begin == 0);
  CHECK(w.end == 8);
  CHECK(header.find("b") == &header.tensors[1]);
  CHECK(header.find("w") == &header.tensors[0]);
  for (const char* const none : {"", "a", "c", "ww", "z"}) CHECK(header.find(none) == nullptr);
  CHECK(header.data_offset == 8 + two.size());
  CHECK(header.data_bytes() == 11);
  CHECK(header.file_bytes() == 8 + two.size() + 11);
}

TEST_CASE("tensors are listed in the order of their bytes, metadata as it stands") {
  const SafetensorsHeader header = parse(container(
      R"({"z":{"dtype":"U8","shape":[0],"data_offsets":[3,3]},"__metadata__":{"b":"1","a":"\n2"},)"
      R"("q":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
      R"("a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
      R"("c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
      R"("b":{"dtype":"U8","shape":[0],"data_offsets":[3,3]}})",
      "123"));
  std::string order;
  for (const StoredTensor& tensor : header.tensors) order += tensor.name;
  CHECK(order == "qcazb");
  for (const StoredTensor& tensor : header.tensors) CHECK(header.find(tensor.name) == &tensor);
  CHECK(header.metadata == shardexpr::StoredMetadata{{"b", "1"}, {"a", "\n2"}});
}

TEST_CASE("names are read as JSON means them") {
  const auto name_of = [](const std::string& json) {
    const auto header =
        parse(container("{\"" + json + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
    REQUIRE(header.tensors.size() == 1);
    CHECK(header.find(header.tensors[0].name) == &header.tensors[0]);
    return header.tensors[0].name;
  };
  CHECK(name_of(R"(\"\\\/\b\f\n\r\t)") == "\"\\/\b\f\n\r\t");
  CHECK(name_of(R"(\u0041\u00e9\u00E9\u20ac\ud83d\ude00\uDBFF\uDFFF)") ==
        "A\u00e9\u00e9\u20ac\U0001f600\U0010ffff");
  CHECK(name_of("\u00e9\u20ac\U0001f600") == "\u00e9\u20ac\U0001f600");
  CHECK(name_of(R"(a\u0000b)") == std::string("a\0b", 3));
  CHECK(name_of("\x7f") == "\x7f");
}

TEST_CASE("every file gets its verdict, and each refusal names rule, byte and tensor") {
  std::size_t legal = 0, broken = 0;
  for (const StoredCase& stored : stored_cases("files")) {
    CAPTURE(stored.name);
    const std::string text = open_and_read(stored.bytes);
    if (stored.is_legal()) {
      CHECK(text == "");
      ++legal;
    } else {
      CHECK(says(text, "file: rule '" + stored.rule + "'", ", byte ", stored.says));
      const bool is_of_a_tensor = stored.rule == "tensor entry" || stored.rule == "unique names" ||
                                  stored.rule == "dtype" || stored.rule == "shape" ||
                                  stored.rule == "data_offsets";
      if (is_of_a_tensor) CHECK(says(text, ", tensor '"));
      ++broken;
    }
  }
  CHECK(legal > 40);
  CHECK(broken > 100);
}

TEST_CASE("a refusal names the byte of the file") {
  const auto said = [](const std::string& header, std::size_t data = 0) {
    return error_of<FormatError>([&] { (void)parse(container(header, some_bytes(data))); });
  };
  CHECK(says(said("[]"), "rule 'header JSON', byte 8: "));
  CHECK(says(said("{} x"), "rule 'header JSON', byte 11: "));
  CHECK(says(said(R"({"a":{"dtype":"U9","shape":[],"data_offsets":[0,1]}})"),
             "rule 'dtype', tensor 'a', byte 22: the dtype 'U9' is unknown"));
  CHECK(says(said(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})"),
             "rule 'shape', tensor 'a', byte 36: an extent is no whole number"));
  // Of what the whole entry says, where its name stands.
  CHECK(says(said(R"({ "a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", 1),
             "rule 'data_offsets', tensor 'a', byte 10: its offsets span 1 bytes"));
  CHECK(says(said(two, 13), "rule 'contiguous data', byte " + std::to_string(8 + two.size() + 11),
             "end at byte 11", "2 more"));
  CHECK(
      says(said(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                4),
           "rule 'contiguous data', tensor 'b', byte 61: it begins at byte 3 of the data, 2 bytes "
           "behind where tensor 'a' ends: a hole"));
  // Not the first of two, and not one that comes later.
  CHECK(says(said(R"({"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                  R"("c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                  R"("c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                  R"("b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
             "rule 'unique names', tensor 'c', byte 113: "));
}

TEST_CASE("names in messages are one line, and not too long") {
  const std::string name = "\\u001b[31m\\n" + std::string(100'000, 'n');
  const std::string text = error_of<FormatError>(
      [&] { (void)parse(container("{\"" + name + R"(":{"dtype":"U8","shape":[0]}})")); });
  CHECK(says(text, "tensor '\\x1b[31m\\x0an", "n...'", "no data_offsets"));
  CHECK(text.size() < 300);
}

TEST_CASE("nesting is bounded, whatever it is of") {
  const std::size_t deep = 200'000;
  const std::string arrays(deep, '['), ends(deep, ']');
  std::string objects;
  for (std::size_t i = 0; i < deep; ++i) objects += "{\"\":";
  for (const std::string& value : {arrays + ends, arrays, objects}) {
    CHECK(says(open_and_read(container("{\"a\":{\"x\":" + value + "}}")), "rule 'tensor entry'",
               "127 levels"));
    CHECK(says(open_and_read(container("{\"a\":" + value + "}")), "tensor 'a'"));
    CHECK(says(open_and_read(container(value)), "rule '"));
  }
}

TEST_CASE("a header is not read before its length is known to be right") {
  MemorySystem::read_bytes = 0;
  std::string file = container("{}");
  file[7] = '\x7f';
  CHECK(says(open_and_read(file), "rule 'header length'"));
  CHECK(MemorySystem::read_bytes == 8);
}

// What a flip leaves legal says something else; then the header must say just that.
TEST_CASE("no flip of a byte is taken for what is not there") {
  const shardexpr::SafetensorsLayout layout = shardexpr::lay_out_safetensors(
      {{"w", "F32", {2, 1}}, {"b", "BF16", {3}}, {"e", "U8", {0, 7}}, {"s", "F64", {}}},
      {{"k", "v"}});
  const std::string whole =
      layout.first_bytes + some_bytes(static_cast<std::size_t>(layout.header.data_bytes()));
  REQUIRE(open_and_read(whole) == "");
  const std::size_t begin = layout.first_bytes.size();
  std::size_t taken = 0;
  for (std::size_t at = 0; at < begin; ++at)
    for (int flip = 1; flip < 256; ++flip) {
      std::string file = whole;
      file[at] = static_cast<char>(file[at] ^ flip);
      const std::string text = open_and_read(file);
      if (!text.empty()) {
        if (text.find("rule '") == text.npos) FAIL(text, " at byte ", at, ", flip ", flip);
        continue;
      }
      ++taken;
      // What was read, written as the format writes it, is the flipped text to the byte, but for
      // white space at the end.
      const SafetensorsHeader header = parse(file);
      std::string again;
      shardexpr::detail::append_header(again, header);
      const std::string flipped = file.substr(8, begin - 8);
      const bool is_same = again == flipped.substr(0, again.size()) &&
                           flipped.find_first_not_of(" \t\r\n", again.size()) == flipped.npos &&
                           header.data_offset == begin;
      if (!is_same) FAIL("byte ", at, ", flip ", flip, ": ", flipped, " was read as ", again);
    }
  CHECK(taken > 500);  // other names, metadata and white space
  for (std::size_t at = begin; at < whole.size(); ++at) {
    std::string file = whole;
    file[at] = static_cast<char>(~file[at]);
    CHECK(open_and_read(file) == "");  // the format has no checksum
  }
}

TEST_CASE("a file that is cut off or goes on is refused") {
  const std::string whole = container(two, some_bytes(11));
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    CAPTURE(bytes);
    CHECK(says(open_and_read(whole.substr(0, bytes)), "rule '", "cut off"));
  }
  CHECK(says(open_and_read(whole + '\0'), "rule 'contiguous data'", "1 more"));
  CHECK(says(open_and_read(whole + whole), "rule 'contiguous data'"));
}

// The corpus that stands beside some checkouts; the files above are of the same kinds.
TEST_CASE("the verdicts of the corpus") {
  namespace fs = std::filesystem;
  const fs::path corpus = fs::path{SHARDEXPR_FIXTURES_DIR} / "../../../shared/corpus/safetensors";
  std::ifstream expected{corpus / "EXPECT.tsv"};
  if (!expected) return;
  std::string line;
  std::size_t files = 0;
  std::getline(expected, line);
  while (std::getline(expected, line)) {
    const std::string name = line.substr(0, line.find('\t'));
    CAPTURE(line);
    const std::string text = open_and_read(content((corpus / (name + ".safetensors")).string()));
    if (line.find("\tACCEPT") != line.npos) CHECK(text == "");
    if (line.find("\tREJECT") != line.npos) CHECK(says(text, "rule '"));
    ++files;
  }
  CHECK(files > 30);
}
