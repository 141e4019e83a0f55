// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where a run begins and what it leaves: --init, --checkpoint, --resume. Compiled apart, beside
// main.cpp (checkpoints.cpp).
#include "options.hpp"

/// Takes from --init or from the checkpoint of --resume what the run begins with: the model's
/// sizes, and how far it is. Refuses a folder that cannot be saved to, before there is anything to
/// save; and one that another run saved to.
/// Errors:  BadInput, ConfigError, IoError for what cannot be begun with.
void prepare_begin(Options& o);

/// --init: collective.
template <class Trainer>
void load_parameters(Trainer& trainer, const Options& o);
/// --resume: collective.
template <class Trainer>
void restore(Trainer& trainer, const Options& o);
/// --checkpoint: collective.
template <class Trainer>
void save(Trainer& trainer, const Options& o, const Position& position);
