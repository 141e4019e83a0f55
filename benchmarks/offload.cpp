// SPDX-License-Identifier: Apache-2.0
// What keeping state off the device costs a step: on the host, beside a trainer that keeps all on
// the device; on a disk, beside the same transfers by bare calls of io_uring. SHARDEXPR_SWAP_DIR
// names the disk's directory; by default it is the current one.
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/shardexpr.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "trainers_in_turns.hpp"
#include <benchmark/benchmark.h>

#if defined(SHARDEXPR_LIBURING)
#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>
#endif

namespace shardexpr::benchmarks {
namespace {

template <class Offload, class Precision>
void over_none(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(2, [&](Threads& comm) {
    const Size& size = size_of(state);
    Engine<Threads, FullShard, Offload, Precision> offloaded{comm, size.config};
    Engine<Threads, FullShard, Precision> plain{comm, size.config};
    compare(state, comm, size, offloaded, plain, 0);
  });
}
void offload_all_over_none(benchmark::State& state) { over_none<OffloadAll, FullPrecision>(state); }
using MixedBf16 = MixedPrecision<bf16, fp32>;
void offload_all_over_none_bf16(benchmark::State& state) {
  over_none<OffloadAll, MixedBf16>(state);
}
using Half = Offload<OnDevice, Partly<1, 2>>;
void half_over_none(benchmark::State& state) { over_none<Half, FullPrecision>(state); }

SHARDEXPR_ENGINE(offload_all_over_none)->Iterations(40);
SHARDEXPR_ENGINE(offload_all_over_none_bf16)->Iterations(40);
SHARDEXPR_ENGINE(half_over_none)->Iterations(40);

#if defined(SHARDEXPR_LIBURING)
std::string directory() {
  const char* given = std::getenv("SHARDEXPR_SWAP_DIR");
  return given != nullptr ? given : ".";
}

// So few tokens that the disk decides.
constexpr GptConfig on_disk{.context = 8, .embed = 512, .heads = 8, .layers = 8, .batch = 1};
using OnDisk = Sharded<Gpt, FullShard, Offload<OnDevice, OnNvme>>;
constexpr std::size_t queue_depth = 32;

/// What an update moves, by bare calls: chunks of 2^20 elements are read, 16 bytes an element, the
/// next while of the last 12 are written. Nothing is computed, no checksum, no look at what a short
/// transfer leaves.
class BareUpdate {
 public:
  explicit BareUpdate(std::size_t elements) : chunks_{elements / chunk} {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT, 0600);
    if (fd_ < 0 || ::fallocate(fd_, 0, 0, static_cast<off_t>(chunks_ * 16 * chunk)) != 0 ||
        io_uring_queue_init(4 * queue_depth, &ring_, 0) != 0)
      throw std::runtime_error("cannot make " + path_ + " with O_DIRECT");
    // All of it, once: what was never written would be read without the disk.
    for (std::size_t c = 0; c < chunks_; ++c) wait(begin(c, 16, true));
  }
  BareUpdate(const BareUpdate&) = delete;
  BareUpdate& operator=(const BareUpdate&) = delete;
  ~BareUpdate() {
    io_uring_queue_exit(&ring_);
    ::close(fd_);
    ::unlink(path_.c_str());
  }

  double run() {
    const auto start = Clock::now();
    for (std::size_t c = 0; c <= chunks_; ++c) {
      unsigned under_way = 0;
      if (c < chunks_) under_way += begin(c, 16, false);
      if (c > 0) under_way += begin(c - 1, 12, true);
      wait(under_way);
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  std::size_t moved_bytes() const { return chunks_ * 28 * chunk; }

 private:
  static constexpr std::size_t chunk = std::size_t{1} << 20, piece_bytes = 1_MiB;

  /// `bytes` an element of chunk c; its pieces are of 1 MiB.
  unsigned begin(std::size_t c, std::size_t bytes, bool writes) {
    for (std::size_t at = 0; at < bytes * chunk; at += piece_bytes) {
      io_uring_sqe* entry = io_uring_get_sqe(&ring_);
      std::byte* memory = memory_.data() + (writes ? 16 * chunk : 0) + at;
      const std::uint64_t offset = c * 16 * chunk + at;
      if (writes)
        io_uring_prep_write(entry, fd_, memory, piece_bytes, offset);
      else
        io_uring_prep_read(entry, fd_, memory, piece_bytes, offset);
    }
    io_uring_submit(&ring_);
    return static_cast<unsigned>(bytes * chunk / piece_bytes);
  }
  void wait(unsigned count) {
    for (; count > 0; --count) {
      io_uring_cqe* entry = nullptr;
      if (io_uring_wait_cqe(&ring_, &entry) != 0 || entry->res != static_cast<int>(piece_bytes))
        throw std::runtime_error("a bare transfer failed");
      io_uring_cqe_seen(&ring_, entry);
    }
  }

  std::size_t chunks_;
  Cpu device_;
  Cpu::Buffer<std::byte> memory_ = device_.allocate<std::byte>(32 * chunk, Purpose::other);
  std::string path_ = directory() + "/shardexpr-bench-bare.swap";
  int fd_ = -1;
  io_uring ring_{};
};

/// Gradients of every unit, of zero, where the optimizer will look for them.
void reduce_all(OnDisk& trainer) {
  trainer.open_gradients<gpt::Head>().reduce();
  for (std::size_t i = on_disk.layers; i-- > 0;) trainer.open_gradients<gpt::Block>(i).reduce();
  trainer.open_gradients<gpt::Embedding>().reduce();
}

void nvme_update_of_bare(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(1, [&](Threads& comm) {
    const std::filesystem::path mine = directory() + "/shardexpr-bench-offload";
    std::filesystem::create_directories(mine);
    {
      Cpu device{Execution::asynchronous};
      typename OnDisk::Options options;
      options.nvme.directory = mine.string();
      OnDisk trainer{device, comm, on_disk, options};
      const Plan planned = plan<OnDisk>(on_disk, 1);
      BareUpdate bare{planned.parameter_count};
      Cpu here;
      Cpu::Stream stream;
      double moved = 0;
      const Turns turns = in_turns(
          state, comm, {here, stream},
          [&] {
            reduce_all(trainer);
            const auto before = trainer.transfers();
            const auto start = Clock::now();
            benchmark::DoNotOptimize(trainer.apply(0).loss);
            const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
            const auto after = trainer.transfers();
            moved = static_cast<double>(after.nvme_read_bytes - before.nvme_read_bytes +
                                        after.nvme_written_bytes - before.nvme_written_bytes);
            return seconds;
          },
          [&] { return bare.run(); });
      const double rescale = moved / static_cast<double>(bare.moved_bytes());
      state.counters["of_bare"] = rescale / turns.ratio();
      state.counters["of_bare_low"] = rescale / turns.ratio(0.75);
      state.counters["of_bare_high"] = rescale / turns.ratio(0.25);
      state.counters["GB/s"] = moved / median(turns.subject) / 1e9;
      state.counters["state_over_buffers"] = static_cast<double>(planned.nvme_bytes) /
                                             static_cast<double>(planned.host_transfers_bytes);
    }
    std::filesystem::remove(mine);
  });
}
BENCHMARK(nvme_update_of_bare)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(15);
#endif

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
