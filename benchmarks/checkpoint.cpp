// SPDX-License-Identifier: Apache-2.0
// Saving and loading a trainer's state beside writing and reading as many bytes by bare calls, in
// as many files, by as many threads, from one warm buffer of 4 MiB. SHARDEXPR_CHECKPOINT_DIR names
// a directory on a disk, by default the current one; SHARDEXPR_CHECKPOINT_MB the size of the state.
#include <shardexpr/checkpoint/async_save.hpp>
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/core/crc32c.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "trainers_in_turns.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace shardexpr::benchmarks {
namespace {

namespace fs = std::filesystem;
using Trainer = Sharded<Gpt, FullShard>;

const char* variable(const char* name, const char* otherwise) {
  const char* given = std::getenv(name);
  return given != nullptr ? given : otherwise;
}
/// Where the benchmark's files are, and nothing else.
std::string directory() {
  return std::string{variable("SHARDEXPR_CHECKPOINT_DIR", ".")} + "/shardexpr-bench-checkpoint";
}

/// A GPT whose parameters and moments have about `megabytes`; so few tokens that a step takes no
/// memory.
GptConfig config_of(double megabytes) {
  constexpr std::size_t layers = 13, bytes_a_parameter = 12;
  const double a_layer = megabytes * 1e6 / bytes_a_parameter / layers;
  const auto embed = static_cast<std::size_t>(std::lround(std::sqrt(a_layer / 12) / 64)) * 64;
  return {.context = 8,
          .embed = std::max<std::size_t>(embed, 64),
          .heads = 4,
          .layers = layers,
          .batch = 1};
}

/// A number that stands behind a name in a file of /proc; 0: it does not.
std::uint64_t number_in(const char* path, const std::string& name) {
  std::ifstream file{path};
  for (std::string word; file >> word;)
    if (std::uint64_t number = 0; word == name && file >> number) return number;
  return 0;
}

/// The most memory that the process held while `work` ran, less what it held before.
template <class Work>
std::uint64_t extra_bytes(Work work) {
  std::ofstream{"/proc/self/clear_refs"} << "5";  // the highest is forgotten
  const std::uint64_t before = number_in("/proc/self/status", "VmRSS:");
  work();
  const std::uint64_t most = number_in("/proc/self/status", "VmHWM:");
  return (most - std::min(most, before)) << 10;
}

/// A file that is written and read by bare calls.
class PlainFile {
 public:
  PlainFile(std::string path, std::size_t bytes, bool is_direct)
      : path_{std::move(path)},
        pieces_{(bytes + piece_bytes - 1) / piece_bytes},
        flags_{O_CLOEXEC | (is_direct ? O_DIRECT : 0)},
        memory_{device_.allocate<std::byte>(piece_bytes + alignment, Purpose::other)} {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    piece_ = memory_.data() + (alignment - address % alignment) % alignment;
    for (std::size_t i = 0; i < piece_bytes; ++i) piece_[i] = static_cast<std::byte>(mix(i));
  }

  std::size_t bytes() const { return pieces_ * piece_bytes; }
  void write() {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | flags_, 0600);
    bool works = fd >= 0;
    for (std::size_t i = 0; i < pieces_ && works; ++i)
      works = ::pwrite(fd, piece_, piece_bytes, offset(i)) == ssize_t{piece_bytes};
    end(fd, works && ::fsync(fd) == 0, "written");
  }
  void read() {
    const int fd = ::open(path_.c_str(), O_RDONLY | flags_);
    bool works = fd >= 0;
    for (std::size_t i = 0; i < pieces_ && works; ++i)
      works = ::pread(fd, piece_, piece_bytes, offset(i)) == ssize_t{piece_bytes};
    end(fd, works, "read");
  }

 private:
  static constexpr std::size_t piece_bytes = std::size_t{4} << 20, alignment = 4096;

  static off_t offset(std::size_t piece) { return static_cast<off_t>(piece * piece_bytes); }
  void end(int fd, bool works, const char* done) {
    if (fd >= 0) ::close(fd);
    if (!works) throw std::runtime_error(path_ + " cannot be " + done);
  }

  std::string path_;
  std::size_t pieces_;
  int flags_;
  Cpu device_;
  Cpu::Buffer<std::byte> memory_;
  std::byte* piece_;
};

/// What waits is brought to the disk, so that nobody pays for another's files.
void settle(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || ::syncfs(fd) != 0) throw std::runtime_error(folder + " cannot be synchronized");
  ::close(fd);
}
/// Nothing of the directory's files stays in memory.
void drop_pages() {
  settle(directory());
  for (const auto& entry : fs::recursive_directory_iterator{directory()}) {
    if (!entry.is_regular_file()) continue;
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
      throw std::runtime_error(entry.path().string() + " stays in memory");
    ::close(fd);
  }
}

/// A trainer that has made a step, and what its rank keeps.
class Job {
  using Kept = detail::KeptState<detail::SwapAccess::writes, Trainer::Model, Trainer::Strategy>;

 public:
  Job(Threads& comm, const GptConfig& config) : trainer_{device_, comm, config, options()} {
    const Tokens tokens{config, comm.rank()};
    (void)trainer_.step(tokens.batch());
  }

  Trainer& trainer() { return trainer_; }
  const MemoryAccount& account() const { return device_.account(); }
  std::size_t state_bytes() {
    std::size_t bytes = 0;
    visit([&](auto values) { bytes += values.size_bytes(); });
    return bytes;
  }
  std::uint32_t sum() {
    std::uint32_t sum = 0;
    visit([&](auto values) { sum = crc32c(std::as_bytes(values), sum); });
    return sum;
  }
  void copy_to(std::byte* to) {
    visit([&](auto values) {
      std::memcpy(to, values.data(), values.size_bytes());
      to += values.size_bytes();
    });
  }
  void forget() {
    visit([](auto values) { std::fill(values.begin(), values.end(), 0.0f); });
  }

 private:
  static Trainer::Options options() {
    Trainer::Options options;
    options.seed = seed;
    return options;
  }
  template <class Visit>
  void visit(Visit visit) {
    Kept{detail::TrainerAccess::core(trainer_)}.visit(
        detail::StateShare::own, [&](const detail::StateStretch&, auto values) { visit(values); });
  }

  Cpu device_;
  Trainer trainer_;
};

/// `state` gives the ranks and whether the bare calls go past the page cache. `run(comm, ctx, job,
/// file, together)` measures; `together(before, work)` gives the seconds of `work` in all ranks,
/// behind `before` in one.
template <class Run>
void with_job(benchmark::State& state, Run run) {
  nn::use_one_blas_thread();
  const auto ranks = static_cast<std::size_t>(state.range(0));
  const GptConfig config = config_of(std::atof(variable("SHARDEXPR_CHECKPOINT_MB", "2000")));
  fs::remove_all(directory());
  fs::create_directories(directory());
  struct statfs disk {};
  if (::statfs(directory().c_str(), &disk) != 0 || disk.f_type == TMPFS_MAGIC) {
    fs::remove_all(directory());
    return state.SkipWithError("SHARDEXPR_CHECKPOINT_DIR is on no disk");
  }
  double bytes = 0;
  std::uint64_t most_extra = 0;
  std::size_t most_of_device = 0;
  std::mutex mutex;
  launch(ranks, [&](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    Job job{comm, config};
    PlainFile file{directory() + "/plain" + std::to_string(comm.rank()), job.state_bytes(),
                   state.range(1) != 0};
    {
      const std::scoped_lock lock{mutex};
      bytes += static_cast<double>(job.state_bytes());
    }
    const auto together = [&](auto before, auto work) {
      comm.barrier(ctx);
      if (comm.rank() == 0) before();
      return seconds_together(comm, ctx, work);
    };
    const auto measured = [&](auto before, auto work) {
      double seconds = 0;
      const std::uint64_t extra = extra_bytes([&] { seconds = together(before, work); });
      if (comm.rank() == 0) most_extra = std::max(most_extra, extra);
      return seconds;
    };
    const Turns turns = run(comm, ctx, job, file, together, measured);
    const std::scoped_lock lock{mutex};
    most_of_device = std::max(most_of_device, job.account().peak_bytes());
    if (comm.rank() != 0) return;
    state.counters["of_plain"] = 1 / turns.ratio();
    state.counters["of_plain_low"] = 1 / turns.ratio(0.75);
    state.counters["of_plain_high"] = 1 / turns.ratio(0.25);
    state.counters["GB/s"] = bytes / median(turns.subject) / 1e9;
    state.counters["plain_GB/s"] = bytes / median(turns.reference) / 1e9;
  });
  state.counters["extra_MB"] = static_cast<double>(most_extra) / 1e6;
  state.counters["device_over_plan_bytes"] =
      static_cast<double>(most_of_device) -
      static_cast<double>(plan<Trainer>(config, ranks).device_peak_bytes);
  state.SetLabel(std::to_string(static_cast<std::size_t>(bytes / 1e6)) + " MB");
  fs::remove_all(directory());
}

void save_of_plain_write(benchmark::State& state) {
  with_job(state, [&](Threads& comm, const Context<Cpu>& ctx, Job& job, PlainFile& file,
                      auto together, auto measured) {
    const std::string folder = directory() + "/saved";
    const auto remove_all = [&] {
      fs::remove_all(folder);
      for (std::size_t rank = 0; rank < comm.size(); ++rank)
        fs::remove(directory() + "/plain" + std::to_string(rank));
      settle(directory());
    };
    return in_turns(
        state, comm, ctx,
        [&] { return measured(remove_all, [&] { save_checkpoint(job.trainer(), folder); }); },
        [&] { return together(remove_all, [&] { file.write(); }); });
  });
}

void load_of_plain_read(benchmark::State& state) {
  with_job(state, [&](Threads& comm, const Context<Cpu>& ctx, Job& job, PlainFile& file,
                      auto together, auto measured) {
    const std::string folder = directory() + "/saved";
    const std::uint32_t saved = job.sum();
    save_checkpoint(job.trainer(), folder);
    file.write();
    double least_from_disk = 1;
    const auto from_disk = [&](auto run) {
      const std::uint64_t before = number_in("/proc/self/io", "read_bytes:");
      const double seconds = run();
      const auto read = static_cast<double>(number_in("/proc/self/io", "read_bytes:") - before);
      least_from_disk =
          std::min(least_from_disk, read / static_cast<double>(job.state_bytes() * comm.size()));
      return seconds;
    };
    const Turns turns = in_turns(
        state, comm, ctx,
        [&] {
          job.forget();
          const double seconds = from_disk([&] {
            return measured(drop_pages, [&] { (void)load_checkpoint(job.trainer(), folder); });
          });
          if (job.sum() != saved) throw std::runtime_error("a load gave back something else");
          return seconds;
        },
        [&] { return from_disk([&] { return together(drop_pages, [&] { file.read(); }); }); });
    if (comm.rank() == 0) state.counters["from_disk"] = least_from_disk;
    return turns;
  });
}

void async_save_of_copy(benchmark::State& state) {
  with_job(state, [&](Threads& comm, const Context<Cpu>& ctx, Job& job, PlainFile&, auto together,
                      auto) {
    const std::string folder = directory() + "/saved";
    const auto remove_all = [&] {
      fs::remove_all(folder);
      settle(directory());
    };
    AsyncSaver saver{job.trainer(), folder};
    Cpu device;
    const auto memory = device.allocate<std::byte>(job.state_bytes(), Purpose::other);
    const Turns turns = in_turns(
        state, comm, ctx,
        [&] {
          const double seconds = together(remove_all, [&] { saver.save(); });
          saver.wait();  // what is written meanwhile is not of the stall, nor in the copy's way
          return seconds;
        },
        [&] { return together(remove_all, [&] { job.copy_to(memory.data()); }); });
    if (comm.rank() == 0) {
      state.counters["stall_of_copy"] = turns.ratio();
      state.counters["stall_of_copy_low"] = turns.ratio(0.25);
      state.counters["stall_of_copy_high"] = turns.ratio(0.75);
    }
    return turns;
  });
}

#define SHARDEXPR_CHECKPOINT(name)    \
  BENCHMARK(name)                     \
      ->ArgNames({"ranks", "direct"}) \
      ->ArgsProduct({{1, 2}, {0, 1}}) \
      ->UseManualTime()               \
      ->Unit(benchmark::kMillisecond) \
      ->Iterations(9)
SHARDEXPR_CHECKPOINT(save_of_plain_write);
SHARDEXPR_CHECKPOINT(load_of_plain_read);
BENCHMARK(async_save_of_copy)
    ->ArgNames({"ranks", "direct"})
    ->ArgsProduct({{1, 2}, {0}})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(9);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
