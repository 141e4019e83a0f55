// SPDX-License-Identifier: Apache-2.0
// Saving while training goes on.
#include <shardexpr/checkpoint/async_save.hpp>
#include <shardexpr/checkpoint/verify.hpp>
#include <shardexpr/comm/solo.hpp>

#include <condition_variable>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../support/apart.hpp"
#include "../support/error_of.hpp"
#include "../support/sanitized.hpp"
#include "faulty_system.hpp"
#include "runs.hpp"
#include <doctest/doctest.h>

namespace {

using runs::Run;
using sx::FullShard;

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;

/// The system, whose writes by threads other than the trainers' wait until they are let through,
/// and may then fail.
struct Gated : sx::detail::LinuxSystem {
  static inline std::mutex mutex;
  static inline std::condition_variable opened;
  static inline bool is_open = true, fails = false;
  static inline thread_local bool is_trainer = false;

  static void set(bool open, bool failing = false) {
    const std::scoped_lock lock{mutex};
    is_open = open;
    fails = failing;
    opened.notify_all();
  }
  static ssize_t pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t at) {
    if (!is_trainer) {
      std::unique_lock lock{mutex};
      opened.wait(lock, [] { return is_open; });
      if (fails) {
        errno = EIO;
        return -1;
      }
    }
    return LinuxSystem::pwrite(fd, from, bytes, at);
  }
};

std::string complaint(const std::string& directory) {
  return error_of([&] { sx::verify_checkpoint(directory); });
}

/// Trains, saves, and trains on while nothing is written.
template <class Trainer, class Form>
void check_snapshot(const char* name, std::size_t world, Form form) {
  CAPTURE(name);
  const Scratch scratch;
  Run saved;
  std::vector<double> undisturbed;
  runs::with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    runs::train(comm, trainer, runs::saved_at);
    runs::train(comm, trainer, runs::goes_on_for, &undisturbed);
  });
  runs::with_trainers<Trainer>(world, [&](sx::Threads& comm, Trainer& trainer) {
    Gated::is_trainer = true;
    sx::AsyncSaver<Trainer, Form, Gated> saver{trainer, scratch.path(), form};
    runs::train(comm, trainer, runs::saved_at);
    runs::look(comm, trainer, saved);
    comm.barrier(trainer.context());
    if (comm.rank() == 0) Gated::set(false);
    comm.barrier(trainer.context());
    saver.save({.cursor = "page 7"});
    runs::go_on(comm, trainer, saved);
    CHECK(saver.is_saving());
    CHECK_FALSE(std::filesystem::exists(scratch.path() + "/latest"));
    comm.barrier(trainer.context());
    if (comm.rank() == 0) Gated::set(true);
    saver.wait();
    CHECK_FALSE(saver.is_saving());
    saver.wait();  // nothing to wait for
    Gated::is_trainer = false;
  });
  CHECK(saved.losses == undisturbed);
  CHECK(complaint(scratch.path()) == "");
  CHECK(sx::detail::names_in(scratch.path() + "/" + sx::detail::step_folder(runs::saved_at))
            .front()
            .front() != '.');
  const Run loaded = runs::load<Trainer>(world, scratch.path(), true);
  CHECK(loaded.kept == saved.kept);
  CHECK(loaded.losses == saved.losses);
  CHECK(loaded.last == saved.last);
  CHECK(loaded.restored.cursor == "page 7");
  CHECK(loaded.restored.step == runs::saved_at);
}

using InMemory = Toy<FullShard>;
using OnDisk = Toy<FullShard, sx::MixedPrecision<sx::bf16, sx::fp32>,
                   sx::Offload<sx::OnHost, sx::Partly<1, 2>>>;
using OnNvme = Toy<FullShard, sx::Offload<sx::OnDevice, sx::OnNvme>>;
using Away = Toy<FullShard, sx::MixedPrecision<sx::bf16, sx::fp32>, sx::On<Apart>>;

TEST_CASE("what is saved is the step of the call, however long writing takes") {
  check_snapshot<InMemory>("in memory", 3, sx::ShardedState{});
  check_snapshot<InMemory>("in memory", 2, sx::FullState{});
  check_snapshot<OnDisk>("partly on the host", 2, sx::LocalState{});
  check_snapshot<OnNvme>("on disk", 2, sx::ShardedState{});
  check_snapshot<Away>("apart", 1, sx::ShardedState{});
}

TEST_CASE("a snapshot's memory is known, charged, and of what lies in memory alone") {
  runs::with_trainers<InMemory>(2, [&](sx::Threads& comm, InMemory& trainer) {
    const std::size_t before =
        sx::detail::TrainerAccess::core(trainer).device->account().live_bytes(
            sx::Purpose::transfers);
    sx::AsyncSaver saver{trainer, "unused"};
    const std::size_t mine = saver.snapshot_bytes();
    CHECK(sx::detail::TrainerAccess::core(trainer).device->account().live_bytes(
              sx::Purpose::transfers) == before + mine);
    std::size_t elements = 0;
    trainer.summon([&](const std::string&, auto value) { elements += value.count(); });
    static std::size_t shared[2];
    shared[comm.rank()] = mine;
    comm.barrier(trainer.context());
    CHECK(shared[0] + shared[1] == 3 * sizeof(float) * elements);
  });
  runs::with_trainers<OnNvme>(1, [&](sx::Threads&, OnNvme& trainer) {
    CHECK(sx::AsyncSaver{trainer, "unused"}.snapshot_bytes() == 0);
  });
}

TEST_CASE("what fails behind a save is thrown on every rank, and the checkpoint before stays") {
  const Scratch scratch;
  runs::with_trainers<InMemory>(3, [&](sx::Threads& comm, InMemory& trainer) {
    sx::save_checkpoint(trainer, scratch.path());
    runs::train(comm, trainer, 1);
    sx::AsyncSaver<InMemory, sx::ShardedState, Gated> saver{trainer, scratch.path()};
    Gated::is_trainer = true;
    comm.barrier(trainer.context());
    if (comm.rank() == 0) Gated::set(true, /*failing=*/true);
    comm.barrier(trainer.context());
    saver.save();
    const std::string said = error_of([&] { saver.wait(); });
    CHECK(said.find(scratch.path()) != std::string::npos);
    comm.barrier(trainer.context());
    if (comm.rank() == 0) Gated::set(true);
    comm.barrier(trainer.context());
    if (comm.rank() == 0) {
      CHECK(complaint(scratch.path()) == "");
      CHECK(sx::detail::checkpoint_folder<sx::detail::LinuxSystem>(scratch.path())
                .ends_with(sx::detail::step_folder(0)));
    }
    saver.save();  // it can be tried again
    saver.wait();
    Gated::is_trainer = false;
  });
  CHECK(sx::detail::checkpoint_folder<sx::detail::LinuxSystem>(scratch.path())
            .ends_with(sx::detail::step_folder(1)));
  CHECK(complaint(scratch.path()) == "");
}

TEST_CASE("saves follow each other, keep as many as they are told, and the last ends by itself") {
  const Scratch scratch;
  runs::with_trainers<InMemory>(2, [&](sx::Threads& comm, InMemory& trainer) {
    sx::AsyncSaver saver{trainer, scratch.path()};
    for (int i = 0; i < 4; ++i) {
      runs::train(comm, trainer, 1);
      saver.save({.keep = 2});
    }
  });
  CHECK(complaint(scratch.path()) == "");
  CHECK(sx::detail::names_in(scratch.path()) ==
        std::vector<std::string>{"latest", sx::detail::step_folder(3), sx::detail::step_folder(4)});
}

TEST_CASE("an asynchronous save that is killed at any call leaves the old checkpoint or the new") {
  using Alone = Toy<FullShard, sx::Over<sx::Solo>>;
  const Scratch scratch{Scratch::in_memory()};
  sx::Solo comm;
  sx::Cpu device;
  Alone trainer{device, comm, toy::Config{}};
  std::vector<float> x(20);
  const auto step = [&] {
    toy::fill(x, trainer.steps(), 0);
    (void)trainer.step({x.data()});
  };
  step();
  sx::save_checkpoint(trainer, scratch.path());
  const auto old = runs::weights_of(trainer);
  step();
  const auto now = runs::weights_of(trainer);
  std::size_t kept = 0, moved = 0;
  for (int call = 0;; ++call) {
    CAPTURE(call);
    REQUIRE(call < 1000);
    const int status = status_killed_at(call, [&] {
      sx::AsyncSaver<Alone, sx::ShardedState, Faulty> saver{trainer, scratch.path()};
      saver.save({.keep = 2});
      saver.wait();
    });
    CHECK(complaint(scratch.path()) == "");
    sx::Cpu other;
    Alone again{other, comm, toy::Config{}};
    const sx::Restored restored = sx::load_checkpoint(again, scratch.path());
    CHECK(runs::weights_of(again) == (restored.step == 1 ? old : now));
    ++(restored.step == 1 ? kept : moved);
    if (status == 0) break;
    CHECK(status == 9);
  }
  CHECK(kept > 15);
  CHECK(moved > 1);
}

/// A line of /proc/self/status, in bytes.
std::size_t status_bytes(const std::string& key) {
  std::ifstream file{"/proc/self/status"};
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key + ":")) return 1024 * std::stoull(line.substr(key.size() + 1));
  return 0;
}
/// By how much memory rises meanwhile; nothing where the system does not tell.
template <class Work>
std::optional<std::size_t> rise(Work work) {
  std::ofstream reset{"/proc/self/clear_refs"};
  if (!(reset << "5" << std::flush)) return std::nullopt;  // the peak begins anew
  const std::size_t before = status_bytes("VmRSS");
  work();
  const std::size_t peak = status_bytes("VmHWM");
  return peak > before ? peak - before : 0;
}

TEST_CASE("to save and to load take no second copy of the state" * doctest::skip(SANITIZED)) {
  using Trainer = sx::Sharded<toy::Autoencoder, FullShard, sx::Over<sx::Solo>>;
  const toy::Config large{.inputs = 5, .width = 1500, .depth = 2, .rows = 1};
  sx::Solo comm;
  sx::Cpu device;
  Trainer trainer{device, comm, large};
  const std::size_t planned = sx::plan<Trainer>(large, 1).device_peak_bytes;
  const std::size_t state = sx::plan<Trainer>(large, 1).device_resident_bytes;
  REQUIRE(state > 50'000'000);
  const auto check = [&](const char* what, std::size_t most, auto work) {
    CAPTURE(what);
    const auto risen = rise(work);
    if (!risen) {
      MESSAGE("SKIPPED: this system does not tell a process's peak");
      return;
    }
    CAPTURE(*risen);
    CHECK(*risen < most);
  };
  constexpr std::size_t little = 12'000'000;  // two stages of 4 MiB, and sums
  const Scratch scratch, local, full;
  check("save sharded", little, [&] { sx::save_checkpoint(trainer, scratch.path()); });
  check("save local", little,
        [&] { sx::save_checkpoint(trainer, local.path(), sx::LocalState{}); });
  check("save full", little, [&] { sx::save_checkpoint(trainer, full.path(), sx::FullState{}); });
  check("load sharded", little, [&] { sx::load_checkpoint(trainer, scratch.path()); });
  check("load local", little, [&] { sx::load_checkpoint(trainer, local.path()); });
  check("load full", little, [&] { sx::load_checkpoint(trainer, full.path()); });
  // What ranks tell each other, beside the plan.
  CHECK(device.account().peak_bytes() < planned + 5000);
  // And that the measure sees a copy.
  const auto copied = rise([&] {
    sx::AsyncSaver saver{trainer, scratch.path()};
    saver.save();
    saver.wait();
  });
  if (copied) CHECK(*copied > state - 20'000'000);
}

}  // namespace
