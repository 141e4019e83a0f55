// SPDX-License-Identifier: Apache-2.0
#pragma once
// The whole library. Needs a C++20 compiler, threads and Eigen (nn/ on the CPU). What watches a run
// has headers of its own: comm/delayed.hpp, device/checked.hpp, device/traced.hpp,
// device/trace_json.hpp.

#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/engine/sync_from_rank0.hpp>
#include <shardexpr/engine/trainer_name.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/model/unit.hpp>
#include <shardexpr/nn/cpu/blas.hpp>
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/policy/combinations.hpp>
#include <shardexpr/policy/deepspeed.hpp>
#include <shardexpr/policy/fsdp.hpp>
#include <shardexpr/policy/strategy.hpp>
