// SPDX-License-Identifier: Apache-2.0
#define SLICE 2
#include "slice.hpp"
