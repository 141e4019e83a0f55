// SPDX-License-Identifier: Apache-2.0
// A disk that is not there, or fails: every rank ends in an error that says where, and what was
// spoiled is not trained on. What a file does about each fault of the system is in io/.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/io/system.hpp>
#include <shardexpr/plan/places.hpp>
#include <shardexpr/plan/swap_layout.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "../support/offloaded.hpp"
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

namespace {

constexpr Job medium{.steps = 5, .config = {.inputs = 31, .width = 37, .depth = 2, .rows = 3}};

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Directories -------------------------------------------------------------------------------------

using OnDisk = Toy<In<OnDevice, OnNvme>, sx::Over<sx::Solo>>;

std::string refusal(const std::string& directory) {
  sx::Cpu device;
  sx::Solo comm;
  OnDisk::Options options;
  put_on_disk(options, directory);
  try {
    OnDisk trainer{device, comm, medium.config, options};
  } catch (const sx::ConfigError& error) {
    CHECK(device.account().live_bytes() == 0);
    CHECK(device.host().account().live_bytes() == 0);
    return error.what();
  }
  return {};
}
TEST_CASE("a directory that is not given, missing, or in use is refused") {
  CHECK(refusal("") ==
        "Options::nvme.directory is empty: the strategy keeps state on NVMe; name a directory on "
        "that disk");
  const Scratch scratch;
  const std::string missing = scratch.path() + "/missing";
  CHECK(says(refusal(missing), missing + ", does not exist"));
  CHECK(!std::filesystem::exists(missing));

  sx::Cpu device;
  sx::Solo comm;
  OnDisk::Options options;
  put_on_disk(options, scratch.path());
  {
    OnDisk trainer{device, comm, medium.config, options};
    CHECK(says(refusal(scratch.path()), "shardexpr-rank-0.swap is in use by"));
    Rows rows{medium, 0};
    for (std::size_t s = 0; s < 2; ++s) (void)trainer.step(rows.of_step(s));  // none the worse
    CHECK(trainer.steps() == 2);
  }
  CHECK(scratch.is_empty());
  CHECK(refusal(scratch.path()).empty());
}

// A disk that fails -------------------------------------------------------------------------------

/// The system, whose transfers fail as `verdict` says: it is asked for an errno, 0 for none.
struct FaultySystem : sx::detail::LinuxSystem {
  static inline std::function<int(const std::string& path, bool writes)> verdict;
  static inline std::atomic<bool> is_armed{false};

  static bool fails(int fd, bool writes) {
    if (!is_armed) return false;
    std::string path(4096, '\0');
    const ssize_t length =
        ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size());
    path.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
    const int error = verdict(path, writes);
    errno = error;
    return error != 0;
  }
  static ssize_t pread(int fd, void* to, std::size_t bytes, std::uint64_t offset) {
    return fails(fd, false) ? -1 : LinuxSystem::pread(fd, to, bytes, offset);
  }
  static ssize_t pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t offset) {
    return fails(fd, true) ? -1 : LinuxSystem::pwrite(fd, from, bytes, offset);
  }
#if defined(SHARDEXPR_LIBURING)
  static int ring_open(Ring&, unsigned) { return -EPERM; }  // threads transfer
#endif
};
class FaultyCpu : public sx::Cpu {
 public:
  using Cpu::Cpu;
  using System = FaultySystem;
};
using OnFaulty = Toy<sx::On<FaultyCpu>, In<OnNvme, Chunks>>;

constexpr std::size_t bad_step = 2;

/// Trains; `harm(rank, path of its file)` runs in each rank before step `bad_step`, which must end
/// in an error in `rank`, which is returned. Another rank, if it had all it needed of `rank` for
/// that step, gets an error of the next. Alone, `rank` tries once more, in vain.
template <class Trainer, class Harm>
std::string error_of(std::size_t world, std::size_t rank, Harm harm) {
  Job job = medium;
  job.world = world;
  const Scratch scratch;
  std::vector<std::string> errors(world), again(world);
  std::vector<std::size_t> steps(world);
  const auto body = [&](sx::Threads& comm) {
    const std::size_t me = comm.rank();
    typename Trainer::Device device;
    typename Trainer::Options options;
    put_on_disk(options, scratch.path());
    Trainer trainer{device, comm, job.config, options};
    Rows rows{job, me};
    for (std::size_t s = 0; s < bad_step; ++s) (void)trainer.step(rows.of_step(s));
    harm(me, scratch.path() + "/shardexpr-rank-" + std::to_string(me) + ".swap");
    for (std::string* error : {&errors[me], &again[me]}) {
      try {
        (void)trainer.step(rows.of_step(bad_step));
      } catch (const sx::Error& caught) {
        *error = caught.what();
        steps[me] = trainer.steps();
        if (world > 1) throw;  // a rank that goes on by itself would confuse its peers
      }
    }
  };
  std::string reported;
  try {
    sx::launch(world, body);
  } catch (const sx::RankError& error) {
    reported = error.what();
  }
  FaultySystem::is_armed = false;
  CAPTURE(errors[rank]);
  CHECK(errors[rank] != "");
  CHECK(steps[rank] == bad_step);
  if (world == 1)
    CHECK(again[0] != "");
  else
    CHECK(reported == "rank " + std::to_string(rank) + ": " + errors[rank]);
  for (std::size_t r = 0; r < world; ++r) {
    const std::string& error = errors[r].empty() ? again[r] : errors[r];
    CHECK(says(error, errors[rank]));  // of a peer: who failed, and why
    CHECK(steps[r] <= bad_step + (errors[r].empty() ? 1 : 0));
  }
  CHECK(scratch.is_empty());
  return errors[rank];
}
template <class Trainer, class Harm>
void for_each_rank(Harm harm) {
  for (const std::size_t world : {1, 2})
    for (std::size_t rank = 0; rank < world; ++rank) {
      CAPTURE(world);
      CAPTURE(rank);
      harm(world, rank);
    }
}
std::string file_name(std::size_t rank) {
  return "/shardexpr-rank-" + std::to_string(rank) + ".swap: ";
}

TEST_CASE("a transfer that fails ends every rank, and names file, offset and unit") {
  for (const bool writes : {false, true})
    for (const int skipped : {0, 1, 3, 7})
      for_each_rank<OnFaulty>([&](std::size_t world, std::size_t rank) {
        CAPTURE(writes);
        CAPTURE(skipped);
        std::atomic<int> until{skipped};
        const std::string error =
            error_of<OnFaulty>(world, rank, [&](std::size_t me, const std::string& path) {
              if (me != rank) return;
              FaultySystem::verdict = [&until, writes, path](const std::string& of, bool is_write) {
                return of == path && writes == is_write && until-- <= 0 ? EIO : 0;
              };
              FaultySystem::is_armed = true;
            });
        CHECK(says(error, file_name(rank) + (writes ? "write" : "read") + " of "));
        CHECK(says(error, " of the file ("));
        CHECK(says(error, " of unit toy::"));
        CHECK(says(error, "Input/output error"));
      });
}

/// One bit of a byte of a file, by another way than the trainer's.
void flip_bit(const std::string& path, std::size_t at) {
  const int fd = ::open(path.c_str(), O_RDWR);
  REQUIRE(fd >= 0);
  unsigned char byte = 0;
  CHECK(::pread(fd, &byte, 1, static_cast<off_t>(at)) == 1);
  byte ^= 4;
  CHECK(::pwrite(fd, &byte, 1, static_cast<off_t>(at)) == 1);
  CHECK(::fsync(fd) == 0);
  ::close(fd);
}
TEST_CASE("a bit that flips in the file is found before it is used, and named") {
  using Trainer = Toy<In<OnNvme, Chunks>>;
  using Strategy = Trainer::Strategy;
  for_each_rank<Trainer>([&](std::size_t world, std::size_t rank) {
    const auto file = file_of<Strategy>(medium.config, world);
    const auto& chunk = *std::find_if(file.chunks().begin(), file.chunks().end(),
                                      [](const auto& c) { return c.flat == 1; });  // of a mixer
    const auto sections = file.sections(chunk.count);
    const std::size_t moments = chunk.offset + sections.moments - file.begin(chunk);
    const struct {
      const char* what;
      std::size_t offset;
    } places[] = {{"parameters", file.parameters(1)},
                  {"optimizer state", moments},
                  {"optimizer state", moments + sections.moment_stride}};
    for (const auto& place : places) {
      const std::string block = std::to_string(65536 + place.offset);
      const std::string error =
          error_of<Trainer>(world, rank, [&](std::size_t me, const std::string& path) {
            if (me == rank) flip_bit(path, 65536 + place.offset + 259);
          });
      CHECK(says(error, file_name(rank) + "read of 65536 bytes at byte " + block +
                            " of the file (" + place.what +
                            " of unit toy::Mixer 0): its checksum"));
    }
  });
}

TEST_CASE("a file that is removed or cut is noticed before anything is updated") {
  using Trainer = Toy<In<OnDevice, Chunks>>;
  for_each_rank<Trainer>([&](std::size_t world, std::size_t rank) {
    CHECK(says(error_of<Trainer>(world, rank,
                                 [&](std::size_t me, const std::string& path) {
                                   if (me == rank) std::filesystem::remove(path);
                                 }),
               file_name(rank) + "the file was removed while its state is in use"));
    CHECK(says(error_of<Trainer>(world, rank,
                                 [&](std::size_t me, const std::string& path) {
                                   if (me == rank) std::filesystem::resize_file(path, 200000);
                                 }),
               file_name(rank)));  // a write behind its end makes it as long again
  });
}

}  // namespace
