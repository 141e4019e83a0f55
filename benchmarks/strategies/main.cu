// SPDX-License-Identifier: Apache-2.0
#define STRATEGIES_OVER_NCCL 1
#include "main.cpp"
