// SPDX-License-Identifier: Apache-2.0
#pragma once
// The updates of every optimizer policy of ours.

#include <shardexpr/optim/adagrad.hpp>
#include <shardexpr/optim/adam.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/lion.hpp>
#include <shardexpr/optim/sgd.hpp>
#include <shardexpr/optim/sgd_momentum.hpp>
