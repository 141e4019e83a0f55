// SPDX-License-Identifier: Apache-2.0
// What is written comes back, and nothing else does.
#include <shardexpr/io/swap_file.hpp>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "../support/allocations.hpp"
#include "faulty_system.hpp"
#include "scratch.hpp"
#include <doctest/doctest.h>
#include <fcntl.h>

using shardexpr::ConfigError;
using shardexpr::IoError;
using shardexpr::SwapFile;

namespace {

/// Flips a bit of the file behind the program's back.
void flip_bit(const std::string& path, std::size_t at) {
  std::fstream file{path, std::ios::binary | std::ios::in | std::ios::out};
  file.seekg(static_cast<std::streamoff>(at));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(byte ^ 0x10));
}

}  // namespace

TEST_CASE_TEMPLATE("what is written comes back", Way, EVERY_WAY) {
  // One piece at a time, several rounds of pieces, all at once; whole pieces and a rest.
  for (const std::size_t queue_depth : {1, 3, 32})
    for (const std::size_t size : {block, 16 * block, 17 * block, 200 * block}) {
      CAPTURE(queue_depth);
      CAPTURE(size);
      SwapScratch scratch;
      SwapFile<FaultySystem<Way>> file{scratch.options(queue_depth), 0, size};
      CHECK(file.uses_io_uring() == ring_expected<Way>());
      CHECK(file.size_bytes() == size);
      const Memory written = Memory::random(size, 1), read{size};
      file.write(0, written.span(), moments);
      file.read(0, read.span(), moments);
      CHECK(read == written);
      CHECK(file.bytes_written() == size);
      CHECK(file.bytes_read() == size);
      const std::string on_disk = content(scratch.file());
      CHECK(on_disk.size() == block + size);  // behind the header, in order
      CHECK(std::memcmp(on_disk.data() + block, written.data(), size) == 0);
    }
}

TEST_CASE_TEMPLATE("a stretch may be read and written in other parts", Way, EVERY_WAY) {
  SwapScratch scratch;
  SwapFile<FaultySystem<Way>> file{scratch.options(), 3, 60 * block};
  const Memory first = Memory::random(60 * block, 1), second = Memory::random(20 * block, 2);
  file.write(0, first.part(0, 30 * block), moments);
  file.write(30 * block, first.part(30 * block, 30 * block), moments);
  file.write(7 * block, second.span(), moments);
  const Memory read{60 * block};
  for (std::size_t at = 0; at < 60; at += 20)
    file.read(at * block, read.part(at * block, 20 * block), moments);
  std::memcpy(first.data() + 7 * block, second.data(), 20 * block);
  CHECK(read == first);
  CHECK(file.bytes_written() == 80 * block);
  CHECK(file.bytes_read() == 60 * block);
}

TEST_CASE_TEMPLATE("one thread reads while another writes", Way, EVERY_WAY) {
  SwapScratch scratch;
  constexpr std::size_t half = 40 * block;
  SwapFile<FaultySystem<Way>> file{scratch.options(4), 0, 2 * half};
  const Memory lower = Memory::random(half, 1);
  file.write(0, lower.span(), moments);
  std::size_t differ = 0;
  for (unsigned round = 0; round < 10; ++round) {
    const Memory upper = Memory::random(half, 2 + round), read{half};
    std::thread writer{[&] { file.write(half, upper.span(), moments); }};
    file.read(0, read.span(), moments);
    writer.join();
    differ += !(read == lower);
    file.read(half, read.span(), moments);
    differ += !(read == upper);
  }
  CHECK(differ == 0);
}

TEST_CASE_TEMPLATE("reading and writing allocate nothing and describe nothing", Way, EVERY_WAY) {
  if (!COUNTS_ALLOCATIONS) return;
  SwapScratch scratch;
  SwapFile<FaultySystem<Way>> file{scratch.options(3), 0, 100 * block};
  const Memory memory = Memory::random(100 * block, 1);
  int described = 0;
  const auto describe = [&] { return ++described, moments(); };
  file.write(0, memory.span(), describe);  // the first may make the threads' own memory
  const std::size_t before = allocations;
  CHECK(before > 0);
  for (int round = 0; round < 3; ++round) {
    file.write(0, memory.span(), describe);
    file.read(0, memory.span(), describe);
    file.check();
  }
  CHECK(allocations == before);
  CHECK(described == 0);
}

TEST_CASE_TEMPLATE("a flipped bit is found, where it lies", Way, EVERY_WAY) {
  SwapScratch scratch;
  SwapFile<FaultySystem<Way>> file{scratch.options(2), 0, 50 * block};
  const Memory written = Memory::random(50 * block, 1), read{50 * block};
  file.write(0, written.span(), moments);
  // The first and last of a piece, of the file, and one within.
  for (const std::size_t at : {0, 15, 16, 33, 49}) {
    CAPTURE(at);
    flip_bit(scratch.file(), (1 + at) * block + 12345);
    const std::string error = error_of<IoError>([&] { file.read(0, read.span(), moments); });
    CHECK(says(error, scratch.file(),
               "read of 65536 bytes at byte " + std::to_string((1 + at) * block) + " of", moments(),
               "checksum", "checkpoint"));
    CHECK(error_of<IoError>([&] { file.read(at * block, read.part(0, block), moments); }) == error);
    if (at > 0) file.read(0, read.part(0, at * block), moments);  // its neighbours are well
    if (at < 49) file.read((at + 1) * block, read.part(0, (49 - at) * block), moments);
    file.write(at * block, written.part(at * block, block), moments);
    file.read(0, read.span(), moments);
    CHECK(read == written);
  }
}

TEST_CASE_TEMPLATE("what was not written is not read", Way, EVERY_WAY) {
  SwapScratch scratch;
  SwapFile<FaultySystem<Way>> file{scratch.options(), 0, 8 * block};
  const Memory memory = Memory::random(8 * block, 1);
  const auto error = [&](std::size_t at, std::size_t count) {
    return error_of<IoError>(
        [&] { file.read(at * block, memory.part(0, count * block), moments); });
  };
  CHECK(says(error(0, 1), "never written", "write before you read", moments()));
  file.write(2 * block, memory.part(0, 3 * block), moments);
  CHECK(error(2, 3).empty());
  CHECK(says(error(2, 4), "at byte " + std::to_string(6 * block) + " of", "never written"));
  CHECK(says(error(1, 2), "at byte " + std::to_string(2 * block) + " of", "never written"));
  CHECK(file.bytes_read() == 3 * block);
}

TEST_CASE_TEMPLATE("places and memory that do not fit are refused", Way, EVERY_WAY) {
  SwapScratch scratch;
  SwapFile<FaultySystem<Way>> file{scratch.options(), 0, 4 * block};
  const Memory memory{6 * block};
  const auto refused = [&](std::size_t offset, std::size_t from, std::size_t size) {
    const std::string write =
        error_of<IoError>([&] { file.write(offset, memory.part(from, size), moments); });
    const std::string read =
        error_of<IoError>([&] { file.read(offset, memory.part(from, size), moments); });
    CHECK(says(write, "write of " + std::to_string(size), moments()));
    CHECK(says(read, "read of " + std::to_string(size), moments()));
    return write;
  };
  CHECK(says(refused(1, 0, block), "multiples of 65536"));
  CHECK(says(refused(4096, 0, block), "multiples of 65536"));
  CHECK(says(refused(0, 0, 4096), "multiples of 65536"));
  CHECK(says(refused(0, 512, block), "aligned to 4096"));
  CHECK(says(refused(0, 0, 5 * block), "inside"));
  CHECK(says(refused(4 * block, 0, block), "inside"));
  CHECK(says(refused(0 - block, 0, 2 * block), "inside"));  // wraps around to inside
  CHECK(file.bytes_written() == 0);
  file.write(0, memory.part(0, 4 * block), moments);  // nothing of this has broken it
  file.write(4 * block, memory.part(0, 0), moments);
  file.read(4 * block, memory.part(0, 0), moments);
  CHECK(file.bytes_written() == 4 * block);
}

TEST_CASE("options out of their range are refused") {
  SwapScratch scratch;
  const auto error = [&](shardexpr::NvmeOptions options, std::size_t size) {
    return error_of<ConfigError>([&] { SwapFile<> file{options, 0, size}; });
  };
  CHECK(says(error(scratch.options(0), block), "queue_depth is 0", "1 to 4096"));
  CHECK(says(error(scratch.options(4097), block), "queue_depth is 4097", "1 to 4096"));
  CHECK(says(error(scratch.options(), block + 4096), "69632 bytes", "multiple of 65536"));
  shardexpr::NvmeOptions without = scratch.options();
  without.notice = nullptr;
  CHECK(says(error(without, block), "notice"));
  CHECK(scratch.entries() == 0);
  CHECK(error(scratch.options(4096), block).empty());
}

TEST_CASE("a plan knows the memory of the checksums") {
  static_assert(SwapFile<>::checksum_bytes(0) == 0);
  CHECK(SwapFile<>::checksum_bytes(100 * block) == 400);
}
