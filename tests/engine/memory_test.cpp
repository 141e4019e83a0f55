// SPDX-License-Identifier: Apache-2.0
// No allocation inside a step: every way to the allocator is counted.
#include <shardexpr/nn/cpu/blas.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <cstddef>
#include <cstdlib>

#include "../support/allocations.hpp"
#include "../support/offloaded.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

template <class... Policies>
struct Toy {
  using Trainer = sx::Sharded<toy::Autoencoder, Policies...>;
};

TEST_CASE_TEMPLATE("a step allocates nothing after the first", Strategy, Toy<sx::FullShard>,
                   Toy<sx::ShardGradOp>, Toy<sx::ShardOptimizer>, Toy<sx::NoShard>,
                   Toy<sx::HybridShard<2>, sx::ForwardPrefetch<2>>,
                   Toy<sx::ReshardTo<2>, sx::PersistBelow<8>, sx::BackwardPost>,
                   Toy<sx::WrapBySize<60>, sx::Recompute<>, sx::ReduceAtEnd>,
                   Toy<sx::ReuseWithin<60>, sx::PrefetchBucket<112>>, Toy<sx::OffloadAll>,
                   Toy<sx::Offload<sx::OnHost, sx::Partly<1, 2>>>,
                   Toy<sx::Offload<sx::OnNvme, sx::OnNvme>>) {
  const Scratch scratch;
  for (const sx::Execution execution : {sx::Execution::immediate, sx::Execution::asynchronous})
    sx::launch(4, [&](sx::Threads& comm) {
      sx::Cpu device{execution};
      typename Strategy::Trainer::Options options;
      options.micro_batches = 2;
      put_on_disk(options, scratch.path());
      typename Strategy::Trainer trainer{device, comm, toy::Config{}, options};
      std::vector<float> x(20);
      const std::vector<toy::Batch> batches(2, toy::Batch{x.data()});
      sx::Cpu::Stream stream;
      const sx::Context<sx::Cpu> context{device, stream};
      const sx::MemoryAccount& host = device.host().account();  // made by the first call
      (void)trainer.step(batches);
      comm.barrier(context);
      const std::size_t before = allocations.load(), charged = device.account().allocation_count(),
                        charged_host = host.allocation_count();
      comm.barrier(context);
      for (int s = 0; s < 5; ++s) (void)trainer.step(batches);
      comm.barrier(context);
      const std::size_t after = allocations.load();
      comm.barrier(context);
      CHECK(after == before);
      CHECK(device.account().allocation_count() == charged);
      CHECK(host.allocation_count() == charged_host);
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
