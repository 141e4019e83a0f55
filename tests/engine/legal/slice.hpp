// SPDX-License-Identifier: Apache-2.0
// One slice of the legal strategies: included by a program each, which defines SLICE.
#include "run.hpp"

namespace {

constexpr std::size_t every = LEGAL_EVERY;  // more than 1 where a build looks again at some

TEST_CASE("every legal strategy over one copy trains to the same bits, without a race") {
  std::size_t count = 0;
  sx::for_each_strategy<SLICE, 4 * every>(legal::OneCopy{}, [&]<class S>() {
    legal::check_strategy<S>({1, 2, 3, 4});
    ++count;
  });
  CHECK(count >= legal::OneCopy::size / (4 * every));
}

TEST_CASE("every legal hybrid strategy trains to the same bits as its kind, without a race") {
  std::size_t count = 0;
  sx::for_each_strategy<SLICE, 4 * every>(legal::Copies{}, [&]<class S>() {
    legal::check_strategy<S>({4, 6, 8});
    ++count;
  });
  CHECK(count >= legal::Copies::size / (4 * every));
}

TEST_CASE("hybrid strategies differ from the others in rounding alone") {
  const auto compare = []<class S>(std::type_identity<S>, std::size_t world) {
    using Plain = typename legal::reference<sx::StrategyOf<typename S::accumulation>>::type;
    for (const std::size_t micro_batches : {1, 2})
      legal::check_close(legal::reference_outcome<S>(world, 20, micro_batches),
                         legal::reference_outcome<Plain>(world, 20, micro_batches));
  };
  using Two = legal::reference<sx::StrategyOf<sx::HybridShard<2>>>::type;
  using Four = legal::reference<sx::StrategyOf<sx::HybridShard<4>>>::type;
  for (const std::size_t world : {4, 6, 8}) compare(std::type_identity<Two>{}, world);
  compare(std::type_identity<Four>{}, 8);
}

}  // namespace
