// SPDX-License-Identifier: Apache-2.0
// train_gpt on GPUs: the same program, compiled by nvcc, its strategies on Cuda.
#define TRAIN_GPT_CUDA 1
#include "../train_gpt/main.cpp"
