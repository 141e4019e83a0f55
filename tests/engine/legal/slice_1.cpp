// SPDX-License-Identifier: Apache-2.0
#define SLICE 1
#include "slice.hpp"
