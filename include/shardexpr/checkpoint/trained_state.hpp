// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/safetensors_header.hpp>
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/engine/kept_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/engine/trainer_name.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

// How a trainer's state is called in a checkpoint.
namespace shardexpr::detail {

/// "parameter@0/NAME", "moment1@640/NAME": the kind, and which element of the parameter is first.
inline std::string stored_name(const StateStretch& stretch) {
  const std::string kind = stretch.kind == StateStretch::parameter
                               ? "parameter"
                               : "moment" + std::to_string(stretch.kind - 1);
  return kind + "@" + std::to_string(stretch.first) + "/" + *stretch.name;
}
inline std::string buffer_name(const std::string& name) { return "buffer@0/" + name; }

/// What a name like that means.
struct StoredPiece {
  static constexpr std::size_t buffer = static_cast<std::size_t>(-1);

  std::size_t kind = 0;  // as StateStretch's, or `buffer`
  std::string_view name;
  std::uint64_t first = 0;
  bool is_valid = false;

  explicit StoredPiece(std::string_view stored) {
    const std::size_t at = stored.find('@'), slash = stored.find('/', at);
    if (at == std::string_view::npos || slash == std::string_view::npos) return;
    std::string_view what = stored.substr(0, at);
    name = stored.substr(slash + 1);
    is_valid = number(stored.substr(at + 1, slash - at - 1), first);
    if (what == "buffer") {
      kind = buffer;
    } else if (what != "parameter") {
      std::uint64_t moment = 0;
      is_valid = is_valid && what.starts_with("moment") && number(what.substr(6), moment);
      kind = static_cast<std::size_t>(moment) + 1;
    }
  }

 private:
  static bool number(std::string_view digits, std::uint64_t& to) {
    if (digits.empty() || digits.size() > 18) return false;
    for (const char c : digits) {
      if (c < '0' || c > '9') return false;
      to = 10 * to + static_cast<std::uint64_t>(c - '0');
    }
    return true;
  }
};

inline std::size_t place_of(const SafetensorsHeader& header, const std::string& name) {
  return static_cast<std::size_t>(header.find(name) - header.tensors.data());
}

/// Where in a file a parameter's stretch of each kind goes. Stretches of one `KeptState` have their
/// names in the same places.
class StretchPlaces {
 public:
  void add(const StateStretch& whole, std::size_t place) {
    places_[{whole.name, whole.kind}] = {place, whole.first};
  }
  /// Calls `put(place, element)`: which tensor it is a part of, and where in it it begins.
  template <class Put>
  void find(const StateStretch& stretch, Put put) const {
    const auto& [place, first] = places_.at({stretch.name, stretch.kind});
    put(place, stretch.first - first);
  }

 private:
  std::map<std::pair<const std::string*, std::size_t>, std::pair<std::size_t, std::size_t>> places_;
};

inline std::string part_name(std::size_t rank, std::size_t parts) {
  const auto digits = [](std::size_t n) {
    const std::string text = std::to_string(n);
    return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
  };
  return "state-" + digits(rank) + "-of-" + digits(parts) + ".safetensors";
}

/// What ranks tell of their parts.
struct PartSums {
  std::uint64_t bytes = 0, sums_bytes = 0;
  std::uint32_t sums_crc = 0;

  PartSums() = default;
  explicit PartSums(const FileRecord& file)
      : bytes{file.bytes}, sums_bytes{file.sums_bytes}, sums_crc{file.sums_crc} {}
  FileRecord record(std::string name) const {
    return {std::move(name), "pieces", bytes, sums_bytes, sums_crc};
  }
};

/// The bytes of something plain, and back.
template <class T>
OpaqueValue opaque(std::string name, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>,
                "a checkpoint keeps options and the loss scale's state as bytes: make them plain");
  OpaqueValue kept{std::move(name), std::string{type_name<T>()}, {}};
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  for (const unsigned char byte : bytes) append_hex(kept.bytes, byte, 2);
  return kept;
}
/// Whether it was of this type.
template <class T>
bool restore(const OpaqueValue* kept, T& value) {
  if (kept == nullptr || kept->type != type_name<T>() || kept->bytes.size() != 2 * sizeof(T))
    return false;
  unsigned char bytes[sizeof(T)];
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    unsigned byte = 0;
    for (const char c : {kept->bytes[2 * i], kept->bytes[2 * i + 1]}) {
      const std::size_t digit = std::string_view{"0123456789abcdef"}.find(c);
      if (digit == std::string_view::npos) return false;
      byte = byte * 16 + static_cast<unsigned>(digit);
    }
    bytes[i] = static_cast<unsigned char>(byte);
  }
  std::memcpy(static_cast<void*>(&value), bytes, sizeof(T));
  return true;
}

// Apart from what they are of, which depends on the strategy: these depend on the model alone.
template <class M>
void append_offsets(const Layout<M>& layout, std::string& text) {
  text += " parameters";
  for (const OwnParameter& own : own_parameters(layout))
    text += ' ' + std::to_string(own.layout->flat) + ':' + std::to_string(own.layout->offset);
}

/// Where everything lies on the ranks: what must be the same to load a LocalState.
template <class Trainer>
std::string layout_text(Trainer& trainer) {
  using P = typename Trainer::Strategy::precision;
  auto& core = TrainerAccess::core(trainer);
  std::string text = "shards " + std::to_string(core.mesh.shape().shards) + ", dtypes ";
  text += stored_dtype_name<typename P::storage>;
  text += ' ';
  text += stored_dtype_name<typename P::compute>;
  text += ' ';
  text += stored_dtype_name<typename P::optimizer>;
  text += "; flats";
  for (std::size_t f = 0; f < core.layout.flat_count(); ++f) {
    const KeptFlat& kept = core.state.kept(f);
    const std::size_t numbers[] = {core.layout.flat(f).padded, core.layout.flat(f).part,
                                   kept.parameters, kept.updated};
    for (const std::size_t number : numbers) text += ' ' + std::to_string(number);
    text += core.layout.flat(f).is_trainable ? ';' : 'f';
  }
  append_offsets(core.layout, text);
  return text;
}

/// The model's parameters, and in which dtype each is kept.
template <class M>
std::vector<Manifest::Parameter> described_parameters(const Layout<M>& layout,
                                                      std::string_view trained_dtype,
                                                      std::string_view frozen_dtype) {
  std::vector<Manifest::Parameter> all;
  for (const auto& [parameter, name] : own_parameters(layout)) {
    const bool is_trained = layout.flat(parameter->flat).is_trainable;
    Manifest::Parameter described{name, std::string{is_trained ? trained_dtype : frozen_dtype}, {}};
    for (std::size_t i = 0; i < parameter->spec.shape.rank; ++i)
      described.shape.push_back(parameter->spec.shape[i]);
    all.push_back(std::move(described));
  }
  return all;
}

/// All but the files. `is_local`: of a LocalState.
template <class Trainer>
Manifest manifest_of(Trainer& trainer, bool is_local, const std::string& cursor) {
  using S = typename Trainer::Strategy;
  using P = typename S::precision;
  static_assert(S::optimizer::moments <= Manifest::most_moments,
                "an optimizer of more moments could be saved, and not loaded");
  Manifest manifest;
  manifest.kind = is_local ? "local" : "sharded";
  if (is_local) manifest.layout = layout_text(trainer);
  manifest.strategy = trainer_name<Trainer>();
  manifest.step = trainer.steps();
  manifest.world = TrainerAccess::core(trainer).mesh.world().size();
  manifest.seed = trainer.options().seed;
  manifest.moments = S::optimizer::moments;
  manifest.moment_dtype = stored_dtype_name<typename P::optimizer>;
  manifest.cursor = cursor;
  manifest.values.push_back(opaque("optimizer", trainer.options().optimizer));
  manifest.values.push_back(opaque("schedule", trainer.options().schedule));
  manifest.values.push_back(opaque("groups", trainer.options().groups));
  manifest.values.push_back(opaque("loss_scale", TrainerAccess::scaler(trainer)));
  manifest.parameters =
      described_parameters(trainer.layout(), stored_dtype_name<typename P::storage>,
                           stored_dtype_name<typename P::compute>);
  return manifest;
}

}  // namespace shardexpr::detail
