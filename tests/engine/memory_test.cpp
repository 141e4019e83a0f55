// SPDX-License-Identifier: Apache-2.0
// No allocation inside a step: every way to the allocator is counted.
#include <atomic>
#include <cstddef>
#include <cstdlib>

#include "../support/train.hpp"
#include <doctest/doctest.h>
#include <malloc.h>

namespace {
std::atomic<std::size_t> allocations{0};
}  // namespace

// glibc's own entry points, so that the counting ones can stand in front of them.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* data, std::size_t size) {
  ++allocations;
  return __libc_realloc(data, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** data, std::size_t alignment, std::size_t size) {
  ++allocations;
  *data = __libc_memalign(alignment, size);
  return *data == nullptr ? 12 : 0;
}
}

namespace {

TEST_CASE_TEMPLATE("a step allocates nothing after the first", Sharding, sx::FullShard,
                   sx::ShardGradOp, sx::ShardOptimizer, sx::NoShard) {
  sx::launch(2, [](sx::Threads& comm) {
    sx::Cpu device;
    sx::Sharded<toy::Autoencoder, Sharding> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20);
    sx::Cpu::Stream stream;
    const sx::Context<sx::Cpu> context{device, stream};
    (void)trainer.step({x.data()});
    comm.barrier(context);
    const std::size_t before = allocations.load(), charged = device.account().allocation_count();
    comm.barrier(context);
    for (int s = 0; s < 5; ++s) (void)trainer.step({x.data()});
    comm.barrier(context);
    const std::size_t after = allocations.load();
    comm.barrier(context);
    CHECK(after == before);
    CHECK(device.account().allocation_count() == charged);
  });
  // The counter counts: otherwise the test above says nothing.
  const std::size_t before = allocations.load();
  std::free(std::malloc(1));
  delete new int;
  CHECK(allocations.load() >= before + 1);
}

TEST_CASE("a trainer gives back all it took") {
  sx::launch(2, [](sx::Threads& comm) {
    sx::Cpu device;
    {
      sx::Sharded<toy::Autoencoder> trainer{device, comm, toy::Config{}};
      CHECK(device.account().live_bytes() > 0);
    }
    CHECK(device.account().live_bytes() == 0);
  });
}

}  // namespace
