// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/checkpoint/fill_state.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_elements.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/engine/initial_state.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

/// What a stored tensor is to a model.
struct StoredAs {
  /// One of three.
  enum class What {
    parameter,  ///< of that name
    copy,       ///< the same values as the parameter of that name; checked
    nothing     ///< something that the model makes anew, a mask, say
  };
  What what = What::parameter;
  std::string name{};
};

/// Names in the file are the model's.
struct SameNames {
  StoredAs operator()(std::string_view stored) const {
    return {StoredAs::What::parameter, std::string{stored}};
  }
};

namespace detail {

/// The tensors of a stored model, by the names of its parameters.
template <class System>
class StoredModel {
 public:
  /// Errors:  ConfigError for what is not the model that `layout` describes: the tensor, and why.
  template <class M, class Names>
  StoredModel(const std::string& path, const Layout<M>& layout, const Names& names)
      : path_{path}, set_{path} {
    std::vector<std::pair<PlacedTensor, std::string>> copies;
    for (const PlacedTensor& placed : set_.tensors()) {
      StoredAs as = names(std::string_view{placed.tensor->name});
      if (as.what == StoredAs::What::copy) copies.emplace_back(placed, std::move(as.name));
      if (as.what != StoredAs::What::parameter) continue;
      if (!parameters_.emplace(std::move(as.name), placed).second)
        refuse(placed, "another tensor is the same parameter");
    }
    std::size_t found = 0;
    const std::vector<OwnParameter> own = own_parameters(layout);
    for (const auto& [parameter, name] : own) {
      const auto at = parameters_.find(name);
      if (at == parameters_.end())
        throw ConfigError(path_ + " has no tensor for the parameter " + shown(name) +
                          "; is it of another model?");
      check(at->second, name, parameter->spec.shape);
      ++found;
    }
    if (found != parameters_.size())
      for (const auto& [name, placed] : parameters_) check_known(own, name, placed);
    for (const auto& [placed, name] : copies) check_copy(placed, name);
  }

  template <class T>
  void read(const std::string& name, std::uint64_t first, std::span<T> to) const {
    const PlacedTensor& placed = parameters_.find(name)->second;
    read_elements(
        placed.tensor->dtype.name, first, to,
        [&](std::uint64_t byte, std::span<std::byte> bytes) { set_.read(placed, byte, bytes); });
  }

 private:
  [[noreturn]] void refuse(const PlacedTensor& placed, const std::string& why) const {
    throw ConfigError(set_.files()[placed.file].path() + ", tensor " + shown(placed.tensor->name) +
                      ": " + why);
  }
  void check(const PlacedTensor& placed, const std::string& name, const Shape& shape) const {
    const std::vector<std::uint64_t>& stored = placed.tensor->shape;
    const auto text = [](const auto& extents, std::size_t rank) {
      std::string all = "(";
      for (std::size_t i = 0; i < rank; ++i)
        all += (i == 0 ? "" : ", ") + std::to_string(extents[i]);
      return all + ")";
    };
    bool fits = stored.size() == shape.rank;
    for (std::size_t i = 0; fits && i < shape.rank; ++i) fits = stored[i] == shape[i];
    if (!fits)
      refuse(placed, "it has the shape " + text(stored, stored.size()) + ", the parameter " +
                         shown(name) + " has " + text(shape, shape.rank));
    if (!is_trained_dtype(placed.tensor->dtype.name))
      refuse(placed, "its dtype is " + std::string{placed.tensor->dtype.name} +
                         "; a model is read from F32, BF16 or F16");
  }
  void check_known(const std::vector<OwnParameter>& own, const std::string& name,
                   const PlacedTensor& placed) const {
    const bool is_known =
        std::any_of(own.begin(), own.end(), [&](const auto& known) { return known.name == name; });
    if (!is_known) refuse(placed, "the model has no such parameter");
  }
  /// Cost:  reads both once, 64 KiB at a time.
  void check_copy(const PlacedTensor& placed, const std::string& name) const {
    const auto at = parameters_.find(name);
    const auto differs = [&](const std::string& how) {
      refuse(placed, how + " " + shown(name) + ", which the model has in its place");
    };
    if (at == parameters_.end()) refuse(placed, "there is no " + shown(name) + ", its original");
    const StoredTensor &a = *placed.tensor, &b = *at->second.tensor;
    if (a.dtype != b.dtype || a.shape != b.shape) differs("its dtype or shape is not that of");
    std::vector<std::byte> one(65536), other(65536);
    for (std::uint64_t byte = 0; byte < a.size_bytes(); byte += one.size()) {
      const auto count =
          static_cast<std::size_t>(std::min<std::uint64_t>(one.size(), a.size_bytes() - byte));
      set_.read(placed, byte, std::span{one}.first(count));
      set_.read(at->second, byte, std::span{other}.first(count));
      if (std::memcmp(one.data(), other.data(), count) != 0) differs("its values are not those of");
    }
  }

  std::string path_;
  SafetensorsSet<System> set_;
  std::map<std::string, PlacedTensor> parameters_;
};

}  // namespace detail

/// Gives a trainer the parameters of a stored model; training begins anew with them: moments are
/// zero and so is the step. Buffers stay as they are. `path`: a safetensors file, an index, or a
/// directory with either, as SafetensorsSet. Values are rounded to the dtype in which parameters
/// are updated.
///
/// `from`:  LoadOnEachRank, where every rank sees the files; LoadOnRank0, where it alone does.
/// `names`: what a stored tensor is, `StoredAs operator()(std::string_view) const`.
///
/// Order:   collective.
/// Errors:  ConfigError for a tensor that is missing, that the model does not have, or of another
///          shape or dtype: which; FormatError if a file breaks a rule of its format; IoError where
///          the disk fails. On every rank. If it threw while it read, the trainer is of no further
///          use.
/// Cost:    each rank reads what it keeps, once; with LoadOnRank0 as load_checkpoint. No rank holds
///          the model.
template <class System = detail::LinuxSystem, class Trainer, class From = LoadOnEachRank,
          class Names = SameNames>
void load_model(Trainer& trainer, const std::string& path, From from = {}, Names names = {}) {
  using namespace detail;
  constexpr const char* doing = "load_model";
  TrainerAccess::check_idle(trainer, doing);
  auto& core = TrainerAccess::core(trainer);
  const bool reads = std::is_same_v<From, LoadOnEachRank> || core.mesh.world().rank() == 0;
  std::optional<StoredModel<System>> model;
  agree(core, doing, [&] {
    if (reads) model.emplace(path, core.layout, names);
  });
  fill_state(core, from, doing,
             [&]<class T>(std::size_t kind, const std::string& name, std::size_t first,
                          std::span<T> values) {
               if (kind == StateStretch::parameter)
                 model->read(name, first, values);
               else
                 std::fill(values.begin(), values.end(), T{});
             });
  refresh_parameters(core);
  TrainerAccess::set_steps(trainer, 0);
}

}  // namespace shardexpr
