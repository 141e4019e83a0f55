// SPDX-License-Identifier: Apache-2.0
#include "../train_gpt/checkpoints.cpp"
