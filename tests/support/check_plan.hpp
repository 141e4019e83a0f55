// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/engine/core.hpp>
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
  CHECK(account.live_bytes(Purpose::transfers) == plan.transfers_bytes);
  CHECK(account.live_bytes(Purpose::other) == plan.other_bytes);
  CHECK(account.live_bytes(Purpose::parameters) + account.live_bytes(Purpose::gradients) +
            account.live_bytes(Purpose::optimizer) ==
        plan.device_resident_bytes);
  CHECK(account.peak_bytes() == plan.device_peak_bytes);
  CHECK(sent.all_gather_bytes == steps * plan.all_gather_sent_bytes);
  CHECK(sent.reduce_scatter_bytes == steps * plan.reduce_scatter_sent_bytes);
  CHECK(sent.all_reduce_bytes == steps * plan.all_reduce_sent_bytes);
  CHECK(sent.all_to_all_bytes == steps * plan.all_to_all_sent_bytes);
  CHECK(sent.total() == steps * plan.sent_bytes);
}

/// The same of what lies off the device and of what moved there, by a trainer of that plan.
template <class Device, class Trainer>
void check_places(const shardexpr::Plan& plan, Device& device, const Trainer& trainer,
                  std::size_t steps) {
  using shardexpr::Purpose;
  const shardexpr::MemoryAccount& host = device.host().account();
  CHECK(host.live_bytes(Purpose::parameters) == plan.host_parameters_bytes);
  CHECK(host.live_bytes(Purpose::gradients) == plan.host_gradients_bytes);
  CHECK(host.live_bytes(Purpose::optimizer) == plan.host_optimizer_bytes);
  CHECK(host.live_bytes(Purpose::transfers) == plan.host_transfers_bytes);
  CHECK(host.live_bytes(Purpose::other) == plan.host_other_bytes);
  CHECK(host.live_bytes(Purpose::parameters) + host.live_bytes(Purpose::gradients) +
            host.live_bytes(Purpose::optimizer) ==
        plan.host_resident_bytes);
  CHECK(host.peak_bytes() == plan.host_peak_bytes);
  CHECK(trainer.nvme_bytes() == plan.nvme_bytes);
  const shardexpr::TransferBytes moved = trainer.transfers();
  CHECK(moved.to_device_bytes == steps * plan.to_device_bytes);
  CHECK(moved.to_host_bytes == steps * plan.to_host_bytes);
  CHECK(moved.nvme_read_bytes == steps * plan.nvme_read_bytes);
  // The file is written once before the first step.
  CHECK(moved.nvme_written_bytes == plan.nvme_bytes + steps * plan.nvme_written_bytes);
}
