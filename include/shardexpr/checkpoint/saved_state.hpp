// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/stored_elements.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/engine/kept_state.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr::detail {

/// All that the parts of a checkpoint hold, by parameter and kind.
template <class System>
class SavedState {
 public:
  /// Errors:  FormatError if pieces are missing, or stand twice.
  SavedState(const std::string& folder, const Manifest& manifest) : folder_{folder} {
    for (const FileRecord& record : manifest.files) {
      if (record.role == "text") {
        (void)read_saved_text<System>(folder, record);
        continue;
      }
      files_.push_back(std::make_unique<PartReader<System>>(folder, record));
      const auto& tensors = files_.back()->header().tensors;
      for (std::size_t i = 0; i < tensors.size(); ++i)
        take(files_.size() - 1, i, tensors[i], record.role == "model");
    }
    // A model stands for what training goes on from, where that does not lie beside it.
    for (const auto& [name, piece] : models_) {
      auto& pieces = parameters_[{name, StateStretch::parameter}];
      if (pieces.empty()) pieces.push_back(piece);
    }
    for (auto& [key, pieces] : parameters_)
      std::sort(pieces.begin(), pieces.end(),
                [](const Piece& a, const Piece& b) { return a.first < b.first; });
    for (const Manifest::Parameter& parameter : manifest.parameters) {
      const std::uint64_t count = parameter.count();
      check(StateStretch::parameter, parameter.name, count, true);
      for (std::size_t k = 0; k < manifest.moments; ++k)
        check(k + 1, parameter.name, count, false);  // what is frozen has none
    }
  }

  /// Elements of a parameter's kind from `first` on, converted to T where they were saved in
  /// another dtype.
  template <class T>
  void read(std::size_t kind, const std::string& name, std::uint64_t first, std::span<T> to) {
    const auto found = parameters_.find({name, kind});
    if (found == parameters_.end())
      throw FormatError(folder_ + ": no " + text_of(kind, name) +
                        " was saved: it was frozen then; save it by a run that trains it");
    const auto& pieces = found->second;
    auto piece = std::upper_bound(pieces.begin(), pieces.end(), first,
                                  [](std::uint64_t at, const Piece& p) { return at < p.first; });
    for (--piece; !to.empty(); ++piece) {
      const std::uint64_t skipped = first - piece->first;
      const auto count =
          static_cast<std::size_t>(std::min<std::uint64_t>(to.size(), piece->count - skipped));
      read_from(*files_[piece->file], piece->tensor, skipped, to.first(count));
      first += count;
      to = to.subspan(count);
    }
  }
  bool has(std::size_t kind, const std::string& name) const {
    return parameters_.count({name, kind}) != 0;
  }
  /// Bytes that were saved of a parameter's kind in all files, a model's copy in another dtype
  /// among them; of a buffer, those of all ranks.
  std::uint64_t bytes_of(std::size_t kind, const std::string& name) const {
    std::uint64_t bytes = 0;
    const auto add = [&](std::size_t file, std::size_t tensor) {
      bytes += tensor_of({file, tensor}).size_bytes();
    };
    if (kind == StoredPiece::buffer) {
      for (const Place& place : buffers_.at(name)) add(place.file, place.tensor);
      return bytes;
    }
    if (!has(kind, name)) return 0;
    const auto& pieces = parameters_.at({name, kind});
    for (const Piece& piece : pieces) add(piece.file, piece.tensor);
    const auto model = models_.find(name);
    if (kind == StateStretch::parameter && model != models_.end() &&
        model->second.file != pieces.front().file)
      add(model->second.file, model->second.tensor);
    return bytes;
  }
  /// Calls `visit(name, dtype, count)` for each buffer.
  template <class Visit>
  void for_each_buffer(Visit visit) const {
    for (const auto& [name, all] : buffers_) {
      const StoredTensor& stored = tensor_of(all.front());
      visit(name, stored.dtype.name, stored.shape.front());
    }
  }
  /// A buffer as rank `rank` saved it, or the first that did if there was none such:
  /// `write(bytes)` takes it in order.
  template <class Write>
  void copy_buffer(const std::string& name, std::size_t rank, Write write) {
    const Place place = buffer_of(name, rank);
    std::vector<std::byte> memory(ChunkSums::chunk_bytes);
    const std::uint64_t bytes = tensor_of(place).size_bytes();
    for (std::uint64_t at = 0; at < bytes; at += memory.size()) {
      const std::span<std::byte> some = std::span{memory}.first(
          static_cast<std::size_t>(std::min<std::uint64_t>(memory.size(), bytes - at)));
      files_[place.file]->read(place.tensor, at, some);
      write(std::span<const std::byte>{some});
    }
  }
  /// The same into memory.
  template <class T>
  void read_buffer(const std::string& name, std::size_t rank, std::span<T> to) {
    const Place place = buffer_of(name, rank);
    read_from(*files_[place.file], place.tensor, 0, to);
  }
  /// Errors:  FormatError if nobody saved it, or one of another size.
  void check_buffer(const std::string& name, std::uint64_t count) const {
    const auto found = buffers_.find(name);
    if (found != buffers_.end() &&
        std::all_of(found->second.begin(), found->second.end(),
                    [&](const Place& place) { return tensor_of(place).shape.front() == count; }))
      return;
    throw FormatError(folder_ + ": the buffer " + shown(name) +
                      " was not saved, or has another shape");
  }

 private:
  struct Place {
    std::size_t file, tensor;
  };
  struct Piece {
    std::size_t file, tensor;
    std::uint64_t first, count;
  };

  const StoredTensor& tensor_of(const Place& place) const {
    return files_[place.file]->header().tensors[place.tensor];
  }
  Place buffer_of(const std::string& name, std::size_t rank) const {
    const auto& all = buffers_.at(name);
    return rank < all.size() ? all[rank] : all.front();
  }

  void take(std::size_t file, std::size_t i, const StoredTensor& tensor, bool is_model) {
    if (is_model) {
      std::uint64_t count = 1;
      for (const std::uint64_t extent : tensor.shape) count *= extent;
      models_[tensor.name] = {file, i, 0, count};
      return;
    }
    const StoredPiece piece{tensor.name};
    if (!piece.is_valid || tensor.shape.size() != 1)
      throw FormatError(files_[file]->path() + ", tensor " + shown(tensor.name) +
                        ": it is no piece of a checkpoint");
    if (piece.kind == StoredPiece::buffer)
      buffers_[std::string{piece.name}].push_back({file, i});
    else
      parameters_[{std::string{piece.name}, piece.kind}].push_back(
          {file, i, piece.first, tensor.shape.front()});
  }
  static std::string text_of(std::size_t kind, const std::string& name) {
    return kind == StateStretch::parameter
               ? "parameter " + shown(name)
               : "moment " + std::to_string(kind - 1) + " of " + shown(name);
  }
  void check(std::size_t kind, const std::string& name, std::uint64_t count, bool must_be) const {
    const auto found = parameters_.find({name, kind});
    if (found == parameters_.end()) {
      if (!must_be) return;
      throw FormatError(folder_ + ": " + text_of(kind, name) + " is missing");
    }
    std::uint64_t end = 0;
    for (const Piece& piece : found->second) {
      if (piece.first != end)
        throw FormatError(files_[piece.file]->path() + ", " + text_of(kind, name) + ": elements " +
                          std::to_string(std::min(end, piece.first)) + " to " +
                          std::to_string(std::max(end, piece.first)) +
                          (piece.first > end ? " are missing" : " stand twice"));
      end += piece.count;
    }
    if (end != count)
      throw FormatError(folder_ + ", " + text_of(kind, name) + ": " + std::to_string(end) +
                        " elements were saved, its shape has " + std::to_string(count));
  }

  template <class T>
  void read_from(PartReader<System>& file, std::size_t i, std::uint64_t first, std::span<T> to) {
    const StoredTensor& tensor = file.header().tensors[i];
    if (!is_trained_dtype(tensor.dtype.name))
      throw FormatError(file.path() + ", tensor " + shown(tensor.name) +
                        ": a dtype that nothing is trained in");
    read_elements(
        tensor.dtype.name, first, to,
        [&](std::uint64_t byte, std::span<std::byte> bytes) { file.read(i, byte, bytes); });
  }

  std::string folder_;
  std::vector<std::unique_ptr<PartReader<System>>> files_;
  std::map<std::pair<std::string, std::size_t>, std::vector<Piece>> parameters_;
  std::map<std::string, Piece> models_;
  std::map<std::string, std::vector<Place>> buffers_;  // in the order of ranks
};

}  // namespace shardexpr::detail
