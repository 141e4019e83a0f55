// SPDX-License-Identifier: Apache-2.0
// Every call of the system that makes a file refuses once.
#include <shardexpr/io/swap_file.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>

#include "faulty_system.hpp"
#include "scratch.hpp"
#include <doctest/doctest.h>
#include <sys/stat.h>

using shardexpr::ConfigError;
using shardexpr::IoError;
using shardexpr::SwapFile;
namespace fs = std::filesystem;

namespace {

template <class Way, class E>
std::string refusal(const SwapScratch& scratch, std::size_t size = 4 * block) {
  return error_of<E>([&] { SwapFile<FaultySystem<Way>> file{scratch.options(), 0, size}; });
}

/// A file works: what is written comes back.
template <class System>
bool works(SwapFile<System>& file) {
  const Memory written = Memory::random(file.size_bytes(), 1), read{file.size_bytes()};
  file.write(0, written.span(), moments);
  file.read(0, read.span(), moments);
  return read == written;
}

}  // namespace

TEST_CASE("a disk without room is found at the start") {
  SwapScratch scratch;
  WithFaults system;
  for (const int error : {ENOSPC, EDQUOT}) {
    system.fail("fallocate", error);
    const std::string text = refusal<ByThreads, IoError>(scratch, 100 * block);
    CHECK(says(text, scratch.file(), std::to_string(101 * block) + " bytes",
               shardexpr::detail::error_text(error), "bytes are free in " + scratch.path(),
               "another disk"));
    CHECK(scratch.entries() == 0);  // nothing is left to take room
  }
  system.call = nullptr;
  system.transfer = [](const Transfer& t) { return Verdict{t.writes ? ENOSPC : 0}; };
  CHECK(says(refusal<ByThreads, IoError>(scratch), "No space left", "bytes are free in"));
  CHECK(scratch.entries() == 0);
  system.transfer = nullptr;
  system.fail("open", ENOSPC);
  CHECK(says(refusal<ByThreads, IoError>(scratch), "No space left", "bytes are free in"));
}

TEST_CASE("where room cannot be set aside, zeros are written") {
  for (const int error : {EOPNOTSUPP, ENOSYS})
    for (const bool is_direct : {true, false}) {
      SwapScratch scratch;
      WithFaults system;
      int zeros = 0;
      system.call = [=](std::string_view name) {
        return name == "fallocate" ? error : name == "set_direct" && !is_direct ? EINVAL : 0;
      };
      // Not all at once, and interrupted.
      system.transfer = [&](const Transfer& t) {
        if (!t.writes || !t.is_state()) return Verdict{};
        ++zeros;
        return zeros % 3 == 0 ? Verdict{EINTR}
                              : Verdict{0, zeros % 3 == 1 ? t.bytes / 2 + 1 : t.bytes};
      };
      SwapFile<FaultySystem<ByThreads>> file{scratch.options(), 0, 40 * block};
      CHECK(file.is_direct() == is_direct);
      CHECK(zeros > 3);
      struct stat now {};
      CHECK(::stat(scratch.file().c_str(), &now) == 0);
      CHECK(static_cast<std::size_t>(now.st_size) == 41 * block);
      const std::string text = content(scratch.file());
      CHECK(text.find_first_not_of('\0', block) == text.npos);
      CHECK(static_cast<std::size_t>(now.st_blocks) * 512 >= 41 * block);
      system.transfer = nullptr;
      CHECK(works(file));
    }
}

TEST_CASE("a disk that fills while zeros are written is found at the start") {
  SwapScratch scratch;
  WithFaults system;
  system.fail("fallocate", EOPNOTSUPP);
  system.transfer = [](const Transfer& t) {
    return Verdict{t.writes && t.offset > 17 * block ? ENOSPC : 0};
  };
  CHECK(says(refusal<ByThreads, IoError>(scratch, 100 * block), "No space left",
             "bytes are free in"));
  CHECK(scratch.entries() == 0);
  // A disk that takes nothing and says nothing.
  system.transfer = [](const Transfer& t) { return Verdict{0, t.writes ? 0 : t.bytes}; };
  CHECK(says(refusal<ByThreads, IoError>(scratch), "cannot be written"));
  CHECK(scratch.entries() == 0);
  CHECK(system.pauses < 1000);
}

TEST_CASE("a directory that is not writable is refused") {
  SwapScratch scratch;
  WithFaults system;
  for (const int error : {EACCES, EPERM, EROFS}) {
    system.fail("open", error);
    CHECK(says(refusal<ByThreads, ConfigError>(scratch), scratch.path(), "is not writable",
               shardexpr::detail::error_text(error), "NvmeOptions::directory"));
  }
}

TEST_CASE("whatever call fails at the start, there is one error and no file") {
  struct Case {
    std::string_view call;
    int error;
    const char* text;
    bool leaves_file = false;
  };
  // An empty file that could not be looked at or locked may be another's.
  for (const Case& c :
       {Case{"open", EMFILE, "cannot be made"}, Case{"open", EIO, "cannot be made"},
        Case{"fstat", EIO, "cannot be looked at", true},
        Case{"flock", ENOLCK, "cannot be locked", true}, Case{"fallocate", EIO, "no room"}}) {
    CAPTURE(c.call);
    SwapScratch scratch;
    WithFaults system;
    system.fail_once(c.call, c.error);
    const std::string text = refusal<ByThreads, IoError>(scratch);
    CHECK(says(text, scratch.file(), c.text, shardexpr::detail::error_text(c.error),
               "NvmeOptions::directory"));
    CHECK(scratch.entries() == (c.leaves_file ? 1 : 0));
  }
  SwapScratch scratch;
  WithFaults system;
  system.transfer = [](const Transfer& t) { return Verdict{t.writes ? 0 : EIO}; };
  CHECK(says(refusal<ByThreads, IoError>(scratch), "cannot be read", "Input/output error"));
  CHECK(scratch.entries() == 0);
  put(scratch.file(), std::string(10, 'x'));  // not even its header can be read: not ours
  CHECK(says(refusal<ByThreads, ConfigError>(scratch), "no file of this library"));
  CHECK(content(scratch.file()) == "xxxxxxxxxx");
}

TEST_CASE("a killed run's file that cannot be made smaller is an error") {
  SwapScratch scratch;
  std::string left;
  {
    SwapFile<> file{scratch.options(), 0, 40 * block};
    left = content(scratch.file());
  }
  put(scratch.file(), left);
  WithFaults system;
  system.fail("ftruncate", EIO);
  CHECK(says(refusal<ByThreads, IoError>(scratch), "cannot be made smaller"));
  CHECK(scratch.entries() == 0);  // it had been taken over
}

TEST_CASE("calls that are interrupted are made again") {
  for (const std::string_view call :
       {"open", "flock", "fstat", "statx of a path", "statx of alignment", "fallocate"}) {
    CAPTURE(call);
    SwapScratch scratch;
    WithFaults system;
    system.fail_once(call, EINTR);
    {
      SwapFile<FaultySystem<ByThreads>> file{scratch.options(), 0, 4 * block};
      CHECK(file.is_direct());
      CHECK(works(file));
    }
    CHECK(scratch.entries() == 0);
  }
}

TEST_CASE("a file that its owner removes between opening and locking is opened again") {
  SwapScratch scratch;
  WithFaults system;
  int opened = 0;
  system.call = [&](std::string_view name) {
    opened += name == "open";
    // The first is removed while it is opened.
    if (name == "flock" && opened == 1) fs::remove(scratch.file());
    return 0;
  };
  SwapFile<FaultySystem<ByThreads>> file{scratch.options(), 0, 4 * block};
  CHECK(opened == 2);
  file.check();
  CHECK(fs::file_size(scratch.file()) == 5 * block);

  system.call = [&](std::string_view name) { return name == "statx of a path" ? ENOENT : 0; };
  SwapScratch other;
  CHECK(says(refusal<ByThreads, IoError>(other), "again and again", "directory of its own"));
}

namespace {
struct DirectA : ByThreads {};
struct DirectB : ByThreads {};
struct DirectC : ByThreads {};
struct DirectD : ByThreads {};
struct DirectE : ByThreads {};
}  // namespace

TEST_CASE_TEMPLATE("without O_DIRECT it goes on, and says so once", Way, DirectA, DirectB, DirectC,
                   DirectD, DirectE) {
  SwapScratch scratch;
  WithFaults system;
  std::string why = "in multiples of";
  bool is_direct = false;
  if constexpr (std::is_same_v<Way, DirectA>) {
    system.alignment = Alignment{8192, 4096};
  } else if constexpr (std::is_same_v<Way, DirectB>) {
    system.alignment = Alignment{512, 2 * block};
  } else if constexpr (std::is_same_v<Way, DirectC>) {
    system.alignment = Alignment{0, 0};
    why = "does not have it";
  } else if constexpr (std::is_same_v<Way, DirectD>) {
    system.fail("set_direct", EINVAL);
    why = "Invalid argument";
  } else {  // takes the flag, refuses the transfers
    system.call = [&](std::string_view name) {
      if (name == "set_direct") is_direct = true;
      if (name == "drop_direct") is_direct = false;
      return 0;
    };
    system.transfer = [&](const Transfer&) { return Verdict{is_direct ? EINVAL : 0}; };
    why = "Invalid argument";
  }
  SwapFile<FaultySystem<Way>> first{scratch.options(), 0, 20 * block},
      second{scratch.options(), 1, 4 * block};
  CHECK_FALSE(first.is_direct());
  CHECK_FALSE(second.is_direct());
  CHECK(SwapScratch::notices("no O_DIRECT") == 1);
  CHECK(SwapScratch::notices(why) == 1);
  CHECK(works(first));
  CHECK(works(second));
}

TEST_CASE("where the file does not tell its alignment, it gets 4096") {
  SwapScratch scratch;
  WithFaults system;
  system.fail("statx of alignment", ENOSYS);
  SwapFile<FaultySystem<ByThreads>> file{scratch.options(), 0, 4 * block};
  CHECK(file.is_direct());
  CHECK(SwapScratch::notices("O_DIRECT") == 0);
  CHECK(works(file));
}

#if defined(SHARDEXPR_LIBURING)
namespace {
struct RefusedA : ByRing {
  static constexpr int error = EPERM;
};
struct RefusedB : ByRing {
  static constexpr int error = ENOSYS;
};
struct RefusedC : ByRing {
  static constexpr int error = ENOMEM;
};
}  // namespace

TEST_CASE_TEMPLATE("where the system refuses io_uring, threads go on, and it is said once", Way,
                   RefusedA, RefusedB, RefusedC) {
  SwapScratch scratch;
  WithFaults system;
  system.fail("ring_open", Way::error);
  SwapFile<FaultySystem<Way>> first{scratch.options(), 0, 20 * block},
      second{scratch.options(), 1, 4 * block};
  CHECK_FALSE(first.uses_io_uring());
  CHECK(SwapScratch::notices("no io_uring") == 1);
  CHECK(SwapScratch::notices(shardexpr::detail::error_text(Way::error)) == 1);
  CHECK(works(first));
  CHECK(works(second));
}
#else
namespace {
struct NotCompiledIn : ByThreads {};
}  // namespace
TEST_CASE("where io_uring is not compiled in, threads go on, and it is said once") {
  SwapScratch scratch;
  SwapFile<FaultySystem<NotCompiledIn>> first{scratch.options(), 0, 20 * block},
      second{scratch.options(), 1, 4 * block};
  CHECK(SwapScratch::notices("no io_uring") == 1);
  CHECK(SwapScratch::notices("not compiled in") == 1);
  CHECK(works(first));
}
#endif

TEST_CASE("one thread is enough, none is an error") {
  SwapScratch scratch;
  WithFaults system;
  int started = 0;
  system.call = [&](std::string_view name) {
    return name == "start_thread" && started++ % 2 != 0 ? EAGAIN : 0;  // one for each direction
  };
  {
    SwapFile<FaultySystem<ByThreads>> file{scratch.options(), 0, 40 * block};
    CHECK(works(file));
  }
  system.fail("start_thread", EAGAIN);
  CHECK(says(refusal<ByThreads, IoError>(scratch), "no thread can start", "ulimit"));
  CHECK(scratch.entries() == 0);
}
