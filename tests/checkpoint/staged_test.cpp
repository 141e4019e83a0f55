// SPDX-License-Identifier: Apache-2.0
// What goes to a file by stages is in it, wherever it begins and ends, and whatever the file system
// takes.
#include <shardexpr/checkpoint/staged_writer.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

namespace {

/// A file in memory, which takes what a test lets it.
struct Disk : shardexpr::detail::LinuxSystem {
  static inline std::string file;
  static inline bool has_direct, takes_direct, has_threads, takes_half;
  static inline int fails_at;  // < 0: never
  static inline std::size_t direct_bytes, misaligned, refused, threads;
  static inline std::atomic<int> under_way;
  static inline std::atomic<std::size_t> at_once;

  static void reset(std::size_t bytes) {
    file.assign(bytes, '\0');
    has_direct = takes_direct = has_threads = true;
    takes_half = false;
    fails_at = -1;
    direct_bytes = misaligned = refused = threads = 0;
    at_once = 0;
  }
  static inline int next = 1000;

  static int open(const char*, int, mode_t) { return next++; }
  static int close(int) { return 0; }
  static int fstat(int, struct stat* to) {
    *to = {};
    to->st_mode = S_IFREG;
    to->st_size = static_cast<off_t>(file.size());
    return 0;
  }
  static inline int direct_fd = -1;
  static int set_direct(int fd, bool) {
    direct_fd = has_direct ? fd : -1;
    errno = EINVAL;
    return has_direct ? 0 : -1;
  }
  static ssize_t pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t offset) {
    if (++under_way != 1) ++at_once;
    const ssize_t count = put(fd, from, bytes, offset);
    --under_way;
    return count;
  }
  static ssize_t put(int fd, const void* from, std::size_t bytes, std::uint64_t offset) {
    if (fails_at >= 0 && fails_at-- == 0) return errno = EIO, -1;
    if (fd == direct_fd) {
      if (!takes_direct) return ++refused, errno = EINVAL, -1;
      misaligned += reinterpret_cast<std::uintptr_t>(from) % 4096 != 0 || bytes % 4096 != 0 ||
                    offset % 4096 != 0;
      if (takes_half) bytes /= 2;
      direct_bytes += bytes;
    }
    if (offset > file.size() || bytes > file.size() - offset) return errno = EFBIG, -1;
    file.replace(static_cast<std::size_t>(offset), bytes, static_cast<const char*>(from), bytes);
    return static_cast<ssize_t>(bytes);
  }
  template <class Work, class Of>
  static std::thread start_thread(Work work, Of* of) {
    if (!has_threads) throw std::system_error{EAGAIN, std::generic_category()};
    ++threads;
    return LinuxSystem::start_thread(work, of);
  }
};
using Writer = shardexpr::detail::StagedWriter<Disk>;

/// Text that is nowhere the same.
std::string text_of(std::size_t bytes) {
  std::mt19937 random{7};
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}
std::span<const std::byte> bytes_of(const std::string& text, std::size_t begin, std::size_t end) {
  return std::as_bytes(std::span{text}.subspan(begin, end - begin));
}

/// Writes `text` cut at `cuts`, each second stretch first; each in pieces of `piece`.
void write(const std::string& text, std::vector<std::size_t> cuts, std::size_t piece) {
  cuts.insert(cuts.begin(), 0);
  cuts.push_back(text.size());
  Writer writer{"file"};
  for (const std::size_t parity : {1, 0})
    for (std::size_t i = parity; i + 1 < cuts.size(); i += 2)
      for (std::size_t at = cuts[i]; at < cuts[i + 1]; at += piece)
        writer.write(at, bytes_of(text, at, std::min(at + piece, cuts[i + 1])));
  writer.flush();
}

constexpr std::size_t stage = Writer::stage_bytes;

}  // namespace

TEST_CASE("what goes through stages is in the file, byte for byte") {
  const std::string text = text_of(3 * stage + 12345);
  std::vector<std::size_t> many;
  for (std::size_t at = 1; at < text.size(); at += many.size() % 7 == 0 ? 150'001 : 4'095)
    many.push_back(at);
  const std::vector<std::vector<std::size_t>> all_cuts{
      {},  {4096}, {1, 2, 4095, 4097}, {stage - 1, stage, stage + 1, 2 * stage}, {777, 2 * stage},
      many};
  for (const std::vector<std::size_t>& cuts : all_cuts)
    for (const std::size_t piece : {std::size_t{256} << 10, 2 * stage, std::size_t{10'007}}) {
      CAPTURE(cuts.size());
      CAPTURE(piece);
      Disk::reset(text.size());
      write(text, cuts, piece);
      CHECK(Disk::file == text);
      CHECK(Disk::direct_bytes > text.size() / 2);
      CHECK(Disk::misaligned == 0);
      CHECK(Disk::threads == 1);
      CHECK(Disk::at_once == 0);
    }
}
TEST_CASE("what lies at the same place in a block, but elsewhere, goes elsewhere") {
  const std::string text = text_of(40 * 4096);
  Disk::reset(text.size());
  Writer writer{"file"};
  for (const std::size_t block : {30, 10, 11, 31, 0})
    writer.write(block * 4096, bytes_of(text, block * 4096, (block + 1) * 4096));
  writer.flush();
  std::string expected(text.size(), '\0');
  for (const std::size_t block : {30, 10, 11, 31, 0})
    expected.replace(block * 4096, 4096, text, block * 4096, 4096);
  CHECK(Disk::file == expected);
}
TEST_CASE("what a file system does not take past the page cache goes through it") {
  const std::string text = text_of(2 * stage + 4321);
  SUBCASE("it has no O_DIRECT") {
    Disk::reset(text.size());
    Disk::has_direct = false;
    write(text, {777}, stage);
    CHECK(Disk::direct_bytes == 0);
  }
  SUBCASE("it refuses the transfers") {
    Disk::reset(text.size());
    Disk::takes_direct = false;
    write(text, {777}, stage);
    CHECK(Disk::direct_bytes == 0);
    CHECK(Disk::refused == 1);  // and is not asked again
  }
  SUBCASE("it takes a part of them") {
    Disk::reset(text.size());
    Disk::takes_half = true;
    write(text, {777}, stage);
    CHECK(Disk::direct_bytes > 0);
  }
  CHECK(Disk::file == text);
}
TEST_CASE("without a thread stages are written all the same") {
  const std::string text = text_of(3 * stage);
  Disk::reset(text.size());
  Disk::has_threads = false;
  write(text, {777}, stage);
  CHECK(Disk::file == text);
  CHECK(Disk::threads == 0);
}
TEST_CASE("what fits in a stage takes no thread") {
  const std::string text = text_of(stage - 4096);
  Disk::reset(text.size());
  write(text, {}, stage);
  CHECK(Disk::file == text);
  CHECK(Disk::threads == 0);
}
TEST_CASE("a write that fails is an error of the writer, whichever it was") {
  const std::string text = text_of(3 * stage + 99);
  int failed = 0;
  for (int call = 0;; ++call) {
    CAPTURE(call);
    REQUIRE(call < 1000);
    Disk::reset(text.size());
    Disk::fails_at = call;
    std::string said;
    try {
      write(text, {1000, stage}, stage / 2);
    } catch (const shardexpr::IoError& error) {
      said = error.what();
    }
    if (Disk::fails_at >= 0) break;
    CHECK(said.find("file, its tensors") == 0);
    ++failed;
  }
  CHECK(failed > 4);
}
