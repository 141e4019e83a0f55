// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/plan/plan.hpp>

#include <cstddef>

#include <doctest/doctest.h>

/// A plan's numbers are those of a run of as many steps, to the byte.
inline void check_plan(const shardexpr::Plan& plan, const shardexpr::MemoryAccount& account,
                       const shardexpr::Traffic& sent, std::size_t steps) {
  using shardexpr::Purpose;
  CHECK(account.live_bytes(Purpose::parameters) == plan.parameters_bytes);
  CHECK(account.live_bytes(Purpose::gradients) == plan.gradients_bytes);
  CHECK(account.live_bytes(Purpose::optimizer) == plan.optimizer_bytes);
  CHECK(account.live_bytes(Purpose::gathered) == plan.gathered_bytes);
  CHECK(account.live_bytes(Purpose::resharded) == plan.resharded_bytes);
  CHECK(account.live_bytes(Purpose::full_gradients) == plan.full_gradients_bytes);
  CHECK(account.live_bytes(Purpose::activations) == plan.activations_bytes);
  CHECK(account.live_bytes(Purpose::other) == plan.other_bytes);
  CHECK(account.live_bytes(Purpose::parameters) + account.live_bytes(Purpose::gradients) +
            account.live_bytes(Purpose::optimizer) ==
        plan.device_resident_bytes);
  CHECK(account.peak_bytes() == plan.device_peak_bytes);
  CHECK(sent.all_gather_bytes == steps * plan.all_gather_sent_bytes);
  CHECK(sent.reduce_scatter_bytes == steps * plan.reduce_scatter_sent_bytes);
  CHECK(sent.all_reduce_bytes == steps * plan.all_reduce_sent_bytes);
  CHECK(sent.total() == steps * plan.sent_bytes);
}
