// SPDX-License-Identifier: Apache-2.0
#define TRAIN_GPT_CUDA 1
#include "../train_gpt/checkpoints.cpp"
