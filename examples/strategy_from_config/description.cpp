// SPDX-License-Identifier: Apache-2.0
#include "description.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>
#include <system_error>

namespace from_config {
namespace {

std::string listed(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : ", ") + word;
  return all;
}

/// Writes names of the library below a scope.
class Names {
 public:
  explicit Names(std::string_view scope) : scope_{scope} {}
  std::string of(std::string_view name) const { return scope_ + std::string{name}; }
  std::string count(std::string_view name, std::size_t n) const {
    const std::string number = n == unlimited ? of("unlimited") : std::to_string(n);
    return of(name) + "<" + number + ">";
  }
  std::string dtype(Dtype dtype) const { return of(dtype_names[static_cast<int>(dtype)]); }
  std::string place(const PlaceOf& place) const {
    switch (place.kind) {
      case PlaceOf::Kind::device:
        return of("OnDevice");
      case PlaceOf::Kind::host:
        return of("OnHost");
      case PlaceOf::Kind::nvme:
        return of("OnNvme");
      case PlaceOf::Kind::nvme_by:
        return count("OnNvmeBy", place.count);
      case PlaceOf::Kind::partly:
        break;
    }
    return of("Partly") + "<" + std::to_string(place.count) + ", " + std::to_string(place.of) + ">";
  }

 private:
  std::string scope_;
};

std::string sharding_of(const Description& d, const Names& name) {
  switch (d.sharding) {
    case Sharding::full:
      return name.of("FullShard");
    case Sharding::grad_op:
      return name.of("ShardGradOp");
    case Sharding::optimizer:
      return name.of("ShardOptimizer");
    case Sharding::none:
      return name.of("NoShard");
    case Sharding::hybrid:
      return name.count("HybridShard", d.group);
    case Sharding::hybrid_grad_op:
      break;
  }
  return name.count("HybridShardGradOp", d.group);
}

std::string offload_of(const Description& d, const Names& name) {
  const PlaceOf host{PlaceOf::Kind::host};
  if (d.parameters == PlaceOf{} && d.optimizer_state == PlaceOf{}) return {};
  if (d.parameters == host && d.optimizer_state == host) return name.of("OffloadAll");
  return name.of("Offload") + "<" + name.place(d.parameters) + ", " +
         name.place(d.optimizer_state) + ">";
}

std::string precision_of(const PrecisionOf& p, const Names& name) {
  if (p == PrecisionOf{}) return name.of("FullPrecision");
  const bool is_mixed =
      p.storage == Dtype::fp32 && p.optimizer == Dtype::fp32 && p.buffers == p.storage;
  std::vector<std::string> dtypes{name.dtype(p.compute), name.dtype(p.reduce)};
  if (is_mixed) return name.of("MixedPrecision") + "<" + listed(dtypes) + ">";
  dtypes.insert(dtypes.begin(), name.dtype(p.storage));
  dtypes.push_back(name.dtype(p.optimizer));
  if (p.buffers != p.storage) dtypes.push_back(name.dtype(p.buffers));
  return name.of("Precision") + "<" + listed(dtypes) + ">";
}

std::string wrap_of(const Description& d, const Names& name) {
  if (d.wrap == Wrap::whole) return name.of("WrapWhole");
  if (d.wrap == Wrap::by_size) return name.count("WrapBySize", d.wrap_least);
  if (d.wrapped.empty()) return {};
  return name.of("WrapEach") + "<" + listed(d.wrapped) + ">";
}

}  // namespace

std::vector<PolicyText> policies_of(const Description& d, std::string_view scope) {
  const Names name{scope};
  const auto unless = [](bool is_default, const std::string& text) {
    return is_default ? std::string{} : text;
  };
  const std::string backward = d.backward == GatherAhead::before  ? "BackwardPre"
                               : d.backward == GatherAhead::after ? "BackwardPost"
                                                                  : "BackwardNone";
  return {
      {"sharding", sharding_of(d, name)},
      {"reshard", unless(d.reshard == 0, name.count("ReshardTo", d.reshard))},
      {"offload", offload_of(d, name)},
      {"backward prefetch", unless(d.backward == d.standard_backward(), name.of(backward))},
      {"forward prefetch",
       unless(d.forward == d.standard_forward(),
              d.forward == 0 ? name.of("ForwardNone") : name.count("ForwardPrefetch", d.forward))},
      {"persistence", unless(d.persist_below == 0, name.count("PersistBelow", d.persist_below))},
      {"live limit", unless(d.max_live == unlimited, name.count("MaxLive", d.max_live))},
      {"prefetch limit",
       unless(d.prefetch_bucket == unlimited, name.count("PrefetchBucket", d.prefetch_bucket))},
      {"reuse", unless(d.reuse_within == 0, name.count("ReuseWithin", d.reuse_within))},
      {"gather limit",
       unless(d.limit_gathers == unlimited, name.count("LimitGathers", d.limit_gathers))},
      {"wrap", wrap_of(d, name)},
      {"accumulation", unless(!d.reduces_at_end, name.of("ReduceAtEnd"))},
      {"clipping", unless(d.clipping == Clipping::none,
                          name.of(d.clipping == Clipping::norm ? "ClipNorm" : "ClipValue"))},
      {"recompute", unless(!d.recomputes, name.of("Recompute") + "<" + listed(d.recomputed) + ">")},
      {"optimizer", name.of(optimizer_names[static_cast<int>(d.optimizer)])},
      {"precision", precision_of(d.precision, name)},
      {"loss scale",
       unless(d.loss_scale == LossScale::none,
              name.of(d.loss_scale == LossScale::fixed ? "StaticLossScale" : "DynamicLossScale"))},
      {"rounding", unless(!d.rounds_stochastically, name.of("RoundStochastic"))},
      {"weight compression", unless(!d.quantizes_weights, name.of("QuantizedWeights"))},
      {"gradient compression", unless(!d.quantizes_gradients, name.of("QuantizedGradients"))},
  };
}

std::string pack_of(const Description& d, std::string_view scope) {
  std::vector<std::string> all;
  for (PolicyText& each : policies_of(d, scope))
    if (!each.policy.empty()) all.push_back(std::move(each.policy));
  return listed(all);
}

std::vector<Difference> differences(const Description& wanted, const Description& got) {
  const auto spelled = [](const Description& d) {
    // Prefetch by name even where it is the default: that depends on what else differs.
    std::vector<PolicyText> all = policies_of(d);
    for (PolicyText& each : all) {
      if (each.axis == "backward prefetch" && each.policy.empty())
        each.policy = d.backward == GatherAhead::before ? "BackwardPre" : "BackwardNone";
      if (each.axis == "forward prefetch" && each.policy.empty())
        each.policy = d.forward == 0 ? "ForwardNone" : "ForwardPrefetch<unlimited>";
      if (each.policy.empty()) each.policy = "none";
    }
    return all;
  };
  const std::vector<PolicyText> a = spelled(wanted), b = spelled(got);
  std::vector<Difference> all;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i].policy != b[i].policy) all.push_back({a[i].axis, a[i].policy, b[i].policy});
  return all;
}

namespace {

/// A name with its arguments, `Offload<OnDevice, OnNvmeBy<32768>>`.
struct Term {
  std::string name;
  std::vector<Term> arguments;
  bool has_list = false;  // <...>, be it empty
};

[[noreturn]] void bad(const std::string& what) { throw BadPolicies(what); }

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_{text} {}

  std::vector<Term> list(bool is_inner) {
    std::vector<Term> all;
    space();
    if (is_inner && rest_.starts_with('>')) return all;
    while (true) {
      all.push_back(term());
      space();
      if (!rest_.starts_with(',')) return all;
      rest_.remove_prefix(1);
    }
  }
  void end() {
    space();
    if (!rest_.empty()) bad("'" + std::string{rest_.substr(0, 20)} + "': expected a comma");
  }

 private:
  void space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n"), rest_.size())); }
  Term term() {
    if (++depth_ > 8) bad("policies nest deeper than any does");
    space();
    const auto is_part = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '_' || c == ':';
    };
    const std::size_t length = static_cast<std::size_t>(
        std::find_if_not(rest_.begin(), rest_.end(), is_part) - rest_.begin());
    if (length == 0)
      bad(rest_.empty() ? "the list of policies ends too soon"
                        : "'" + std::string{rest_.substr(0, 20)} + "': expected a policy");
    Term term{std::string{rest_.substr(0, length)}, {}, false};
    rest_.remove_prefix(length);
    space();
    if (rest_.starts_with('<')) {
      rest_.remove_prefix(1);
      term.has_list = true;
      term.arguments = list(true);
      space();
      if (!rest_.starts_with('>')) bad(term.name + "<...: expected '>'");
      rest_.remove_prefix(1);
    }
    --depth_;
    return term;
  }

  std::string_view rest_;
  int depth_ = 0;
};

/// A name of the library without its scope.
std::string bare(const std::string& name) {
  for (const char* scope : {"::shardexpr::", "shardexpr::", "sx::"})
    if (name.starts_with(scope)) return name.substr(std::string_view{scope}.size());
  return name;
}

std::size_t number_of(const Term& policy, std::size_t i) {
  const std::string text = bare(policy.arguments[i].name);
  if (text == "unlimited") return unlimited;
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    bad(bare(policy.name) + " takes a whole number, got '" + text + "'");
  return value;
}
Dtype dtype_of(const Term& term) {
  for (std::size_t i = 0; i < std::size(dtype_names); ++i)
    if (bare(term.name) == dtype_names[i]) return static_cast<Dtype>(i);
  bad("'" + bare(term.name) + "' is none of fp32, bf16 and fp16");
}
PlaceOf place_of(const Term& term) {
  const std::string name = bare(term.name);
  const auto takes = [&](std::size_t count) {
    if (term.arguments.size() != count)
      bad(name + " takes " + std::to_string(count) + " arguments");
  };
  if (name == "OnNvmeBy") {
    takes(1);
    return {PlaceOf::Kind::nvme_by, number_of(term, 0), 0};
  }
  if (name == "Partly") {
    takes(2);
    return {PlaceOf::Kind::partly, number_of(term, 0), number_of(term, 1)};
  }
  takes(0);
  if (name == "OnDevice") return {};
  if (name == "OnHost") return {PlaceOf::Kind::host};
  if (name == "OnNvme") return {PlaceOf::Kind::nvme};
  bad("'" + name + "' is no place of state");
}
std::vector<std::string> units_of(const Term& term) {
  std::vector<std::string> all;
  for (const Term& unit : term.arguments) all.push_back(bare(unit.name));
  return all;
}

/// Puts one policy into a description; returns its axis.
std::string take(const Term& term, Description& d) {
  const std::string name = bare(term.name);
  const std::size_t given = term.arguments.size();
  const auto takes = [&](std::size_t count) {
    if (given != count)
      bad(name + " takes " + std::to_string(count) + (count == 1 ? " argument" : " arguments") +
          ", got " + std::to_string(given));
  };
  const auto is = [&](const char* policy, std::size_t count = 0) {
    if (name != policy) return false;
    takes(count);
    return true;
  };
  const auto number = [&] { return number_of(term, 0); };

  if (is("FullShard")) return d.sharding = Sharding::full, "sharding";
  if (is("ShardGradOp")) return d.sharding = Sharding::grad_op, "sharding";
  if (is("ShardOptimizer")) return d.sharding = Sharding::optimizer, "sharding";
  if (is("NoShard")) return d.sharding = Sharding::none, "sharding";
  if (is("HybridShard", 1)) return d.sharding = Sharding::hybrid, d.group = number(), "sharding";
  if (is("HybridShardGradOp", 1))
    return d.sharding = Sharding::hybrid_grad_op, d.group = number(), "sharding";
  if (is("ReshardToShard")) return "reshard";
  if (is("ReshardTo", 1)) return d.reshard = number(), "reshard";
  if (is("OffloadNone")) return "offload";
  if (is("OffloadAll")) {
    d.parameters = d.optimizer_state = {PlaceOf::Kind::host};
    return "offload";
  }
  if (is("Offload", 2)) {
    d.parameters = place_of(term.arguments[0]);
    d.optimizer_state = place_of(term.arguments[1]);
    return "offload";
  }
  if (is("BackwardPre")) return d.backward = GatherAhead::before, "backward prefetch";
  if (is("BackwardPost")) return d.backward = GatherAhead::after, "backward prefetch";
  if (is("BackwardNone")) return d.backward = GatherAhead::never, "backward prefetch";
  if (is("ForwardNone")) return d.forward = 0, "forward prefetch";
  if (is("ForwardPrefetch", 1)) return d.forward = number(), "forward prefetch";
  if (is("PersistBelow", 1)) return d.persist_below = number(), "persistence";
  if (is("MaxLive", 1)) return d.max_live = number(), "live limit";
  if (is("PrefetchBucket", 1)) return d.prefetch_bucket = number(), "prefetch limit";
  if (is("ReuseWithin", 1)) return d.reuse_within = number(), "reuse";
  if (is("LimitGathers", 1)) return d.limit_gathers = number(), "gather limit";
  if (name == "WrapEach") return d.wrap = Wrap::each, d.wrapped = units_of(term), "wrap";
  if (is("WrapBySize", 1)) return d.wrap = Wrap::by_size, d.wrap_least = number(), "wrap";
  if (is("WrapWhole")) return d.wrap = Wrap::whole, "wrap";
  if (is("ReduceEveryMicroBatch")) return "accumulation";
  if (is("ReduceAtEnd")) return d.reduces_at_end = true, "accumulation";
  if (is("ClipNone")) return "clipping";
  if (is("ClipNorm")) return d.clipping = Clipping::norm, "clipping";
  if (is("ClipValue")) return d.clipping = Clipping::value, "clipping";
  if (is("RecomputeNone")) return "recompute";
  if (name == "Recompute") return d.recomputes = true, d.recomputed = units_of(term), "recompute";
  for (std::size_t i = 0; i < std::size(optimizer_names); ++i)
    if (is(optimizer_names[i])) return d.optimizer = static_cast<Optimizer>(i), "optimizer";
  if (is("FullPrecision")) return "precision";
  if (is("MixedPrecision", 2)) {
    d.precision.compute = dtype_of(term.arguments[0]);
    d.precision.reduce = dtype_of(term.arguments[1]);
    return "precision";
  }
  if (name == "Precision") {
    if (given != 5) takes(4);
    d.precision = {dtype_of(term.arguments[0]), dtype_of(term.arguments[1]),
                   dtype_of(term.arguments[2]), dtype_of(term.arguments[3]),
                   dtype_of(term.arguments[given == 5 ? 4 : 0])};
    return "precision";
  }
  if (is("LossScaleNone")) return "loss scale";
  if (is("StaticLossScale")) return d.loss_scale = LossScale::fixed, "loss scale";
  if (is("DynamicLossScale")) return d.loss_scale = LossScale::dynamic, "loss scale";
  if (is("RoundNearest")) return "rounding";
  if (is("RoundStochastic")) return d.rounds_stochastically = true, "rounding";
  if (is("WeightsUnquantized")) return "weight compression";
  if (is("QuantizedWeights")) return d.quantizes_weights = true, "weight compression";
  if (is("GradientsUnquantized")) return "gradient compression";
  if (is("QuantizedGradients")) return d.quantizes_gradients = true, "gradient compression";
  bad("'" + name + "' is none of the library's policies that a file can speak of");
}

}  // namespace

Description parse_policies(std::string_view text) {
  Parser parser{text};
  std::vector<Term> terms;
  if (text.find_first_not_of(" \t\n") != text.npos) terms = parser.list(false);
  parser.end();
  Description d;
  std::vector<std::string> axes;
  for (const Term& term : terms) {
    const std::string axis = take(term, d);
    if (std::find(axes.begin(), axes.end(), axis) != axes.end())
      bad("two policies of " + axis + "; keep one");
    axes.push_back(axis);
  }
  const auto is_given = [&](const char* axis) {
    return std::find(axes.begin(), axes.end(), axis) != axes.end();
  };
  if (!is_given("backward prefetch")) d.backward = d.standard_backward();
  if (!is_given("forward prefetch")) d.forward = d.standard_forward();
  return d;
}

}  // namespace from_config
