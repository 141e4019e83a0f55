// SPDX-License-Identifier: Apache-2.0
// What is written, how it lies in the file, and a disk that fails meanwhile.
#include <shardexpr/checkpoint/safetensors_file.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/safetensors_writer.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "../io/faulty_system.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>

using shardexpr::ConfigError;
using shardexpr::FormatError;
using shardexpr::IoError;
using shardexpr::lay_out_safetensors;
using shardexpr::SafetensorsFile;
using shardexpr::SafetensorsLayout;
using shardexpr::StoredTensor;
using shardexpr::TensorToStore;
namespace fs = std::filesystem;

namespace {

using System = FaultySystem<ByThreads>;
using Writer = shardexpr::SafetensorsWriter<System>;

const std::vector<TensorToStore> model{{"w", "F32", {30, 7}}, {"b", "BF16", {5}},
                                       {"s", "F64", {}},      {"e", "I64", {3, 0}},
                                       {"n/a", "U8", {11}},   {"\n", "F32", {1}}};

std::string data_of(const SafetensorsLayout& layout) {
  return some_bytes(static_cast<std::size_t>(layout.header.data_bytes()));
}
std::string_view part_of(const std::string& data, const StoredTensor& tensor) {
  return std::string_view{data}.substr(static_cast<std::size_t>(tensor.begin),
                                       static_cast<std::size_t>(tensor.size_bytes()));
}
std::string refusal(std::vector<TensorToStore> tensors, shardexpr::StoredMetadata metadata = {}) {
  return error_of<ConfigError>(
      [&] { (void)lay_out_safetensors(std::move(tensors), std::move(metadata)); });
}

struct OnDisk {
  OnDisk() { system.alignment = std::nullopt; }
  Scratch scratch;
  WithFaults system;
  std::string path = scratch.path() + "/m.safetensors";
  SafetensorsLayout layout = lay_out_safetensors(model);
  std::string data = data_of(layout);

  void write_all(const Writer& writer) const {
    for (const StoredTensor& tensor : layout.header.tensors)
      writer.write(tensor, 0, bytes_of(part_of(data, tensor)));
  }
};

}  // namespace

// To the byte what Hugging Face's safetensors 0.8 writes of these.
TEST_CASE("a header as the format's own writer makes it") {
  const SafetensorsLayout layout = lay_out_safetensors({{"b", "U8", {3}},
                                                        {"a", "F16", {2}},
                                                        {"z", "F64", {}},
                                                        {"c", "BF16", {1, 2}},
                                                        {"q\"\n\x01/\u00e9", "I64", {0, 5}},
                                                        {"k", "BOOL", {1}},
                                                        {"a2", "BF16", {1}}},
                                                       {{"format", "pt"}});
  const std::string json = R"({"__metadata__":{"format":"pt"},)"
                           R"("q\"\n\u0001/é":{"dtype":"I64","shape":[0,5],"data_offsets":[0,0]},)"
                           R"("z":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                           R"("a2":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]},)"
                           R"("c":{"dtype":"BF16","shape":[1,2],"data_offsets":[10,14]},)"
                           R"("a":{"dtype":"F16","shape":[2],"data_offsets":[14,18]},)"
                           R"("b":{"dtype":"U8","shape":[3],"data_offsets":[18,21]},)"
                           R"("k":{"dtype":"BOOL","shape":[1],"data_offsets":[21,22]}})";
  const std::string padded = json + std::string((8 - json.size() % 8) % 8, ' ');
  CHECK(layout.first_bytes == container(padded));
  CHECK(layout.first_bytes.size() % 8 == 0);
  CHECK(layout.file_bytes() == 8 + padded.size() + 22);

  CHECK(lay_out_safetensors({}).first_bytes == container("{}      "));
  CHECK(lay_out_safetensors({}, {{"b", "\\"}, {"a", ""}}).first_bytes ==
        container("{\"__metadata__\":{\"b\":\"\\\\\",\"a\":\"\"}}      "));
}

TEST_CASE("the order in which tensors are given does not matter") {
  std::vector<TensorToStore> tensors;
  for (const auto& dtype : shardexpr::stored_dtypes)
    for (const char* const name : {"a", "B", "c.1", "c.10", "c.2"})
      tensors.push_back({name + std::string{dtype.name}, dtype.name, {2, 4}});
  const SafetensorsLayout layout = lay_out_safetensors(tensors);
  std::mt19937 generator{1};
  for (int i = 0; i < 20; ++i) {
    std::shuffle(tensors.begin(), tensors.end(), generator);
    CHECK(lay_out_safetensors(tensors).first_bytes == layout.first_bytes);
  }
  // Each begins where its elements can be loaded from.
  for (const StoredTensor& tensor : layout.header.tensors)
    CHECK((layout.header.data_offset + tensor.begin) %
              std::max<std::size_t>(1, tensor.dtype.bits / 8) ==
          0);
}

TEST_CASE("what is laid out is read as it was meant") {
  const SafetensorsLayout layout = lay_out_safetensors(model, {{"k", "v\t"}, {"", ""}});
  const auto header = parse(layout.first_bytes + data_of(layout));
  CHECK(header.tensors == layout.header.tensors);
  CHECK(header.metadata == layout.header.metadata);
  CHECK(header.data_offset == layout.header.data_offset);
  CHECK(header.by_name == layout.header.by_name);
  REQUIRE(header.find("w") != nullptr);
  CHECK(header.find("w")->shape == std::vector<std::uint64_t>{30, 7});
  CHECK(layout.header.find("\n")->size_bytes() == 4);
  CHECK(layout.header.find("x") == nullptr);
}

TEST_CASE("what no file may have is refused before it is written") {
  CHECK(says(refusal({{"a", "F32", {1}}, {"b", "F32", {1}}, {"a", "U8", {2}}}), "tensor 'a'",
             "twice"));
  CHECK(says(refusal({{"__metadata__", "F32", {1}}}), "'__metadata__'", "keeps this name"));
  for (const char* const dtype : {"", "f32", "float32", "F32 "})
    CHECK(says(refusal({{"a", dtype, {1}}}), "tensor 'a'", "no dtype", dtype));
  for (const char* const name : {"\xff", "a\xc3", "\xed\xa0\x80"})
    CHECK(says(refusal({{name, "F32", {1}}}), "not UTF-8"));
  CHECK(says(refusal({{"a", "F4", {3}}}), "tensor 'a'", "12 bits"));
  CHECK(says(refusal({{"a", "U8", {1u << 31, 1u << 31, 8}}}), "tensor 'a'", "beyond 64 bits"));
  std::vector<TensorToStore> huge;
  for (const char* const name : {"a", "b", "c", "d", "e", "f", "g", "h"})
    huge.push_back({name, "U8", {std::uint64_t{1} << 60}});
  CHECK(says(refusal(huge), "tensor 'h'", "2^63"));
  huge.pop_back();
  CHECK(refusal(huge) == "");
  CHECK(says(refusal({{std::string(99'999'990, 'x'), "U8", {1}}}), "100000000", "several files"));
  CHECK(says(refusal({}, {{"a", "1"}, {"b", ""}, {"a", "2"}}), "metadata 'a'", "twice"));
  CHECK(says(refusal({}, {{"a", "\xff"}}), "metadata 'a'", "not UTF-8"));
  CHECK(says(refusal({}, {{"\xff", ""}}), "metadata '\\xff'", "not UTF-8"));
}

TEST_CASE("a file written tensor by tensor is the file") {
  const OnDisk disk;
  auto writer = Writer::create(disk.path, disk.layout);
  disk.write_all(writer);
  writer.finish();
  CHECK(content(disk.path) == disk.layout.first_bytes + disk.data);
  const SafetensorsFile<> file{disk.path};
  for (const StoredTensor& tensor : file.header().tensors)
    CHECK(read_tensor(file, tensor) == part_of(disk.data, tensor));
}

TEST_CASE("until it is finished no reader takes it") {
  const OnDisk disk;
  const auto opens = [&] {
    return error_of<FormatError>([&] { SafetensorsFile<> file{disk.path}; }).empty();
  };
  auto writer = Writer::create(disk.path, disk.layout);
  CHECK_FALSE(opens());
  auto other = Writer::join(disk.path, disk.layout);
  disk.write_all(other);
  CHECK_FALSE(opens());
  other.finish();
  CHECK_FALSE(opens());
  writer.finish();
  CHECK(opens());
}

TEST_CASE("several writers, in any order, piece by piece") {
  const OnDisk disk;
  auto creator = Writer::create(disk.path, disk.layout);
  std::vector<std::thread> threads;
  for (unsigned rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      auto writer = Writer::join(disk.path, disk.layout);
      struct Piece {
        const StoredTensor* tensor;
        std::size_t at, bytes;
      };
      std::vector<Piece> mine;
      for (const StoredTensor& tensor : writer.layout().header.tensors) {
        const auto size = static_cast<std::size_t>(tensor.size_bytes());
        for (std::size_t at = 0, i = 0; at < size; at += 7, ++i)
          if (i % 3 == rank) mine.push_back({&tensor, at, std::min<std::size_t>(7, size - at)});
      }
      std::shuffle(mine.begin(), mine.end(), std::mt19937{rank});
      for (const Piece& piece : mine)
        writer.write(*piece.tensor, piece.at,
                     bytes_of(part_of(disk.data, *piece.tensor).substr(piece.at, piece.bytes)));
      writer.finish();
    });
  for (std::thread& thread : threads) thread.join();
  creator.finish();
  CHECK(content(disk.path) == disk.layout.first_bytes + disk.data);
}

TEST_CASE("a piece that is not of the tensor is refused and nothing is written") {
  const OnDisk disk;
  auto writer = Writer::create(disk.path, disk.layout);
  const StoredTensor& w = *writer.find("w");
  const std::string more(841, 'x');
  const auto said = [&](std::uint64_t first, std::size_t count) {
    return error_of<ConfigError>([&] { writer.write(w, first, bytes_of(more).first(count)); });
  };
  CHECK(says(said(0, 841), disk.path + ", tensor 'w'", "840 bytes"));
  CHECK(says(said(839, 2), "tensor 'w'"));
  CHECK(says(said(~std::uint64_t{0}, 2), "tensor 'w'"));
  CHECK(content(disk.path).find_first_not_of('\0') == std::string::npos);
  CHECK(writer.find("x") == nullptr);
}

TEST_CASE("where a file may be made, and which one is joined") {
  OnDisk disk;
  const auto create = [&](const std::string& path) { (void)Writer::create(path, disk.layout); };
  const auto join = [&](const std::string& path) { (void)Writer::join(path, disk.layout); };
  put(disk.path, "an older file");
  CHECK(says(error_of<ConfigError>([&] { create(disk.path); }), disk.path, "exists already"));
  CHECK(content(disk.path) == "an older file");
  CHECK(says(error_of<ConfigError>([&] { join(disk.path); }), disk.path, "13 bytes",
             std::to_string(disk.layout.file_bytes()), "other tensors"));
  CHECK(content(disk.path) == "an older file");
  const std::string in = disk.scratch.path();
  CHECK(says(error_of<ConfigError>([&] { create(in + "/none/x"); }), "does not exist"));
  CHECK(says(error_of<ConfigError>([&] { join(in + "/none"); }), "does not exist"));
  CHECK(says(error_of<ConfigError>([&] { join(in); }), "is a directory"));
  fs::create_symlink("elsewhere", in + "/link");
  CHECK(says(error_of<ConfigError>([&] { create(in + "/link"); }), "exists already"));
  CHECK_FALSE(fs::exists(in + "/elsewhere"));
  for (const int error : {EACCES, EROFS}) {
    disk.system.fail("open", error);
    CHECK(says(error_of<ConfigError>([&] { create(in + "/x"); }), in + "/x", "cannot be made",
               shardexpr::detail::error_text(error)));
  }
  for (const int error : {ENOSPC, EDQUOT}) {
    disk.system.fail("open", error);
    CHECK(says(error_of<IoError>([&] { create(in + "/x"); }), in + "/x", "free some"));
  }
}

TEST_CASE("a full disk is found at the start") {
  OnDisk disk;
  const auto create = [&] { auto writer = Writer::create(disk.path, disk.layout); };
  disk.system.fail("fallocate", ENOSPC);
  CHECK(says(error_of<IoError>(create), disk.path,
             std::to_string(disk.layout.file_bytes()) + " bytes", "No space left", "free some"));
  fs::remove(disk.path);
  // Where no room can be set aside.
  for (const int error : {EOPNOTSUPP, ENOSYS}) {
    disk.system.fail("fallocate", error);
    auto writer = Writer::create(disk.path, disk.layout);
    CHECK(fs::file_size(disk.path) == disk.layout.file_bytes());
    disk.write_all(writer);
    writer.finish();
    CHECK(content(disk.path) == disk.layout.first_bytes + disk.data);
    fs::remove(disk.path);
  }
  disk.system.call = [](std::string_view name) {
    return name == "fallocate" ? EOPNOTSUPP : name == "ftruncate" ? EFBIG : 0;
  };
  CHECK(says(error_of<IoError>(create), disk.path, "File too large"));
}

TEST_CASE("writes that are interrupted or come short go on") {
  OnDisk disk;
  int calls = 0;
  disk.system.transfer = [&](const Transfer& t) {
    ++calls;
    return calls % 3 == 0 ? Verdict{EINTR} : Verdict{0, calls % 3 == 1 ? t.bytes / 2 + 1 : t.bytes};
  };
  for (const char* const call : {"fallocate", "fsync"}) {
    disk.system.fail_once(call, EINTR);
    auto writer = Writer::create(disk.path, disk.layout);
    disk.write_all(writer);
    writer.finish();
    CHECK(content(disk.path) == disk.layout.first_bytes + disk.data);
    fs::remove(disk.path);
  }
}

TEST_CASE("a write that fails says file, tensor, byte and why") {
  OnDisk disk;
  auto writer = Writer::create(disk.path, disk.layout);
  const StoredTensor& w = *writer.find("w");
  const auto said = [&] {
    return error_of<IoError>(
        [&] { writer.write(w, 40, bytes_of(part_of(disk.data, w)).first(800)); });
  };
  const std::uint64_t at = disk.layout.header.data_offset + w.begin + 40;
  disk.system.transfer = [](const Transfer&) { return Verdict{EIO}; };
  CHECK(says(said(), disk.path + ", tensor 'w', 800 bytes from byte " + std::to_string(at),
             "Input/output error"));
  disk.system.transfer = [=](const Transfer& t) {
    return t.offset == at ? Verdict{0, 300} : Verdict{ENOSPC};
  };
  CHECK(says(said(), "tensor 'w', 500 bytes from byte " + std::to_string(at + 300), "free some"));
  disk.system.transfer = [](const Transfer&) { return Verdict{0, 0}; };
  CHECK(says(said(), "tensor 'w'", "cannot be written"));
}

TEST_CASE("a file that could not be finished is no safetensors file") {
  for (const char* const failing : {"fsync", "fsync again", "close", "header"}) {
    CAPTURE(failing);
    OnDisk disk;
    auto writer = Writer::create(disk.path, disk.layout);
    disk.write_all(writer);
    const std::string what = failing;
    if (what == "header")
      disk.system.transfer = [](const Transfer& t) { return Verdict{t.offset == 0 ? EIO : 0}; };
    else
      disk.system.fail_once(what == "close" ? "close" : "fsync", EIO,
                            what == "fsync again" ? 1 : 0);
    CHECK(says(error_of<IoError>([&] { writer.finish(); }), disk.path, "Input/output error"));
    // Behind the first fsync all data is there, and the header may be.
    if (what == "fsync" || what == "header")
      CHECK(says(error_of<FormatError>([&] { SafetensorsFile<> file{disk.path}; }), "rule '"));
  }
}
