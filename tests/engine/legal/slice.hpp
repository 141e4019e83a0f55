// SPDX-License-Identifier: Apache-2.0
// One slice of the legal strategies: included by a program each, which defines SLICE.
#include "run.hpp"

namespace {

#ifdef LEGAL_EVERY  // a build that looks again at some of them
constexpr std::size_t every = LEGAL_EVERY;
#else
constexpr std::size_t every = 1;
#endif

TEST_CASE("every legal strategy over one copy trains to the same bits, without a race") {
  std::size_t count = 0;
  legal::for_each<SLICE, 4 * every>(legal::OneCopy{}, [&]<class S>() {
    legal::check_strategy<S>({1, 2, 3, 4});
    ++count;
  });
  CHECK(count >= legal::size<legal::OneCopy> / (4 * every));
}

TEST_CASE("every legal hybrid strategy trains to the same bits as its kind, without a race") {
  std::size_t count = 0;
  legal::for_each<SLICE, 4 * every>(legal::Copies{}, [&]<class S>() {
    legal::check_strategy<S>({4, 6, 8});
    ++count;
  });
  CHECK(count >= legal::size<legal::Copies> / (4 * every));
}

}  // namespace
