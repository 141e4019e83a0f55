// SPDX-License-Identifier: Apache-2.0
// Whose the file is: made, locked, taken over, refused, removed.
#include <shardexpr/io/swap_file.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "faulty_system.hpp"
#include "scratch.hpp"
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

using shardexpr::ConfigError;
using shardexpr::IoError;
using shardexpr::SwapFile;
namespace fs = std::filesystem;

namespace {

/// Another process, with a file of rank 0 and `size` bytes, until it is killed.
class OtherRun {
 public:
  OtherRun(const SwapScratch& scratch, std::size_t size) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    process_ = ::fork();
    REQUIRE(process_ >= 0);
    if (process_ == 0) {
      try {
        SwapFile<> file{scratch.options(), 0, size};
        (void)!::write(ends[1], "!", 1);
        for (;;) ::pause();
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(ends[1]);
    char ready = 0;
    is_ready_ = ::read(ends[0], &ready, 1) == 1;
    ::close(ends[0]);
  }
  OtherRun(const OtherRun&) = delete;
  OtherRun& operator=(const OtherRun&) = delete;
  ~OtherRun() { kill(); }
  void kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  bool is_ready() const { return is_ready_; }
  std::string name() const { return "process " + std::to_string(process_); }

 private:
  pid_t process_ = 0;
  bool is_ready_ = false;
};

std::string refusal(const SwapScratch& scratch) {
  return error_of<ConfigError>([&] { SwapFile<> file{scratch.options(), 0, block}; });
}

}  // namespace

TEST_CASE("the file goes with its object, and nothing else goes") {
  SwapScratch scratch;
  put(scratch.path() + "/notes", "mine");
  put(scratch.file(1), "");
  {
    SwapFile<> zero{scratch.options(), 0, 4 * block}, one{scratch.options(), 1, block};
    CHECK(fs::file_size(scratch.file(0)) == 5 * block);
    CHECK(fs::file_size(scratch.file(1)) == 2 * block);
    CHECK(scratch.entries() == 3);
    struct stat now {};
    CHECK(::stat(scratch.file().c_str(), &now) == 0);
    CHECK(static_cast<std::size_t>(now.st_blocks) * 512 >= 5 * block);  // there is room for all
    CHECK((now.st_mode & 0777) == 0600);
  }
  CHECK(scratch.entries() == 1);
  CHECK(content(scratch.path() + "/notes") == "mine");
  CHECK(SwapScratch::notices("left by") == 0);  // an empty file holds nothing to speak of
}

TEST_CASE("of no bytes there is no file") {
  SwapScratch scratch;
  SwapFile<> file{scratch.options(), 0, 0};
  CHECK(scratch.entries() == 0);
  file.check();
  const Memory memory{block};
  CHECK(says(error_of<IoError>([&] { file.write(0, memory.span(), moments); }), "inside"));
  CHECK_FALSE(file.uses_io_uring());
  CHECK_FALSE(file.is_direct());
}

TEST_CASE("a second run on the directory is refused, and one that was killed is taken over") {
  SwapScratch scratch;
  for (const std::size_t size : {std::size_t{2} * block, std::size_t{40} * block}) {
    CAPTURE(size);
    OtherRun other{scratch, size};
    REQUIRE(other.is_ready());
    const std::string name = other.name() + " on ";
    CHECK(says(refusal(scratch), scratch.file(), "in use by " + name, "directory of its own"));
    CHECK(fs::file_size(scratch.file()) == block + size);
    { SwapFile<> rank_1{scratch.options(), 1, block}; }  // another rank is no other run

    other.kill();
    CHECK(fs::exists(scratch.file()));
    CHECK(SwapScratch::notices("left by") == (size == 2 * block ? 0 : 1));
    {
      SwapFile<> file{scratch.options(), 0, 9 * block};
      CHECK(SwapScratch::notices(scratch.file() + " was left by " + name) == 1);
      CHECK(fs::file_size(scratch.file()) == 10 * block);  // longer or shorter than it was
      const Memory memory = Memory::random(9 * block, 1), read{9 * block};
      CHECK(says(error_of<IoError>([&] { file.read(0, read.span(), moments); }), "never written"));
      file.write(0, memory.span(), moments);
      file.read(0, read.span(), moments);
      CHECK(read == memory);
      CHECK(says(refusal(scratch), "in use by process " + std::to_string(::getpid()) + " on "));
    }
    CHECK(scratch.entries() == 0);
  }
}

TEST_CASE("a run that has not yet written its header is another run, too") {
  SwapScratch scratch;
  const int fd = ::open(scratch.file().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(::flock(fd, LOCK_EX) == 0);
  CHECK(says(refusal(scratch), "in use by a process that is just starting"));
  ::close(fd);
  CHECK(refusal(scratch).empty());
}

TEST_CASE("a file of somebody else is refused, and left as it is") {
  SwapScratch scratch;
  std::string header;
  {
    SwapFile<> file{scratch.options(), 0, block};
    header = content(scratch.file());
  }
  std::string flipped = header;
  flipped[17] = static_cast<char>(flipped[17] ^ 1);  // in the number of the process
  for (const std::string& text :
       {std::string{"notes"}, std::string(200000, '\0'), flipped, header.substr(0, 100)}) {
    put(scratch.file(), text);
    const auto time = fs::last_write_time(scratch.file());
    CHECK(says(refusal(scratch), scratch.file(), "no file of this library", "left as it is"));
    CHECK(content(scratch.file()) == text);
    CHECK(fs::last_write_time(scratch.file()) == time);
  }
  put(scratch.file(), header);  // the check is not refusing everything
  CHECK(refusal(scratch).empty());
  CHECK(scratch.entries() == 0);
}

TEST_CASE("what is no plain file is refused") {
  SwapScratch scratch;
  fs::create_directory(scratch.file());
  CHECK(says(refusal(scratch), "no file of this library"));
  fs::remove(scratch.file());

  put(scratch.path() + "/target", "");
  fs::create_symlink(scratch.path() + "/target", scratch.file());
  CHECK(says(refusal(scratch), "no file of this library"));
  CHECK(fs::is_symlink(scratch.file()));
  CHECK(content(scratch.path() + "/target").empty());
  fs::remove(scratch.file());

  REQUIRE(::mkfifo(scratch.file().c_str(), 0600) == 0);
  CHECK(says(refusal(scratch), "no file of this library"));
  CHECK(fs::is_fifo(scratch.file()));
}

TEST_CASE("a directory that cannot hold the file is refused") {
  SwapScratch scratch;
  const auto error = [](const std::string& directory) {
    return error_of<ConfigError>([&] { SwapFile<> file{{.directory = directory}, 0, block}; });
  };
  CHECK(says(error(scratch.path() + "/missing"), scratch.path() + "/missing", "does not exist",
             "make it"));
  CHECK_FALSE(fs::exists(scratch.path() + "/missing"));
  put(scratch.path() + "/file", "text");
  CHECK(says(error(scratch.path() + "/file"), "is no directory", "NvmeOptions::directory"));
  CHECK(says(error(""), "no directory is given", "NvmeOptions::directory"));
}

TEST_CASE("a directory may be relative, and the program go elsewhere") {
  SwapScratch scratch;
  const fs::path here = fs::current_path();
  fs::create_directory(scratch.path() + "/relative");
  fs::current_path(scratch.path());
  {
    shardexpr::NvmeOptions options = scratch.options();
    options.directory = "relative";
    SwapFile<> file{options, 0, block};
    CHECK(fs::exists("relative/shardexpr-rank-0.swap"));
    fs::current_path(here);
    file.check();
  }
  CHECK(fs::is_empty(scratch.path() + "/relative"));
}

TEST_CASE_TEMPLATE("a file that is removed under the program is missed", Way, EVERY_WAY) {
  SwapScratch scratch;
  std::optional<SwapFile<FaultySystem<Way>>> file;
  file.emplace(scratch.options(), 0, 4 * block);
  file->check();
  fs::remove(scratch.file());
  CHECK(
      says(error_of<IoError>([&] { file->check(); }), scratch.file(), "was removed", "checkpoint"));
  put(scratch.file(), "of another");  // ours is gone: this one is not ours to remove
  file.reset();
  CHECK(content(scratch.file()) == "of another");
}

TEST_CASE_TEMPLATE("a file that is truncated under the program is missed", Way, EVERY_WAY) {
  SwapScratch scratch;
  SwapFile<FaultySystem<Way>> file{scratch.options(2), 0, 40 * block};
  const Memory memory = Memory::random(40 * block, 1);
  file.write(0, memory.span(), moments);
  for (const std::size_t left : {30 * block + 100, 30 * block, std::size_t{0}}) {
    CAPTURE(left);
    fs::resize_file(scratch.file(), left);
    CHECK(says(error_of<IoError>([&] { file.check(); }), "was truncated",
               "from " + std::to_string(41 * block) + " to " + std::to_string(left)));
    CHECK(says(error_of<IoError>([&] { file.read(0, memory.span(), moments); }), scratch.file(),
               moments(), "truncated", "checkpoint"));
  }
  fs::resize_file(scratch.file(), 41 * block);  // full length again, but zeros
  file.check();
  CHECK(says(error_of<IoError>([&] { file.read(0, memory.span(), moments); }), "checksum"));
}
