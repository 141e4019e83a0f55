// SPDX-License-Identifier: Apache-2.0
// A safetensors file on a disk that works, on one that does not, and what is no such file.
#include <shardexpr/checkpoint/safetensors_file.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "../io/faulty_system.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>
#include <sys/stat.h>

using shardexpr::ConfigError;
using shardexpr::FormatError;
using shardexpr::IoError;
using shardexpr::SafetensorsFile;
using shardexpr::StoredTensor;
namespace fs = std::filesystem;

namespace {

using System = FaultySystem<ByThreads>;
using File = SafetensorsFile<System>;

/// Its data begins at an odd byte, and none of its tensors at a multiple of anything.
const std::string header = R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
                           R"("w":{"dtype":"F32","shape":[100,7],"data_offsets":[1,2801]},)"
                           R"("e":{"dtype":"F32","shape":[0],"data_offsets":[1,1]} })";

struct OnDisk {
  OnDisk() : data{some_bytes(2801)}, path{scratch.path() + "/m.safetensors"} {
    REQUIRE((header.size() & 1) == 1);
    put(path, container(header, data));
    system.alignment = std::nullopt;  // transfers may be of any size
  }
  Scratch scratch;
  WithFaults system;
  std::string data, path;
  std::uint64_t data_offset() const { return 8 + header.size(); }
};

template <class E>
std::string refusal(const std::string& path) {
  return error_of<E>([&] { File file{path}; });
}

}  // namespace

TEST_CASE("tensors are copied out of a file, whole and in pieces") {
  const OnDisk disk;
  const File file{disk.path};
  CHECK(file.path() == disk.path);
  CHECK(file.file_bytes() == disk.data_offset() + 2801);
  REQUIRE(file.find("w") != nullptr);
  const StoredTensor& w = *file.find("w");
  CHECK(file.offset_of(w) == disk.data_offset() + 1);
  CHECK(read_tensor(file, w) == disk.data.substr(1));
  CHECK(read_tensor(file, *file.find("a")) == disk.data.substr(0, 1));
  CHECK(read_tensor(file, *file.find("e")) == "");
  CHECK(file.find("x") == nullptr);

  for (const std::size_t first : {0, 1, 17, 2799, 2800})
    for (const std::size_t count : {0, 1, 3, 1000}) {
      if (first + count > 2800) continue;
      std::string guarded(count + 2, '?');
      file.read(w, first, std::as_writable_bytes(std::span{guarded}).subspan(1, count));
      CHECK(guarded == std::string{"?"}.append(disk.data, 1 + first, count) + "?");
    }
  std::vector<float> values(700);
  file.read(w, 0, std::as_writable_bytes(std::span{values}));
  CHECK(std::memcmp(values.data(), disk.data.data() + 1, 2800) == 0);
}

TEST_CASE("more than a tensor has is not read") {
  const OnDisk disk;
  const File file{disk.path};
  std::string to(2802, '?');
  const auto said = [&](std::uint64_t first, std::size_t count) {
    return error_of<ConfigError>([&] {
      file.read(*file.find("w"), first, std::as_writable_bytes(std::span{to}).first(count));
    });
  };
  CHECK(says(said(0, 2801), disk.path + ", tensor 'w'", "2800 bytes", "2801 from byte 0"));
  CHECK(says(said(2800, 1), "tensor 'w'"));
  CHECK(says(said(2801, 0), "tensor 'w'"));
  CHECK(says(said(~std::uint64_t{0}, 2), "tensor 'w'"));
  CHECK(says(said(~std::uint64_t{0} - 1, 2), "tensor 'w'"));
  CHECK(to == std::string(2802, '?'));
}

TEST_CASE("what is no file is refused in one line") {
  const OnDisk disk;
  const std::string in = disk.scratch.path();
  CHECK(says(refusal<ConfigError>(in + "/none.safetensors"), in + "/none.safetensors",
             "does not exist"));
  CHECK(says(refusal<ConfigError>(in), in, "is a directory; name a file"));
  CHECK(says(refusal<ConfigError>(disk.path + "/x"), "Not a directory"));
  CHECK(says(refusal<ConfigError>(""), "does not exist"));
  CHECK(says(refusal<ConfigError>(in + "/" + std::string(300, 'x')), "File name too long"));
  const std::string pipe = in + "/pipe", link = in + "/link", loop = in + "/loop";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(says(refusal<ConfigError>(pipe), pipe, "no regular file"));
  CHECK(says(refusal<ConfigError>("/dev/null"), "no regular file"));
  fs::create_symlink("loop", loop);
  CHECK(says(refusal<ConfigError>(loop), loop));
  // Caches of models are full of them.
  fs::create_symlink("m.safetensors", link);
  CHECK(refusal<ConfigError>(link) == "");
  put(in + "/empty", "");
  CHECK(says(refusal<FormatError>(in + "/empty"), "rule 'header length'", "0 bytes"));
}

TEST_CASE("what the system refuses at the start") {
  OnDisk disk;
  for (const int error : {EACCES, EPERM, EROFS}) {
    disk.system.fail("open", error);
    CHECK(says(refusal<ConfigError>(disk.path), disk.path, "cannot be read",
               shardexpr::detail::error_text(error)));
  }
  for (const int error : {EMFILE, EIO, ENOMEM}) {
    disk.system.fail("open", error);
    CHECK(says(refusal<IoError>(disk.path), disk.path, shardexpr::detail::error_text(error)));
  }
  disk.system.fail("fstat", EIO);
  CHECK(says(refusal<IoError>(disk.path), disk.path, "Input/output error"));
  for (const char* const call : {"open", "fstat"}) {
    disk.system.fail_once(call, EINTR);
    CHECK(refusal<IoError>(disk.path) == "");
  }
  disk.system.call = nullptr;
  // The length, then the rest of the header.
  for (const std::uint64_t offset : {0, 8}) {
    disk.system.transfer = [=](const Transfer& t) { return Verdict{t.offset == offset ? EIO : 0}; };
    CHECK(says(refusal<IoError>(disk.path), disk.path + ", the header",
               "from byte " + std::to_string(offset), "Input/output error"));
  }
}

TEST_CASE("a file descriptor is closed, whatever happens") {
  const OnDisk disk;
  const auto open_files = [] {
    return std::distance(fs::directory_iterator{"/proc/self/fd"}, fs::directory_iterator{});
  };
  put(disk.scratch.path() + "/bad", "12345678{}");
  const auto before = open_files();
  CHECK(refusal<FormatError>(disk.scratch.path() + "/bad") != "");
  CHECK(refusal<ConfigError>(disk.scratch.path()) != "");
  CHECK(refusal<ConfigError>("/dev/null") != "");
  {
    File one{disk.path};
    File other{std::move(one)}, third{disk.path};
    third = std::move(other);
    CHECK(read_tensor(third, *third.find("w")) == disk.data.substr(1));
    CHECK(open_files() > before);
  }
  CHECK(open_files() == before);
}

TEST_CASE("reads that are interrupted or come short go on") {
  OnDisk disk;
  int calls = 0;
  disk.system.transfer = [&](const Transfer& t) {
    ++calls;
    return calls % 3 == 0 ? Verdict{EINTR} : Verdict{0, calls % 3 == 1 ? t.bytes / 2 + 1 : t.bytes};
  };
  const File file{disk.path};
  CHECK(read_tensor(file, *file.find("w")) == disk.data.substr(1));
  disk.system.transfer = [&](const Transfer&) { return Verdict{0, 1}; };
  CHECK(read_tensor(file, *file.find("w")) == disk.data.substr(1));
  disk.system.transfer = nullptr;
  disk.system.fail_once("fstat", EINTR);
  CHECK(read_tensor(file, *file.find("w")) == disk.data.substr(1));
}

TEST_CASE("a read that fails says file, tensor, byte and why") {
  OnDisk disk;
  const File file{disk.path};
  const auto said = [&] {
    return error_of<IoError>([&] { (void)read_tensor(file, *file.find("w")); });
  };
  disk.system.transfer = [](const Transfer&) { return Verdict{EIO}; };
  CHECK(says(
      said(),
      disk.path + ", tensor 'w', 2800 bytes from byte " + std::to_string(disk.data_offset() + 1),
      "Input/output error"));
  // Where it failed, not where it began.
  disk.system.transfer = [&](const Transfer& t) {
    return t.offset == disk.data_offset() + 1 ? Verdict{0, 1000} : Verdict{EIO};
  };
  CHECK(says(said(),
             "tensor 'w', 1800 bytes from byte " + std::to_string(disk.data_offset() + 1001)));
  disk.system.transfer = nullptr;
  disk.system.fail("fstat", ESTALE);
  CHECK(says(said(), disk.path + ", tensor 'w'", "Stale file handle"));
}

TEST_CASE("a file that changes under the reader") {
  OnDisk disk;
  const File file{disk.path};
  const auto said = [&](const char* tensor) {
    return error_of<IoError>([&] { (void)read_tensor(file, *file.find(tensor)); });
  };
  const std::uint64_t whole = file.file_bytes();
  const std::string was = "had " + std::to_string(whole) + " bytes when it was opened";
  fs::resize_file(disk.path, whole - 1);
  // What would still lie in it is not read either: who changes its size changes the rest.
  for (const char* const tensor : {"a", "w", "e"})
    CHECK(says(said(tensor), disk.path + ", tensor '" + tensor + "'", was, "keep others from it"));
  fs::resize_file(disk.path, whole + 1);
  CHECK(says(said("w"), was, "has " + std::to_string(whole + 1) + " now"));
  fs::resize_file(disk.path, whole);
  CHECK(said("a") == "");

  // Cut off between the look at its size and the read: the read ends early.
  disk.system.transfer = [&](const Transfer& t) {
    return t.offset > disk.data_offset() + 1000 ? Verdict{0, 0} : Verdict{0, 1500};
  };
  CHECK(says(
      said("w"),
      disk.path + ", tensor 'w', 1300 bytes from byte " + std::to_string(disk.data_offset() + 1501),
      "ends before them", was));
  // At the start, too.
  disk.system.transfer = [](const Transfer& t) { return Verdict{0, t.offset == 0 ? 5u : 0u}; };
  CHECK(says(refusal<IoError>(disk.path), ", the header, 3 bytes from byte 5", "ends before them"));
}

TEST_CASE("a file removed while it is open is still read") {
  const OnDisk disk;
  const File file{disk.path};
  fs::remove(disk.path);
  CHECK(read_tensor(file, *file.find("w")) == disk.data.substr(1));
}

TEST_CASE("threads read at once") {
  const OnDisk disk;
  const File file{disk.path};
  std::vector<std::string> read(4);
  std::vector<std::thread> threads;
  for (std::string& to : read)
    threads.emplace_back([&] {
      to.resize(2800);
      for (std::size_t at = 0; at < 2800; at += 100)
        file.read(*file.find("w"), at, std::as_writable_bytes(std::span{to}).subspan(at, 100));
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& to : read) CHECK(to == disk.data.substr(1));
}
