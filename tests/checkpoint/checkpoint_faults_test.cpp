// SPDX-License-Identifier: Apache-2.0
// A checkpoint whose bytes changed is refused, whichever; a save that is killed, or that the system
// refuses, at any of its calls leaves the checkpoint before or the new one.
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/checkpoint/verify.hpp>
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../support/scratch.hpp"
#include "../support/toy.hpp"
#include "faulty_system.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

/// A disk that gives back something else.
struct Forgetful : sx::detail::LinuxSystem {
  static ssize_t pread(int fd, void* to, std::size_t bytes, std::uint64_t offset) {
    const ssize_t count = LinuxSystem::pread(fd, to, bytes, offset);
    if (count > 100) static_cast<char*>(to)[100] ^= 1;
    return count;
  }
};

using Alone = sx::Sharded<toy::Autoencoder, sx::FullShard, sx::Over<sx::Solo>>;

/// The width of a model whose state takes several stages.
constexpr std::size_t wide = 400;

/// One rank, without a thread: what forks.
struct Job {
  sx::Solo comm;
  sx::Cpu device;
  Alone trainer;

  explicit Job(std::size_t width = 7) : trainer{device, comm, toy::Config{.width = width}} {}

  void step() {
    std::vector<float> x(20);
    toy::fill(x, trainer.steps(), 0);
    (void)trainer.step({x.data()});
  }
  std::vector<float> weights() {
    std::vector<float> all;
    trainer.summon([&](const std::string&, auto value) {
      all.insert(all.end(), value.data, value.data + value.count());
    });
    return all;
  }
};

std::string read(const fs::path& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}
void write(const fs::path& path, const std::string& bytes) {
  std::ofstream{path, std::ios::binary | std::ios::trunc} << bytes;
}

/// What reading says; empty: nothing.
std::string complaint(const std::string& directory) {
  try {
    sx::verify_checkpoint(directory);
    return {};
  } catch (const sx::Error& error) {
    return error.what();
  }
}
std::vector<fs::path> files_of(const std::string& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator{directory})
    if (entry.is_regular_file()) files.push_back(entry.path());
  return files;
}
void save_two_ranks(const std::string& directory) {
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    sx::Sharded<toy::Autoencoder, sx::FullShard> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20);
    toy::fill(x, 0, comm.rank());
    (void)trainer.step({x.data()});
    sx::save_checkpoint(trainer, directory, {.cursor = "line 1\n\"2\""});
  });
}

TEST_CASE("every byte that changes is found, and the file that it is in is named") {
  const Scratch scratch;
  save_two_ranks(scratch.path());
  REQUIRE(complaint(scratch.path()) == "");
  const auto files = files_of(scratch.path());
  CHECK(files.size() == 6);  // latest, a manifest, two parts and their sums
  std::size_t bytes = 0;
  for (const fs::path& file : files) {
    CAPTURE(file.string());
    const std::string whole = read(file);
    std::string changed = whole;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      changed[i] = static_cast<char>(whole[i] ^ (1 << i % 8));
      write(file, changed);
      const std::string what = complaint(scratch.path());
      if (what.find(file.filename().string()) == std::string::npos) {
        CAPTURE(i);
        CHECK(what == "a line that names the file");
      }
      changed[i] = whole[i];
      ++bytes;
    }
    write(file, whole);
  }
  CHECK(bytes > 6000);
  CHECK(complaint(scratch.path()) == "");
}

TEST_CASE("files that are cut off, missing, swapped or of another checkpoint are named") {
  const Scratch scratch, other;
  save_two_ranks(scratch.path());
  save_two_ranks(other.path());
  const auto files = files_of(scratch.path());
  for (const fs::path& file : files) {
    CAPTURE(file.string());
    const std::string whole = read(file);
    for (std::size_t length = 0; length < whole.size(); length += whole.size() / 97 + 1) {
      write(file, whole.substr(0, length));
      CHECK(complaint(scratch.path()).find(file.filename().string()) != std::string::npos);
    }
    write(file, whole + " ");
    CHECK(complaint(scratch.path()).find(file.filename().string()) != std::string::npos);
    fs::remove(file);
    CHECK(complaint(scratch.path()).find(file.filename().string()) != std::string::npos);
    write(file, whole);
  }
  const std::string folder = scratch.path() + "/" + sx::detail::step_folder(1);
  const fs::path first = folder + "/" + sx::detail::part_name(0, 2),
                 second = folder + "/" + sx::detail::part_name(1, 2);
  const std::string a = read(first), b = read(second);
  write(first, b);
  write(second, a);
  CHECK(complaint(scratch.path()).find(first.filename().string()) != std::string::npos);
  write(first, a);
  write(second, b);
  CHECK(complaint(scratch.path()) == "");
}

/// Where the state takes several stages, on a disk, which those go to past its cache.
std::filesystem::path folder_for(std::size_t width) {
  return width == wide ? "." : Scratch::in_memory();
}

template <class Form>
void check_killed(Form form, std::size_t width = 7) {
  CAPTURE(width);
  const Scratch scratch{folder_for(width)};
  Job job{width};
  job.step();
  sx::save_checkpoint(job.trainer, scratch.path());
  const std::vector<float> old = job.weights();
  job.step();
  const std::vector<float> now = job.weights();
  REQUIRE(old != now);
  std::size_t kept = 0, moved = 0;
  for (int call = 0;; ++call) {
    CAPTURE(call);
    REQUIRE(call < 1000);
    const int status = status_killed_at(
        call, [&] { sx::save_checkpoint<Faulty>(job.trainer, scratch.path(), form, {.keep = 2}); });
    CHECK(complaint(scratch.path()) == "");
    Job again{width};
    const sx::Restored restored = sx::load_checkpoint(again.trainer, scratch.path());
    CHECK(again.weights() == (restored.step == 1 ? old : now));
    ++(restored.step == 1 ? kept : moved);
    if (status == 0) break;
    CHECK(status == 9);
  }
  CHECK(kept > 10);
  CHECK(moved > 1);
}
TEST_CASE("a save that is killed at any call leaves the old checkpoint or the new one") {
  check_killed(sx::ShardedState{});
  check_killed(sx::ShardedState{}, wide);
  check_killed(sx::FullState{});
  check_killed(sx::FullState{.dtype = "BF16", .most_file_bytes = 200});
  check_killed(sx::LocalState{});
}

TEST_CASE(
    "a save that the system refuses at any call is an error; the old one stays, and it can be "
    "tried again") {
  struct Case {
    int error;
    std::size_t width;
  };
  for (const Case& c : {Case{ENOSPC, 7}, {EIO, 7}, {EROFS, 7}, {ENOSPC, wide}}) {
    const int error = c.error;
    const std::size_t width = c.width;
    CAPTURE(error);
    CAPTURE(width);
    const Scratch scratch{folder_for(width)};
    Job job{width};
    job.step();
    sx::save_checkpoint(job.trainer, scratch.path());
    const std::vector<float> old = job.weights();
    job.step();
    const std::vector<float> now = job.weights();
    std::size_t failed = 0;
    for (int call = 0;; ++call) {
      CAPTURE(call);
      REQUIRE(call < 1000);
      Faulty::calls_until = call;
      Faulty::error = error;
      try {
        sx::save_checkpoint<Faulty>(job.trainer, scratch.path());
      } catch (const sx::IoError& refused) {
        CHECK(std::string{refused.what()}.find(scratch.path()) != std::string::npos);
        ++failed;
      } catch (const sx::ConfigError& refused) {
        CHECK(std::string{refused.what()}.find(scratch.path()) != std::string::npos);
        ++failed;
      }
      const bool was_reached = Faulty::calls_until < 0;
      Faulty::calls_until = -1;
      CHECK(complaint(scratch.path()) == "");
      Job again{width};
      const sx::Restored restored = sx::load_checkpoint(again.trainer, scratch.path());
      CHECK(again.weights() == (restored.step == 1 ? old : now));
      if (!was_reached) break;
    }
    CHECK(failed > 10);
    sx::save_checkpoint(job.trainer, scratch.path(), {.keep = 1});
    CHECK(files_of(scratch.path()).size() == 4);
  }
}

TEST_CASE("what does not fit is refused, with what to do") {
  const Scratch scratch;
  Job job;
  CHECK_THROWS_AS(sx::load_checkpoint(job.trainer, scratch.path()), sx::ConfigError);
  sx::save_checkpoint(job.trainer, scratch.path());
  const auto refusal = [&]<class Trainer>(std::type_identity<Trainer>, const toy::Config& config) {
    sx::Solo comm;
    sx::Cpu device;
    Trainer trainer{device, comm, config};
    try {
      (void)sx::load_checkpoint(trainer, scratch.path());
    } catch (const sx::ConfigError& error) {
      return std::string{error.what()};
    }
    return std::string{};
  };
  CHECK(refusal(std::type_identity<Alone>{}, {.width = 8})
            .find("has the shape (5, 7) there, (5, 8)") != std::string::npos);
  CHECK(refusal(std::type_identity<Alone>{}, {.depth = 4}).find("which the model has") !=
        std::string::npos);
  CHECK(refusal(std::type_identity<Alone>{}, {.depth = 2}).find("which the model lacks") !=
        std::string::npos);
  using Other = sx::Sharded<toy::Autoencoder, sx::FullShard, sx::Sgd, sx::Over<sx::Solo>>;
  CHECK(refusal(std::type_identity<Other>{}, {}).find("go on with the optimizer that saved") !=
        std::string::npos);
}

TEST_CASE("a cursor that no manifest can hold is refused before anything is written") {
  const Scratch scratch;
  Job job;
  CHECK_THROWS_AS(sx::save_checkpoint(job.trainer, scratch.path(), {.cursor = "page \xff"}),
                  sx::ConfigError);
  CHECK(scratch.is_empty());
}

TEST_CASE("old checkpoints go when a newer one was read back, and never the last") {
  const Scratch scratch;
  Job job;
  for (int step = 0; step < 4; ++step) {
    job.step();
    sx::save_checkpoint(job.trainer, scratch.path(), {.keep = 2});
  }
  CHECK(files_of(scratch.path()).size() == 1 + 2 * 3);
  // The newest is not what was written when it is read back: nothing goes.
  CHECK_THROWS_AS(sx::save_checkpoint<Forgetful>(job.trainer, scratch.path(), {.keep = 1}),
                  sx::FormatError);
  CHECK(files_of(scratch.path()).size() == 1 + 3 * 3);
  sx::save_checkpoint(job.trainer, scratch.path(), {.keep = 1});
  CHECK(files_of(scratch.path()).size() == 1 + 3);
  Job again;
  CHECK(sx::load_checkpoint(again.trainer, scratch.path()).step == 4);
  CHECK(again.weights() == job.weights());
}

}  // namespace
