// SPDX-License-Identifier: Apache-2.0
#pragma once
// A strategy as data: what a file is judged to say, before it is written as a type.
#include <cstddef>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace from_config {

/// No bound; shardexpr::unlimited.
inline constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

enum class Dtype { fp32, bf16, fp16 };
/// Names of the library, in the order of the enumerators.
inline constexpr const char* dtype_names[] = {"fp32", "bf16", "fp16"};

enum class Sharding { full, grad_op, optimizer, none, hybrid, hybrid_grad_op };
enum class Clipping { none, norm, value };
enum class LossScale { none, fixed, dynamic };
enum class Optimizer { adamw, adam, sgd, sgd_momentum, lion, adagrad };
inline constexpr const char* optimizer_names[] = {"AdamW",       "Adam", "Sgd",
                                                  "SgdMomentum", "Lion", "Adagrad"};
enum class GatherAhead { never, before, after };
enum class Wrap { each, by_size, whole };

/// A place of state: OnDevice, OnHost, OnNvme, OnNvmeBy<count>, Partly<count, of>.
struct PlaceOf {
  enum class Kind { device, host, nvme, nvme_by, partly };
  Kind kind = Kind::device;
  std::size_t count = 0, of = 0;
  bool operator==(const PlaceOf&) const = default;
};

struct PrecisionOf {
  Dtype storage = Dtype::fp32, compute = Dtype::fp32, reduce = Dtype::fp32, optimizer = Dtype::fp32,
        buffers = Dtype::fp32;
  bool operator==(const PrecisionOf&) const = default;
};

/// A strategy in normal form: each axis has a value, the default where nobody gave one. Device and
/// communicator are left to the library: a file says nothing about them.
struct Description {
  Sharding sharding = Sharding::full;
  std::size_t group = 0;    ///< ranks of a hybrid strategy's shard group
  std::size_t reshard = 0;  ///< ReshardTo<reshard>; 0: to the shards
  PlaceOf parameters, optimizer_state;
  GatherAhead backward = GatherAhead::before;
  std::size_t forward = 0;  ///< ForwardPrefetch<forward>; 0: none
  std::size_t persist_below = 0, reuse_within = 0;
  std::size_t max_live = unlimited, prefetch_bucket = unlimited, limit_gathers = unlimited;
  Wrap wrap = Wrap::each;
  std::vector<std::string> wrapped;  ///< the types that WrapEach names
  std::size_t wrap_least = 0;
  bool reduces_at_end = false;
  Clipping clipping = Clipping::none;
  bool recomputes = false;
  std::vector<std::string> recomputed;  ///< the types that Recompute names
  Optimizer optimizer = Optimizer::adamw;
  PrecisionOf precision;
  LossScale loss_scale = LossScale::none;
  bool rounds_stochastically = false, quantizes_weights = false, quantizes_gradients = false;

  bool operator==(const Description&) const = default;

  bool shards_parameters() const {
    return sharding == Sharding::full || sharding == Sharding::hybrid;
  }
  bool is_hybrid() const {
    return sharding == Sharding::hybrid || sharding == Sharding::hybrid_grad_op;
  }
  /// Groups are gathered and released in the course of a step.
  bool gathers_in_turn() const { return shards_parameters() && wrap != Wrap::whole; }
  // Defaults that depend on the other axes (policy/prefetch.hpp).
  GatherAhead standard_backward() const {
    return gathers_in_turn() ? GatherAhead::before : GatherAhead::never;
  }
  std::size_t standard_forward() const {
    return gathers_in_turn() && prefetch_bucket != unlimited ? unlimited : 0;
  }
};

/// Policies as text that make no description: one line.
struct BadPolicies : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An axis and its policy, as C++; `policy` is empty where it is the default.
struct PolicyText {
  std::string axis, policy;
};
/// The policies of a description, an entry an axis, in the order of the library's axes. Names of
/// the library have `scope` before them.
std::vector<PolicyText> policies_of(const Description& d, std::string_view scope = "");
/// The pack as C++: sharding, optimizer and precision always, of the others what is no default.
/// "FullShard, OffloadAll, AdamW, MixedPrecision<bf16, fp32>"
std::string pack_of(const Description& d, std::string_view scope = "");
/// The description of a pack as C++; `shardexpr::` and `sx::` may stand before names.
/// Errors:  BadPolicies for what is none of the library's policies, or two on one axis. Rules of
///          combinations are the compiler's.
Description parse_policies(std::string_view text);

/// What differs between two descriptions: axis, the policy of one, the policy of the other.
struct Difference {
  std::string axis, wanted, got;
};
std::vector<Difference> differences(const Description& wanted, const Description& got);

}  // namespace from_config
