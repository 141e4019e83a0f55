// SPDX-License-Identifier: Apache-2.0
// The order of a step under each policy, written out: what the engine executes and the plan counts.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/plan/schedule.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <sstream>
#include <string>

#include "../support/one_unit.hpp"
#include "../support/toy.hpp"
#include <doctest/doctest.h>

namespace {

// Words: +g gather, *g regather, -g release, kg keep; Fu forward, ru rebuild, Bu backward; og open
// gradients, Rg reduce, Ag all-reduce over the copies, cg close gradients; ug update, pg publish.
struct Recorder {
  std::ostringstream text;
  void note(const char* what, std::size_t at) {
    if (text.tellp() > 0) text << ' ';
    text << what << at;
  }
  void gather(std::size_t g) { note("+", g); }
  void regather(std::size_t g) { note("*", g); }
  void release(std::size_t g) { note("-", g); }
  void keep(std::size_t g) { note("k", g); }
  void open_gradients(std::size_t g) { note("o", g); }
  void reduce(std::size_t g) { note("R", g); }
  void replicate(std::size_t g) { note("A", g); }
  void close_gradients(std::size_t g) { note("c", g); }
  void update(std::size_t g) { note("u", g); }
  void publish(std::size_t g) { note("p", g); }
  template <std::size_t S>
  void forward(std::size_t u) {
    note("F", u);
  }
  template <std::size_t S>
  void rebuild(std::size_t u) {
    note("r", u);
  }
  template <std::size_t S>
  void backward(std::size_t u) {
    note("B", u);
  }
};

/// A step of the toy with two mixers: units 0 encoder (42 elements), 1 and 2 mixers (56 each),
/// 3 decoder (5, and the encoder's weight).
template <class Model = toy::Autoencoder, class... Ps>
struct Steps {
  using Strategy = sx::StrategyOf<Ps...>;
  sx::Layout<Model> layout;
  sx::Schedule<Strategy, Model> schedule;

  explicit Steps(std::size_t world)
      : layout{{.depth = 2},
               sx::mesh_shape<Strategy>(world).shards,
               sx::detail::grouping_of<Strategy, Model>()},
        schedule{layout} {}
  Steps(const Steps&) = delete;

  std::string step(std::size_t micro_batches = 1) {
    Recorder recorder;
    for (std::size_t m = 1; m <= micro_batches; ++m) {
      schedule.forward(recorder);
      schedule.backward(recorder, m == micro_batches);
    }
    schedule.update(recorder);
    return recorder.text.str();
  }
};
template <class... Ps>
std::string recorded(std::size_t world = 2, std::size_t micro_batches = 1) {
  Steps<toy::Autoencoder, Ps...> steps{world};
  const std::string first = steps.step(micro_batches);
  CHECK(steps.step(micro_batches) == first);  // a step leaves nothing behind
  return first;
}

TEST_CASE("FullShard gathers a unit when it is needed") {
  CHECK(recorded<sx::FullShard, sx::BackwardNone>() ==
        "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 "
        "o3 o0 B3 -3 -0 R3 c3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 +0 B0 -0 R0 c0 "
        "u0 u1 u2 u3");
}
TEST_CASE("BackwardPre gathers the next unit before a backward; a reduction overlaps the next") {
  CHECK(recorded<sx::FullShard, sx::BackwardPre>() ==
        "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 "
        "+2 o3 o0 B3 -3 -0 R3 +1 o2 B2 -2 R2 c3 +0 o1 B1 -1 R1 c2 B0 -0 R0 c1 c0 "
        "u0 u1 u2 u3");
}
TEST_CASE("BackwardPost gathers the next unit after a backward, before the reduction") {
  CHECK(recorded<sx::FullShard, sx::BackwardPost>() ==
        "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 "
        "o3 o0 B3 -3 -0 +2 R3 o2 B2 -2 +1 R2 c3 o1 B1 -1 +0 R1 c2 B0 -0 R0 c1 c0 "
        "u0 u1 u2 u3");
}
TEST_CASE("ForwardPrefetch gathers for the next units before a forward") {
  const std::string backward =
      " o3 o0 B3 -3 -0 R3 c3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 +0 B0 -0 R0 c0 u0 u1 u2 u3";
  CHECK(recorded<sx::ForwardPrefetch<1>, sx::BackwardNone>() ==
        "+0 +1 F0 -0 +2 F1 -1 +3 +0 F2 -2 F3" + backward);
  // The encoder is not released: the next gather would be its own, for the decoder.
  CHECK(recorded<sx::ForwardPrefetch<2>, sx::BackwardNone>() ==
        "+0 +1 +2 F0 +3 F1 -1 F2 -2 F3" + backward);
  CHECK(recorded<sx::ForwardPrefetch<3>, sx::BackwardNone>() ==
        "+0 +1 +2 +3 F0 F1 -1 F2 -2 F3" + backward);
}
TEST_CASE("ShardGradOp and ShardOptimizer gather nothing and publish what they updated") {
  const std::string want =
      "F0 F1 F2 F3 o3 o0 B3 R3 o2 B2 R2 c3 o1 B1 R1 c2 B0 R0 c1 c0 u0 p0 u1 p1 u2 p2 u3 p3";
  CHECK(recorded<sx::ShardGradOp>() == want);
  CHECK(recorded<sx::ShardOptimizer>() == want);
}
TEST_CASE("NoShard reduces and updates") {
  CHECK(recorded<sx::NoShard>() ==
        "F0 F1 F2 F3 o3 o0 B3 R3 o2 B2 R2 c3 o1 B1 R1 c2 B0 R0 c1 c0 u0 u1 u2 u3");
}
/// Throws instead of its `last`-th call.
struct Failing : Recorder {
  std::size_t last;
  explicit Failing(std::size_t n) : last{n} {}
  void count() {
    if (--last == 0) throw 0;
  }
  void gather(std::size_t g) { count(), Recorder::gather(g); }
  void release(std::size_t g) { count(), Recorder::release(g); }
  void open_gradients(std::size_t g) { count(), Recorder::open_gradients(g); }
  template <std::size_t S>
  void forward(std::size_t u) {
    count(), Recorder::forward<S>(u);
  }
  template <std::size_t S>
  void backward(std::size_t u) {
    count(), Recorder::backward<S>(u);
  }
};
TEST_CASE("a pass that a visitor ends leaves gathered what it had gathered, and nothing else") {
  Steps<toy::Autoencoder, sx::FullShard, sx::BackwardNone> steps{2};
  const std::string backward =
      "o3 o0 B3 -3 -0 R3 c3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 +0 B0 -0 R0 c0 u0 u1 u2 u3";
  const auto begun = [&](std::size_t calls) {
    Failing failing{calls};
    CHECK_THROWS_AS(steps.schedule.forward(failing), int);
    return failing.text.str();
  };
  CHECK(begun(4) == "+0 F0 -0");  // the gather of 1 failed
  CHECK(steps.step() == "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 " + backward);
  CHECK(begun(5) == "+0 F0 -0 +1");  // the forward of 1
  CHECK(steps.step() == "+0 F0 -0 F1 -1 +2 F2 -2 +3 +0 F3 " + backward);
  CHECK(begun(1) == "");
  CHECK(steps.step() == "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 " + backward);

  // In backward: what was opened and gathered stays so.
  Recorder forward;
  steps.schedule.forward(forward);
  Failing failing{3};
  CHECK_THROWS_AS(steps.schedule.backward(failing), int);
  CHECK(failing.text.str() == "o3 o0");
  CHECK(steps.step() ==
        "F0 -0 +1 F1 -1 +2 F2 -2 +0 F3 " + backward.substr(std::string{"o3 o0 "}.size()));
}
TEST_CASE("hybrid shardings reduce over the copies too, each group once") {
  CHECK(recorded<sx::HybridShard<2>, sx::BackwardNone>(4) ==
        "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 "
        "o3 o0 B3 -3 -0 R3 A3 c3 +2 o2 B2 -2 R2 A2 c2 +1 o1 B1 -1 R1 A1 c1 +0 B0 -0 R0 A0 c0 "
        "u0 u1 u2 u3");
  CHECK(recorded<sx::HybridShardGradOp<2>>(4) ==
        "F0 F1 F2 F3 o3 o0 B3 R3 A3 o2 B2 R2 A2 c3 o1 B1 R1 A1 c2 B0 R0 A0 c1 c0 "
        "u0 p0 u1 p1 u2 p2 u3 p3");
}
TEST_CASE("ReshardTo keeps a part before a release and gathers from it in backward") {
  // The encoder is used again in forward, by the decoder: nothing is kept of it until then.
  CHECK(recorded<sx::ReshardTo<2>, sx::BackwardNone>(4) ==
        "+0 F0 -0 +1 F1 k1 -1 +2 F2 k2 -2 +3 +0 F3 "
        "o3 o0 B3 -3 k0 -0 R3 c3 *2 o2 B2 -2 R2 c2 *1 o1 B1 -1 R1 c1 *0 B0 -0 R0 c0 "
        "u0 u1 u2 u3");
}
TEST_CASE("PersistBelow leaves nothing to gather of small parameters and publishes them") {
  // Biases persist; the decoder, which has no more of its own, is never gathered.
  CHECK(recorded<sx::PersistBelow<8>, sx::BackwardNone>() ==
        "+0 F0 -0 +1 F1 -1 +2 F2 -2 +0 F3 "
        "o3 o0 B3 -0 R3 c3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 +0 B0 -0 R0 c0 "
        "u0 p0 u1 p1 u2 p2 u3 p3");
  // Below 36 the encoder's weight of 35 persists as well.
  CHECK(recorded<sx::PersistBelow<36>, sx::BackwardNone>() ==
        "F0 +1 F1 -1 +2 F2 -2 F3 "
        "o3 o0 B3 R3 c3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 B0 R0 c0 "
        "u0 p0 u1 p1 u2 p2 u3 p3");
}
TEST_CASE("PrefetchBucket gathers ahead by elements, in both passes") {
  // 112 elements: two mixers, or a mixer and decoder with encoder.
  CHECK(recorded<sx::PrefetchBucket<112>>() ==
        "+0 +1 +2 F0 -0 +3 +0 F1 -1 F2 -2 F3 "
        "+2 +1 o3 o0 B3 -3 -0 R3 +0 o2 B2 -2 R2 c3 o1 B1 -1 R1 c2 B0 -0 R0 c1 c0 "
        "u0 u1 u2 u3");
  CHECK(recorded<sx::PrefetchBucket<56>, sx::ForwardNone>() ==
        recorded<sx::FullShard, sx::BackwardPre>());
}
TEST_CASE("MaxLive stops gathers ahead") {
  // 111: no two mixers at once; a mixer beside encoder and decoder (103) may be.
  CHECK(recorded<sx::MaxLive<111>, sx::ForwardPrefetch<1>>() ==
        "+0 +1 F0 -0 F1 -1 +2 +3 +0 F2 -2 F3 "
        "+2 o3 o0 B3 -3 -0 R3 o2 B2 -2 R2 c3 +1 +0 o1 B1 -1 R1 c2 B0 -0 R0 c1 c0 "
        "u0 u1 u2 u3");
  CHECK(recorded<sx::MaxLive<1000>>() == recorded<sx::FullShard>());
}
TEST_CASE("LimitGathers stops gathers ahead") {
  CHECK(recorded<sx::LimitGathers<2>>() ==
        "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 "
        "o3 o0 B3 -3 -0 R3 +2 +1 o2 B2 -2 R2 c3 +0 o1 B1 -1 R1 c2 B0 -0 R0 c1 c0 "
        "u0 u1 u2 u3");
  CHECK(recorded<sx::LimitGathers<3>>() == recorded<sx::FullShard>());
}
TEST_CASE("ReuseWithin keeps what is used again soon") {
  // After mixer 2's forward come the decoder's forward and backward, 5 elements each: 10.
  CHECK(recorded<sx::ReuseWithin<10>, sx::BackwardNone>() ==
        "+0 F0 -0 +1 F1 -1 +2 F2 +3 +0 F3 "
        "o3 o0 B3 -3 -0 R3 c3 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 +0 B0 -0 R0 c0 "
        "u0 u1 u2 u3");
  CHECK(recorded<sx::ReuseWithin<9>, sx::BackwardNone>() ==
        recorded<sx::FullShard, sx::BackwardNone>());
  // Both bounds: keeping mixer 2 beside encoder and decoder is 103.
  CHECK(recorded<sx::ReuseWithin<10>, sx::MaxLive<102>, sx::BackwardNone>() ==
        recorded<sx::FullShard, sx::BackwardNone>());
}
TEST_CASE("WrapEach of some units leaves the others to the root, which stays") {
  CHECK(recorded<sx::WrapEach<toy::Mixer>, sx::BackwardNone>() ==
        "+0 F0 +1 F1 -1 +2 F2 -2 F3 "
        "o0 B3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 B0 -0 R0 c0 "
        "u0 u1 u2");
  CHECK(recorded<sx::WrapEach<toy::Encoder, toy::Mixer, toy::Decoder>>() == recorded<>());
}
TEST_CASE("WrapBySize joins neighbours") {
  // Groups: 0 encoder and mixer 1 (98), 1 mixer 2 and decoder (61).
  CHECK(recorded<sx::WrapBySize<60>, sx::BackwardNone>() ==
        "+0 F0 F1 -0 +1 F2 +0 F3 "
        "o1 o0 B3 -0 B2 -1 R1 c1 +0 B1 B0 -0 R0 c0 "
        "u0 u1");
}
TEST_CASE("WrapWhole gathers and reduces once") {
  CHECK(recorded<sx::WrapWhole>() == "+0 F0 F1 F2 F3 o0 B3 B2 B1 B0 -0 R0 c0 u0");
  CHECK(recorded<sx::WrapWhole, sx::NoShard>() == "F0 F1 F2 F3 o0 B3 B2 B1 B0 R0 c0 u0");
}
TEST_CASE("Recompute runs a forward again before its backward") {
  CHECK(recorded<sx::NoShard, sx::Recompute<toy::Mixer>>() ==
        "F0 F1 F2 F3 o3 o0 B3 R3 o2 r2 B2 R2 c3 o1 r1 B1 R1 c2 B0 R0 c1 c0 u0 u1 u2 u3");
  // Every unit that saves: the encoder does not.
  CHECK(recorded<sx::NoShard, sx::Recompute<>>() ==
        "F0 F1 F2 F3 o3 o0 r3 B3 R3 o2 r2 B2 R2 c3 o1 r1 B1 R1 c2 B0 R0 c1 c0 u0 u1 u2 u3");
}
TEST_CASE("accumulation reduces every micro-batch, or once at the end") {
  const std::string forward = "+0 F0 -0 +1 F1 -1 +2 F2 -2 +3 +0 F3 ";
  const std::string each =
      forward + "o3 o0 B3 -3 -0 R3 c3 +2 o2 B2 -2 R2 c2 +1 o1 B1 -1 R1 c1 +0 B0 -0 R0 c0 ";
  CHECK(recorded<sx::BackwardNone>(2, 2) == each + each + "u0 u1 u2 u3");
  CHECK(recorded<sx::BackwardNone, sx::ReduceAtEnd>(2, 2) ==
        forward + "o3 o0 B3 -3 -0 +2 o2 B2 -2 +1 o1 B1 -1 +0 B0 -0 " +  //
            forward + "B3 -3 -0 R3 c3 +2 B2 -2 R2 c2 +1 B1 -1 R1 c1 +0 B0 -0 R0 c0 u0 u1 u2 u3");
}
TEST_CASE("under hybrid sharding the copies meet once, in the last micro-batch") {
  CHECK(recorded<sx::HybridShardGradOp<2>, sx::WrapWhole>(4, 3) ==
        "F0 F1 F2 F3 o0 B3 B2 B1 B0 R0 c0 F0 F1 F2 F3 o0 B3 B2 B1 B0 R0 c0 "
        "F0 F1 F2 F3 o0 B3 B2 B1 B0 R0 A0 c0 u0 p0");
}

struct Alone : OneUnit<Alone> {};
using Single = OneUnitModel<Alone>;

TEST_CASE("a bound that the model cannot keep is refused") {
  CHECK_THROWS_WITH_AS((Steps<toy::Autoencoder, sx::MaxLive<55>>{2}),
                       "MaxLive<55> is below what unit 1 computes with, 56 elements: give at "
                       "least that",
                       sx::ConfigError);
  // The root counts: it stays gathered while others are.
  CHECK_THROWS_WITH_AS((Steps<toy::Autoencoder, sx::LimitGathers<2>, sx::WrapEach<toy::Decoder>,
                              sx::ForwardPrefetch<1>, sx::MaxLive<100>>{2}),
                       "MaxLive<100> is below what unit 0 computes with, 154 elements: give at "
                       "least that",
                       sx::ConfigError);
  CHECK_THROWS_WITH_AS(
      (Steps<toy::Autoencoder, sx::LimitGathers<2>, sx::WrapEach<toy::Encoder, toy::Decoder>>{2}),
      "LimitGathers<2> is below what unit 3 computes with, 3 groups: give at least that",
      sx::ConfigError);
  const char* const one_group =
      "this model is one group, so that prefetch, reshard and bounds on gathers change nothing: "
      "leave them out";
  CHECK_THROWS_WITH_AS((Steps<Single, sx::ForwardPrefetch<1>>{2}), one_group, sx::ConfigError);
  CHECK_THROWS_WITH_AS((Steps<Single, sx::BackwardPost>{2}), one_group, sx::ConfigError);
  CHECK_THROWS_WITH_AS((Steps<Single, sx::ReshardTo<2>>{4}), one_group, sx::ConfigError);
  CHECK(Steps<Single>{2}.step() == "+0 F0 o0 B0 -0 R0 c0 u0");
  CHECK_THROWS_WITH_AS((Steps<toy::Autoencoder, sx::PrefetchBucket<4>>{2}),
                       "PrefetchBucket<4> holds no group of the model, the smallest has 5 "
                       "elements: give at least that",
                       sx::ConfigError);
}

TEST_CASE("a reshard that keeps nothing is refused") {
  // The last unit's group stays from its forward to its backward, and the root stays anyway.
  using Trainer = sx::Sharded<toy::Autoencoder, sx::ReshardTo<2>, sx::WrapEach<toy::Decoder>>;
  CHECK_THROWS_WITH_AS(sx::plan<Trainer>({}, 4),
                       "ReshardTo<2>: every group stays gathered from its forward to its backward, "
                       "so that nothing would be kept: leave it out",
                       sx::ConfigError);
}

TEST_CASE("a mesh that is another strategy's is refused") {
  CHECK(sx::mesh_shape<sx::StrategyOf<sx::HybridShard<2>>>(6) == sx::MeshShape{2, 3, 0});
  CHECK(sx::mesh_shape<sx::StrategyOf<sx::HybridShard<4>, sx::ReshardTo<2>>>(8) ==
        sx::MeshShape{4, 2, 2});
  const char* const hybrid =
      "a shard group of 2 ranks in a world of 2: the world must be a multiple of the group, and at "
      "least twice it; for one group use FullShard or ShardGradOp";
  CHECK_THROWS_WITH_AS((sx::mesh_shape<sx::StrategyOf<sx::HybridShard<2>>>(2)), hybrid,
                       sx::ConfigError);
  CHECK_THROWS_AS((sx::mesh_shape<sx::StrategyOf<sx::HybridShard<2>>>(5)), sx::ConfigError);
  CHECK_THROWS_AS((sx::mesh_shape<sx::StrategyOf<sx::HybridShardGradOp<4>>>(6)), sx::ConfigError);
  CHECK_THROWS_WITH_AS((sx::mesh_shape<sx::StrategyOf<sx::ReshardTo<2>>>(2)),
                       "ReshardTo<2> with 2 ranks that share one copy: it must divide them and be "
                       "less; leave it out to keep no more than a rank's part",
                       sx::ConfigError);
  CHECK_THROWS_AS((sx::mesh_shape<sx::StrategyOf<sx::ReshardTo<2>>>(5)), sx::ConfigError);
}

}  // namespace
