// SPDX-License-Identifier: Apache-2.0
// Transfers that fail, stop short, or never come.
#include <shardexpr/io/swap_file.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "faulty_system.hpp"
#include "scratch.hpp"
#include <doctest/doctest.h>

using shardexpr::IoError;
using shardexpr::SwapFile;

namespace {

constexpr std::size_t piece = 16 * block;
constexpr std::size_t size = 4 * piece + 3 * block;

template <class Way>
struct Fixture {
  explicit Fixture(std::size_t queue_depth = 2, bool is_direct = true) {
    if (!is_direct) system.alignment = Alignment{0, 0};
    file.emplace(scratch.options(queue_depth), 0, size);
    CHECK(file->is_direct() == is_direct);
    // From here on what the layer claims of short transfers: without units, all of it.
    if (!is_direct) system.alignment.reset();
    file->write(0, written.span(), moments);
  }
  /// Of each piece.
  void transfer_in_first_tries(Verdict verdict, int tries = 1) {
    std::map<std::pair<bool, std::uint64_t>, int> seen;
    system.transfer = [=](const Transfer& t) mutable {
      return t.is_state() && seen[{t.writes, (t.offset - block) / piece}]++ < tries ? verdict
                                                                                    : Verdict{};
    };
  }
  std::string read_error() {
    return error_of<IoError>([&] { file->read(0, read.span(), moments); });
  }
  std::string write_error() {
    return error_of<IoError>([&] { file->write(0, written.span(), moments); });
  }
  /// New bytes go through, both ways.
  bool works() {
    written = Memory::random(size, ++seed);
    read.clear();
    file->write(0, written.span(), moments);
    file->read(0, read.span(), moments);
    return read == written;
  }

  unsigned seed = 1;
  SwapScratch scratch;
  WithFaults system;
  Memory written = Memory::random(size, 1), read{size};
  std::optional<SwapFile<FaultySystem<Way>>> file;
};

}  // namespace

TEST_CASE_TEMPLATE("an error of a transfer is an error, and the next one works", Way, EVERY_WAY) {
  for (const int error : {EIO, ENOSPC, EDQUOT, EINVAL, ENOMEM})
    for (const std::size_t queue_depth : {1, 2, 32})
      for (const std::size_t at : {std::size_t{0}, 2 * piece, 4 * piece}) {
        CAPTURE(error);
        CAPTURE(queue_depth);
        CAPTURE(at);
        Fixture<Way> f{queue_depth};
        const std::size_t bytes = at == 4 * piece ? 3 * block : piece;
        const std::string where = " of " + std::to_string(bytes) + " bytes at byte " +
                                  std::to_string(block + at) + " of the file (" + moments() + "): ";
        int tries = 0;
        f.system.transfer = [=, &tries](const Transfer& t) {
          tries += t.offset == block + at;
          return Verdict{t.offset == block + at ? error : 0};
        };
        const std::string text = shardexpr::detail::error_text(error);
        const std::string read = f.read_error();
        CHECK(says(read, f.scratch.file(), "read" + where + text));
        const std::string write = f.write_error();
        CHECK(says(write, f.scratch.file(), "write" + where + text, "; "));
        if (error == ENOSPC || error == EDQUOT) CHECK(says(write, "bytes are free in"));
        CHECK(tries == 2);                       // a disk that fails is not pressed
        CHECK(f.file->bytes_written() == size);  // that of the fixture
        CHECK(f.file->bytes_read() == 0);
        // Which of it is on the disk is not known: none of it is given out.
        f.system.transfer = nullptr;
        CHECK(says(f.read_error(), "never written, or not to the end"));
        CHECK(f.works());
      }
}

TEST_CASE_TEMPLATE("several errors at once are one", Way, EVERY_WAY) {
  Fixture<Way> f{32};
  f.system.transfer = [](const Transfer&) { return Verdict{EIO}; };
  CHECK(says(f.read_error(), "Input/output error"));
  CHECK(says(f.write_error(), "Input/output error"));
  f.system.transfer = nullptr;
  CHECK(f.works());
}

TEST_CASE_TEMPLATE("what was moved in part is continued, whatever the part", Way, EVERY_WAY) {
  for (const bool is_direct : {true, false})
    for (const std::size_t bytes :
         {std::size_t{1}, std::size_t{511}, std::size_t{512}, std::size_t{513}, std::size_t{4095},
          std::size_t{4096}, std::size_t{4097}, std::size_t{8191}, std::size_t{12288}, block - 1,
          block, block + 1, 3 * block - 1, piece - 4096, piece - 4095, piece - 1}) {
      CAPTURE(is_direct);
      CAPTURE(bytes);
      Fixture<Way> f{2, is_direct};
      f.transfer_in_first_tries({0, bytes});
      CHECK(f.works());
      CHECK(f.file->bytes_written() == 2 * size);
      CHECK(f.file->bytes_read() == size);
    }
}

TEST_CASE_TEMPLATE("what is moved in small parts arrives", Way, EVERY_WAY) {
  for (const bool is_direct : {true, false}) {
    Fixture<Way> f{3, is_direct};
    f.system.transfer = [](const Transfer&) { return Verdict{0, 2 * 4096 + 700}; };
    CHECK(f.works());
    CHECK(f.system.pauses == 0);
  }
}

TEST_CASE_TEMPLATE("parts below the file's unit are tried again, not for ever", Way, EVERY_WAY) {
  Fixture<Way> f;
  f.transfer_in_first_tries({0, 4095}, 50);
  CHECK(f.works());
  f.system.transfer = [](const Transfer& t) {
    return Verdict{0, t.offset < block ? t.bytes : 4095};
  };
  CHECK(says(f.read_error(), moments(), "no more bytes are transferred"));
  CHECK(says(f.write_error(), moments(), "no more bytes are transferred"));
  f.system.transfer = nullptr;
  CHECK(f.works());
}

TEST_CASE_TEMPLATE("an end of the file is an error of a read", Way, EVERY_WAY) {
  Fixture<Way> f;
  f.system.transfer = [](const Transfer& t) {
    return Verdict{0, t.offset == block + piece ? 0 : t.bytes};
  };
  CHECK(says(f.read_error(), "at byte " + std::to_string(block + piece) + " of", "the file ends",
             "truncated"));
  CHECK(says(f.write_error(), "no more bytes are transferred"));
}

TEST_CASE_TEMPLATE("interrupted transfers are made again, not for ever", Way, EVERY_WAY) {
  for (const int error : {EINTR, EAGAIN}) {
    Fixture<Way> f;
    f.transfer_in_first_tries({error}, 3);
    CHECK(f.works());
    CHECK(f.system.pauses == 0);
    f.transfer_in_first_tries({error}, 90);
    CHECK(f.works());
    CHECK(f.system.pauses > 0);
    f.system.transfer = [=](const Transfer& t) { return Verdict{t.offset > block ? error : 0}; };
    CHECK(says(f.read_error(), shardexpr::detail::error_text(error)));
    CHECK(says(f.write_error(), shardexpr::detail::error_text(error)));
    f.system.transfer = nullptr;
    CHECK(f.works());
  }
}

TEST_CASE_TEMPLATE("a bit that flips on the way is found", Way, EVERY_WAY) {
  Fixture<Way> f;
  const Memory original = Memory::random(size, 1);
  // The file gets other bytes than those that the checksum was made of: written from memory that
  // changes, as memory with a fault does.
  f.system.transfer = [&](const Transfer& t) {
    if (t.writes && t.offset == block + piece) f.written.data()[piece + 5] ^= std::byte{4};
    return Verdict{};
  };
  f.file->write(0, f.written.span(), moments);
  CHECK_FALSE(f.written == original);
  CHECK(says(f.read_error(), "read of 65536 bytes at byte " + std::to_string(block + piece) + " of",
             "checksum"));
}

TEST_CASE_TEMPLATE("a file that cannot be asked is an error of check", Way, EVERY_WAY) {
  Fixture<Way> f;
  f.file->check();
  f.system.fail_once("fstat", EINTR);
  f.file->check();
  f.system.fail("fstat", EIO);
  CHECK(says(error_of<IoError>([&] { f.file->check(); }), f.scratch.file(), "Input/output error"));
}

#if defined(SHARDEXPR_LIBURING)
TEST_CASE("a ring that is busy is asked again") {
  if (!ring_expected<ByRing>()) return;
  for (const int error : {EINTR, EAGAIN, EBUSY}) {
    Fixture<ByRing> f;
    f.system.fail_once("ring_submit", error, 2);
    CHECK(f.works());
    f.system.fail_once("ring_wait", error, 2);
    CHECK(f.works());
    CHECK(f.system.pauses == 2);
  }
}

TEST_CASE("a ring that is refused in the middle ends in an error, then and later") {
  if (!ring_expected<ByRing>()) return;
  for (const int error : {EPERM, EAGAIN, ENOMEM})
    for (const char* call : {"ring_push", "ring_submit"})
      for (const int which : {0, 1, 3}) {
        CAPTURE(call);
        CAPTURE(which);
        Fixture<ByRing> f;
        int calls = 0;
        const auto refuse = [&](std::string_view name) {
          return name == call && calls++ >= which ? error : 0;
        };
        f.system.call = refuse;
        const std::string text = shardexpr::detail::error_text(error);
        CHECK(says(f.read_error(), moments(), text));
        // What lies in the ring and was not taken is never taken: the memory is the caller's again.
        f.system.call = nullptr;
        f.read.clear();
        const Memory cleared{size};
        CHECK(says(f.read_error(), text));
        CHECK(f.read == cleared);
        calls = 0;
        f.system.call = refuse;
        CHECK(says(f.write_error(), moments(), text));
        f.system.call = nullptr;
        CHECK(says(f.write_error(), text));
        CHECK(f.file->bytes_written() == size);
      }
}

TEST_CASE("a ring that never says what became of a transfer ends in an error") {
  if (!ring_expected<ByRing>()) return;
  Fixture<ByRing> f;
  // Nothing is moved in truth: what the system still does, it does after the error.
  f.system.transfer = [](const Transfer&) { return Verdict{EIO}; };
  f.system.fail("ring_wait", EBADF);
  CHECK(says(f.read_error(), "Bad file descriptor"));
  CHECK(f.system.pauses == 10000);
  f.system.call = nullptr;
  CHECK(says(f.read_error(), "Bad file descriptor"));
}
#endif
