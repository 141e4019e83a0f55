// SPDX-License-Identifier: Apache-2.0
// No allocation inside a step: every way to the allocator is counted.
#include <shardexpr/nn/cpu/blas.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <atomic>
#include <cstddef>
#include <cstdlib>

#include "../support/train.hpp"
#include <doctest/doctest.h>
#include <malloc.h>

namespace {
std::atomic<std::size_t> allocations{0};
}  // namespace

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0  // sanitizers bring an allocator of their own
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTS_ALLOCATIONS 0
#endif
#endif
#ifndef COUNTS_ALLOCATIONS
#define COUNTS_ALLOCATIONS 1
#endif

#if COUNTS_ALLOCATIONS
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
#endif

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
  void* volatile some = std::malloc(1);  // volatile: or the compiler drops the pair
  std::free(some);
  CHECK(allocations.load() == before + COUNTS_ALLOCATIONS);
}

#if defined(SHARDEXPR_OPENBLAS) && COUNTS_ALLOCATIONS
// Without OpenBLAS, Eigen packs into memory that it takes in each product.
TEST_CASE("a step of the GPT allocates nothing after the first") {
  sx::nn::use_one_blas_thread();
  sx::launch(2, [](sx::Threads& comm) {
    sx::Cpu device;
    const sx::GptConfig config{
        .vocabulary = 64, .context = 48, .embed = 64, .layers = 2, .batch = 2};
    sx::Sharded<sx::Gpt, sx::FullShard> trainer{device, comm, config};
    const std::vector<std::int32_t> tokens(config.tokens(), 3);
    sx::Cpu::Stream stream;
    const sx::Context<sx::Cpu> context{device, stream};
    (void)trainer.step({tokens.data(), tokens.data()});
    comm.barrier(context);
    const std::size_t before = allocations.load();
    comm.barrier(context);
    for (int s = 0; s < 3; ++s) (void)trainer.step({tokens.data(), tokens.data()});
    comm.barrier(context);
    const std::size_t after = allocations.load();
    comm.barrier(context);
    CHECK(after == before);
  });
}
#endif

TEST_CASE_TEMPLATE("guards and summon allocate nothing", Sharding, sx::FullShard, sx::NoShard) {
  sx::launch(2, [](sx::Threads& comm) {
    sx::Cpu device;
    sx::Sharded<toy::Autoencoder, Sharding> trainer{device, comm, toy::Config{}};
    const auto use = [&] {
      float sum = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        const auto w = trainer.template gather<toy::Mixer>(i);
        const auto again = trainer.template gather<toy::Mixer>(i);
        sum += w->bias[0] + again->weight[0];
      }
      sum += trainer.template gather<toy::Decoder>()->weight[0];
      trainer.template open_gradients<toy::Decoder>()->bias[0] += sum;
      trainer.template open_gradients<toy::Decoder>().reduce();
      trainer.template open_gradients<toy::Mixer>(2).reduce();
      trainer.drop_gradients();
    };
    sx::Cpu::Stream stream;
    const sx::Context<sx::Cpu> context{device, stream};
    use();
    comm.barrier(context);
    const std::size_t before = allocations.load(), charged = device.account().allocation_count();
    comm.barrier(context);
    for (int s = 0; s < 5; ++s) use();
    comm.barrier(context);
    const std::size_t after = allocations.load();
    comm.barrier(context);
    CHECK(after == before);
    trainer.summon([](const std::string&, auto) {});  // its names may
    CHECK(device.account().allocation_count() == charged);
  });
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

TEST_CASE("no two buffers that live at once overlap") {
  using Workspace = sx::detail::Workspace<toy::Autoencoder, float, sx::Cpu>;
  const toy::Config config;
  const sx::Layout<toy::Autoencoder> layout{config, 1};
  sx::Cpu device;
  const Workspace workspace{device, config, layout};
  std::vector<sx::Tensor<float>> forward, backward;  // kept through the step; of one unit's pass
  const auto disjoint = [](const auto& some) {
    for (std::size_t i = 0; i < some.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        CHECK((some[i].data + some[i].count() <= some[j].data ||
               some[j].data + some[j].count() <= some[i].data));
  };
  forward.push_back(workspace.outputs<toy::Encoder, sx::Tensor>(0).h);
  for (std::size_t u = 1; u <= 3; ++u) {
    forward.push_back(workspace.outputs<toy::Mixer, sx::Tensor>(u).h);
    forward.push_back(workspace.saved<toy::Mixer, sx::Tensor>(u).active);
    CHECK(workspace.inputs<toy::Mixer, sx::Tensor>(u).h.data ==
          workspace.outputs<toy::Mixer, sx::Tensor>(u - 1).h.data);
  }
  forward.push_back(workspace.outputs<toy::Decoder, sx::Tensor>(4).loss);
  forward.push_back(workspace.saved<toy::Decoder, sx::Tensor>(4).error);
  disjoint(forward);
  for (std::size_t u = 1; u <= 3; ++u) {
    backward = forward;
    backward.push_back(workspace.output_gradients<toy::Mixer, sx::Tensor>(u).h);
    backward.push_back(workspace.input_gradients<toy::Mixer, sx::Tensor>(u).h);
    backward.push_back(workspace.scratch<toy::Mixer, sx::Tensor>(u).d_active);
    disjoint(backward);
  }
  CHECK(workspace.input_gradients<toy::Mixer, sx::Tensor>(2).h.data ==
        workspace.output_gradients<toy::Mixer, sx::Tensor>(1).h.data);
}

}  // namespace
