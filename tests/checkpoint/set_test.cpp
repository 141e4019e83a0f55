// SPDX-License-Identifier: Apache-2.0
// Models in several files: what an index may say, and how tensors are distributed.
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/safetensors_set_writer.hpp>
#include <shardexpr/checkpoint/safetensors_writer.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../io/faulty_system.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>

using shardexpr::ConfigError;
using shardexpr::FormatError;
using shardexpr::IoError;
using shardexpr::PlacedTensor;
using shardexpr::SafetensorsIndex;
using shardexpr::SafetensorsSet;
using shardexpr::SafetensorsSetLayout;
using shardexpr::SafetensorsSetWriter;
using shardexpr::TensorToStore;
namespace fs = std::filesystem;

namespace {

using System = FaultySystem<ByThreads>;

/// A directory with a set of two files, as the tests change it.
struct SetOnDisk {
  SetOnDisk() {
    system.alignment = std::nullopt;
    put_file("one", {{"a", "U8", {3}}, {"c", "F32", {2}}});
    put_file("two", {{"b", "BF16", {2, 2}}});
    put_index(weights, 19);
  }
  void put_file(const std::string& name, const std::vector<TensorToStore>& tensors) const {
    const auto layout = shardexpr::lay_out_safetensors(tensors);
    put(in + name,
        layout.first_bytes + some_bytes(static_cast<std::size_t>(layout.header.data_bytes()),
                                        static_cast<unsigned>(name[0])));
  }
  void put_index(const std::string& map, std::uint64_t total) const {
    put(index, R"({"metadata":{"total_size":)" + std::to_string(total) +
                   R"(,"more":[1.5]},"weight_map":)" + map + "}");
  }
  std::string refusal(const std::string& path) const {
    return error_of<FormatError>([&] { SafetensorsSet<System> set{path}; });
  }
  std::string refusal() const { return refusal(scratch.path()); }

  const std::string weights = R"({"a":"one","b":"two","c":"one"})";
  Scratch scratch;
  WithFaults system;
  std::string in = scratch.path() + "/", index = in + "model.safetensors.index.json";
};

std::string read(const auto& set, std::string_view name) {
  const auto placed = set.find(name);
  REQUIRE(placed);
  std::string to(static_cast<std::size_t>(placed->tensor->size_bytes()), '?');
  set.read(*placed, 0, std::as_writable_bytes(std::span{to}));
  return to;
}

std::vector<TensorToStore> of_sizes(const std::vector<std::uint64_t>& sizes) {
  std::vector<TensorToStore> tensors;
  for (const std::uint64_t size : sizes)
    tensors.push_back({"t" + std::to_string(tensors.size()), "U8", {size}});
  return tensors;
}
/// "0 1|2|" for the tensors of each file, in the order of their numbers.
std::string distribution(const std::vector<std::uint64_t>& sizes, std::uint64_t most) {
  std::string all;
  for (const auto& file : shardexpr::lay_out_safetensors_set(of_sizes(sizes), {}, most).files) {
    for (const auto& tensor : file.layout.header.tensors) all += tensor.name.substr(1) + " ";
    all += '|';
  }
  return all;
}

}  // namespace

TEST_CASE("every index gets its verdict, and each refusal names rule and byte") {
  for (const StoredCase& stored : stored_cases("indexes")) {
    CAPTURE(stored.name);
    const std::string text = error_of<FormatError>(
        [&] { (void)shardexpr::parse_safetensors_index("index", stored.bytes); });
    if (stored.is_legal())
      CHECK(text == "");
    else
      CHECK(says(text, "index: rule '" + stored.rule + "'", ", byte ", stored.says));
  }
}

TEST_CASE("an index says what it says") {
  const SafetensorsIndex index = shardexpr::parse_safetensors_index(
      "index", R"({"weight_map":{"b":"y","c":"x","a":"y"},"metadata":{"total_size":7}})");
  REQUIRE(index.entries.size() == 3);
  CHECK(index.entries[0].tensor == "a");
  CHECK(index.total_size == 7);
  CHECK(index.find("b")->file == "y");
  CHECK(index.find("c")->file == "x");
  CHECK(index.find("d") == nullptr);
  CHECK(index.files() == std::vector<std::string>{"x", "y"});
  CHECK(says(error_of<FormatError>([] {
               (void)shardexpr::parse_safetensors_index("i", R"({"weight_map":{"a":"../x"}})");
             }),
             "i: rule 'bare file names', tensor 'a', byte 19: '../x' is no name"));
}

TEST_CASE("an index as Hugging Face's programs write it") {
  const auto layout = shardexpr::lay_out_safetensors_set(of_sizes({4, 5, 6}), {}, 9);
  const std::string text = shardexpr::index_text(layout.index);
  CHECK(text == R"({
  "metadata": {
    "total_size": 15
  },
  "weight_map": {
    "t0": "model-00001-of-00002.safetensors",
    "t1": "model-00001-of-00002.safetensors",
    "t2": "model-00002-of-00002.safetensors"
  }
}
)");
  const auto again = shardexpr::parse_safetensors_index("index", text);
  CHECK(again.entries.size() == 3);
  CHECK(again.total_size == 15);
  for (const SafetensorsIndex& index : {SafetensorsIndex{}, SafetensorsIndex{{}, 0, 0}})
    CHECK(shardexpr::parse_safetensors_index("i", shardexpr::index_text(index)).entries.empty());
}

TEST_CASE("a set is opened by its directory, its index or one file") {
  const SetOnDisk disk;
  for (const std::string& path : {disk.scratch.path(), disk.in, disk.index}) {
    const SafetensorsSet<System> set{path};
    CHECK(set.has_index());
    REQUIRE(set.tensors().size() == 3);
    std::string names;
    for (const PlacedTensor& placed : set.tensors()) names += placed.tensor->name;
    CHECK(names == "abc");
    CHECK(set.files().size() == 2);
    CHECK(set.files()[set.find("b")->file].path() == disk.in + "two");
    CHECK(set.data_bytes() == 19);
    CHECK(read(set, "c") == some_bytes(11, 'o').substr(0, 8));
    CHECK(read(set, "a") == some_bytes(11, 'o').substr(8));
    CHECK(read(set, "b") == some_bytes(8, 't'));
    CHECK_FALSE(set.find("d"));
    CHECK_FALSE(set.find(""));
  }
  const SafetensorsSet<System> one{disk.in + "one"};
  CHECK_FALSE(one.has_index());
  CHECK(one.tensors().size() == 2);
  CHECK(read(one, "a") == some_bytes(11, 'o').substr(8));

  Scratch single;
  fs::copy_file(disk.in + "two", single.path() + "/model.safetensors");
  const SafetensorsSet<System> set{single.path()};
  CHECK(set.files().size() == 1);
  CHECK(read(set, "b") == some_bytes(8, 't'));
}

TEST_CASE("an index in the directory one stands in") {
  const SetOnDisk disk;
  const fs::path before = fs::current_path();
  fs::current_path(disk.scratch.path());
  for (const char* const path : {"model.safetensors.index.json", "."}) {
    const SafetensorsSet<System> set{path};
    CHECK(set.tensors().size() == 3);
  }
  fs::current_path(before);
}

TEST_CASE("a directory without a model, and one with two") {
  const SetOnDisk disk;
  const auto said = [](const std::string& path) {
    return error_of<ConfigError>([&] { SafetensorsSet<System> set{path}; });
  };
  const Scratch empty;
  CHECK(says(said(empty.path()), empty.path(),
             "has neither model.safetensors.index.json nor "
             "model.safetensors"));
  CHECK(says(said(empty.path() + "/none"), "does not exist"));
  CHECK(says(said(empty.path() + "/none.index.json"), "does not exist"));
  disk.put_file("model.safetensors", {{"a", "U8", {3}}});
  CHECK(says(said(disk.scratch.path()), "two models"));
  CHECK(said(disk.index) == "");
  CHECK(said(disk.in + "model.safetensors") == "");
  // A set of one file may have an index all the same.
  disk.put_index(R"({"a":"model.safetensors"})", 3);
  CHECK(said(disk.scratch.path()) == "");
}

TEST_CASE("what an index lists is there") {
  const SetOnDisk disk;
  fs::remove(disk.in + "two");
  CHECK(says(disk.refusal(), disk.index, "rule 'every file is there'", "'two'"));
  fs::create_symlink("elsewhere", disk.in + "two");
  CHECK(says(disk.refusal(), "rule 'every file is there'", "'two'"));
  fs::remove(disk.in + "two");
  fs::create_directory(disk.in + "two");
  CHECK(says(error_of<ConfigError>([&] { SafetensorsSet<System> set{disk.index}; }),
             disk.in + "two", "is a directory"));
}

TEST_CASE("a name that leads out of the directory is never opened") {
  const SetOnDisk disk;
  const Scratch outside;
  const std::string path = outside.path() + "/one";
  fs::copy_file(disk.in + "one", path);
  const std::string relative = "../" + fs::path{outside.path()}.filename().string() + "/one";
  REQUIRE(fs::exists(disk.in + relative));
  for (const std::string& name : {path, relative, "./" + relative, std::string{"./one"}}) {
    disk.put_index(R"({"a":")" + name + R"(","b":"two","c":"one"})", 19);
    CHECK(says(disk.refusal(), "rule 'bare file names'", "tensor 'a'"));
  }
}

TEST_CASE("index and files list the same tensors") {
  const SetOnDisk disk;
  disk.put_index(R"({"a":"one","b":"two","c":"one","d":"two"})", 19);
  CHECK(says(disk.refusal(), disk.index, "rule 'index and files list the same tensors'",
             "tensor 'd'", "'two'", "not there"));
  disk.put_index(R"({"a":"one","b":"two"})", 19);
  CHECK(says(disk.refusal(), "rule 'index and files list the same tensors'", "tensor 'c'", "'one'",
             "does not list it"));
  disk.put_index(R"({"a":"two","b":"two","c":"one"})", 19);
  CHECK(says(disk.refusal(), "rule 'index and files list the same tensors'", "tensor 'a'", "'two'",
             "not there"));
  disk.put_index(disk.weights, 19);
  CHECK(disk.refusal() == "");
  // Of the same bytes, but another name.
  disk.put_file("two", {{"B", "BF16", {2, 2}}});
  CHECK(says(disk.refusal(), "rule 'index and files list the same tensors'", "tensor 'b'"));
}

TEST_CASE("a tensor is in one file") {
  const SetOnDisk disk;
  disk.put_file("two", {{"b", "BF16", {2, 2}}, {"a", "U8", {3}}});
  for (const std::uint64_t total : {19, 22}) {
    disk.put_index(disk.weights, total);
    CHECK(says(disk.refusal(), disk.index, "rule 'a tensor is in one file'", "tensor 'a'", "'one'",
               "'two'"));
  }
}

TEST_CASE("total_size is the sum of all tensors") {
  const SetOnDisk disk;
  for (const std::uint64_t total : {0, 18, 20, 227}) {
    disk.put_index(disk.weights, total);
    CHECK(says(disk.refusal(), disk.index, "rule 'total_size', byte 26", std::to_string(total),
               "have 19"));
  }
  put(disk.index, R"({"weight_map":)" + disk.weights + "}");
  CHECK(disk.refusal() == "");
}

TEST_CASE("a file of the set that breaks a rule is named") {
  const SetOnDisk disk;
  const std::string whole = content(disk.in + "two");
  put(disk.in + "two", whole.substr(0, whole.size() - 1));
  CHECK(says(disk.refusal(), disk.in + "two: rule 'contiguous data'", "tensor 'b'"));
  // Swapped: both are files, neither has what the index says.
  put(disk.in + "two", content(disk.in + "one"));
  put(disk.in + "one", whole);
  CHECK(says(disk.refusal(), "rule 'index and files list the same tensors'", "tensor 'a'"));
}

TEST_CASE("an index cut off or with a byte flipped is refused or means another set") {
  const SetOnDisk disk;
  const std::string whole = content(disk.index);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    put(disk.index, whole.substr(0, bytes));
    CHECK(says(disk.refusal(), disk.index + ": rule '"));
  }
  std::size_t taken = 0;
  const std::size_t map = whole.find("weight_map"), more = whole.find("more");
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 1 << bit);
      put(disk.index, flipped);
      const std::string text = disk.refusal();
      if (text.empty())
        ++taken;
      else if (text.find(": rule '") == text.npos)
        FAIL(text);
      // What is neither a name of the library's own nor of others is not taken.
      if (text.empty() && at >= map) FAIL("byte ", at, ", bit ", bit, " is not seen");
      if (text.empty() && at < more && whole.find("total_size") > at + 1 &&
          flipped.find("metadata") != flipped.npos)
        FAIL("byte ", at, ", bit ", bit, " is not seen");
    }
  CHECK(taken > 20);  // inside names and values that nobody asks for
}

TEST_CASE("a disk that fails under a set") {
  SetOnDisk disk;
  const auto said = [&] {
    return error_of<IoError>([&] { SafetensorsSet<System> set{disk.scratch.path()}; });
  };
  disk.system.transfer = [](const Transfer&) { return Verdict{EIO}; };
  CHECK(says(said(), disk.index + ", the index", "Input/output error"));
  disk.system.transfer = [](const Transfer& t) { return Verdict{0, t.bytes / 2}; };
  CHECK(says(said(), disk.index + ", the index", "ends before them"));
  disk.system.transfer = [](const Transfer& t) { return Verdict{t.bytes == 8 ? EIO : 0}; };
  CHECK(says(said(), disk.in + "one, the header", "Input/output error"));
  disk.system.transfer = nullptr;
  disk.system.fail("open", EMFILE);
  CHECK(says(said(), disk.index, "Too many open files"));
}

TEST_CASE("tensors are distributed in their order, a file full before the next") {
  CHECK(distribution({4, 5, 6, 1, 1}, 9) == "0 1 |2 3 4 |");
  CHECK(distribution({3, 3, 3, 3}, 9) == "0 1 2 |3 |");
  CHECK(distribution({9, 9}, 9) == "0 |1 |");
  CHECK(distribution({1, 1}, 100) == "0 1 |");
  CHECK(distribution({}, 9) == "|");
  // One that is too large has a file of its own; the others go on where they were.
  CHECK(distribution({4, 20, 5, 1}, 9) == "0 2 |1 |3 |");
  CHECK(distribution({20, 21}, 9) == "0 |1 |");
  CHECK(distribution({0, 9, 0}, 9) == "0 1 2 |");
  CHECK(distribution({1, ~std::uint64_t{0} / 16, 2}, 9) == "0 2 |1 |");
}

TEST_CASE("files are numbered, one file is not") {
  const auto names = [](std::size_t count) {
    std::vector<std::string> all;
    for (const auto& file : shardexpr::lay_out_safetensors_set(
                                of_sizes(std::vector<std::uint64_t>(count, 7)), {{"k", "v"}}, 7)
                                .files) {
      all.push_back(file.name);
      CHECK(file.layout.header.metadata.size() == 1);
    }
    return all;
  };
  CHECK(names(1) == std::vector<std::string>{"model.safetensors"});
  CHECK(names(2) == std::vector<std::string>{"model-00001-of-00002.safetensors",
                                             "model-00002-of-00002.safetensors"});
  CHECK(names(12).back() == "model-00012-of-00012.safetensors");
  CHECK(shardexpr::detail::set_file_name(9, 123'456) == "model-00010-of-123456.safetensors");
  CHECK(shardexpr::detail::set_file_name(123'455, 123'456) == "model-123456-of-123456.safetensors");
}

TEST_CASE("a set without end is 5 GB a file") {
  const auto set = shardexpr::lay_out_safetensors_set(
      of_sizes({2'500'000'000, 2'500'000'000, 1, 4'999'999'999}));
  REQUIRE(set.files.size() == 2);
  CHECK(set.files[0].layout.header.data_bytes() == 5'000'000'000);
  CHECK(set.index.total_size == 10'000'000'000);
}

TEST_CASE("what no set may have") {
  const auto said = [](std::vector<TensorToStore> tensors, std::uint64_t most) {
    return error_of<ConfigError>(
        [&] { (void)shardexpr::lay_out_safetensors_set(std::move(tensors), {}, most); });
  };
  CHECK(says(said(of_sizes({1}), 0), "0 bytes"));
  // In two files.
  CHECK(
      says(said({{"a", "U8", {5}}, {"b", "U8", {5}}, {"a", "U8", {5}}}, 6), "tensor 'a'", "twice"));
  CHECK(says(said({{"a", "U9", {5}}}, 6), "tensor 'a'", "no dtype 'U9'"));
  CHECK(says(said({{"__metadata__", "U8", {5}}}, 6), "keeps this name"));
}

TEST_CASE("a set that is written is the set") {
  for (const std::uint64_t most : {9, 1000}) {
    const Scratch scratch;
    const std::vector<std::uint64_t> sizes{4, 20, 5, 1, 0, 8};
    const auto layout =
        shardexpr::lay_out_safetensors_set(of_sizes(sizes), {{"format", "pt"}}, most);
    const bool is_split = layout.has_index();
    CHECK(is_split == (most == 9));
    auto creator = SafetensorsSetWriter<System>::create(scratch.path(), layout);
    auto other = SafetensorsSetWriter<System>::join(scratch.path(), layout);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const std::string data = some_bytes(sizes[i], static_cast<unsigned>(i));
      const std::size_t half = sizes[i] / 2;
      const std::string name = "t" + std::to_string(i);
      other.write(name, half, bytes_of(data).subspan(half));
      creator.write(name, 0, bytes_of(data).first(half));
    }
    other.finish();
    CHECK_FALSE(fs::exists(scratch.path() + "/model.safetensors.index.json"));
    CHECK(error_of<shardexpr::Error>([&] { SafetensorsSet<> set{scratch.path()}; }) != "");
    creator.finish();
    const SafetensorsSet<> set{scratch.path()};
    CHECK(set.has_index() == is_split);
    CHECK(set.files().size() == layout.files.size());
    CHECK(set.tensors().size() == sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i)
      CHECK(read(set, "t" + std::to_string(i)) == some_bytes(sizes[i], static_cast<unsigned>(i)));
    CHECK(set.files()[0].header().metadata == shardexpr::StoredMetadata{{"format", "pt"}});
  }
}

TEST_CASE("a set that cannot be written") {
  SetOnDisk disk;
  const auto layout = shardexpr::lay_out_safetensors_set(of_sizes({4, 5, 6}), {}, 9);
  using Writer = SafetensorsSetWriter<System>;
  CHECK(says(error_of<ConfigError>([&] { (void)Writer::create(disk.in + "none", layout); }),
             "model-00001-of-00002.safetensors does not exist"));
  CHECK(
      says(error_of<ConfigError>([&] { (void)Writer::join(disk.in, layout); }), "does not exist"));
  auto writer = Writer::create(disk.scratch.path(), layout);
  CHECK(says(error_of<ConfigError>([&] { writer.write("t3", 0, {}); }), disk.scratch.path(), "'t3'",
             "none of that name"));
  CHECK(says(error_of<ConfigError>([&] { writer.write("t2", 6, bytes_of("x")); }),
             "model-00002-of-00002.safetensors", "tensor 't2'"));
  disk.system.transfer = [](const Transfer& t) { return Verdict{t.writes ? ENOSPC : 0}; };
  CHECK(says(error_of<IoError>([&] { writer.write("t2", 0, bytes_of("x")); }),
             "model-00002-of-00002.safetensors", "tensor 't2'", "No space left"));
  disk.system.transfer = nullptr;
  // An index of other files stands there already.
  CHECK(says(error_of<ConfigError>([&] { writer.finish(); }), disk.index, "exists already"));
}
