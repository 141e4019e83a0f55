// SPDX-License-Identifier: Apache-2.0
#include "conformance.hpp"

#include "watchdog.hpp"
#include "worlds.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {

TEST_CASE_TEMPLATE("conformance", World, SoloWorld, ThreadsWorld<1>, ThreadsWorld<2>,
                   ThreadsWorld<3>, ThreadsWorld<4>, ThreadsWorld<7>, DelayedWorld<1>,
                   DelayedWorld<4>) {
  Watchdog watchdog{"conformance", std::chrono::seconds{300}};
  conformance<World>();
}

}  // namespace shardexpr::testing
