// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/durable_files.hpp>
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/new_checkpoint.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/safetensors_set_writer.hpp>
#include <shardexpr/checkpoint/saved_state.hpp>
#include <shardexpr/checkpoint/stored_elements.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace shardexpr {

namespace detail {

/// A file of text that belongs to a checkpoint.
template <class System>
FileRecord write_beside(const std::string& folder, const std::string& name,
                        const std::string& text) {
  write_text<System>(folder + "/" + name, text);
  return {name, "text", text.size(), 0, crc32c_of(text)};
}

/// Errors:  ConfigError for a dtype that no model is saved in.
inline void check_dtype(const FullState& form) {
  if (form.dtype.empty() || is_trained_dtype(form.dtype)) return;
  throw ConfigError("FullState::dtype is " + shown(form.dtype) +
                    "; give F32, BF16 or F16, or nothing for what was trained");
}

/// Copies elements in pieces; `write(span of T)` takes them in order.
template <class System, class Write>
void copy_elements(SavedState<System>& from, std::size_t kind, const std::string& name,
                   std::string_view dtype, std::uint64_t first, std::uint64_t count, Write write) {
  const auto copy = [&]<class T>(T) {
    std::vector<T> memory(static_cast<std::size_t>(
        std::min<std::uint64_t>(count, ChunkSums::chunk_bytes / sizeof(T))));
    while (count != 0) {
      const std::span<T> some = std::span{memory}.first(
          static_cast<std::size_t>(std::min<std::uint64_t>(count, memory.size())));
      from.read(kind, name, first, some);
      write(std::as_bytes(some));
      first += some.size();
      count -= some.size();
    }
  };
  if (!visit_trained_dtype(dtype, copy))
    throw ConfigError("parameters of dtype " + shown(dtype) + ": give F32, BF16 or F16");
}

/// A file of pieces of a new checkpoint: each parameter's elements [first, first + count).
template <class System>
class PieceCopier {
 public:
  explicit PieceCopier(SavedState<System>& from) : from_{&from} {}

  void add(std::size_t kind, const std::string& name, std::string_view dtype, std::uint64_t first,
           std::uint64_t count) {
    const StateStretch stretch{&name, nullptr, kind, static_cast<std::size_t>(first)};
    tensors_.push_back({stored_name(stretch), dtype, {count}});
    pieces_.push_back({kind, &name, dtype, first, count});
  }
  void add_buffer(const std::string& name, std::string_view dtype, std::uint64_t count,
                  std::size_t rank) {
    tensors_.push_back({buffer_name(name), dtype, {count}});
    pieces_.push_back({StoredPiece::buffer, &name, dtype, rank, count});
  }
  FileRecord write(const std::string& folder, const std::string& file_name) {
    std::vector<std::string> names;
    for (const TensorToStore& tensor : tensors_) names.push_back(tensor.name);
    PartWriter<System> file{folder, file_name, lay_out_safetensors(std::move(tensors_))};
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      const Piece& piece = pieces_[i];
      const std::size_t place = place_of(file.header(), names[i]);
      std::uint64_t at = 0;
      const auto append = [&](std::span<const std::byte> bytes) {
        file.append(place, at, bytes);
        at += bytes.size();
      };
      if (piece.kind == StoredPiece::buffer)
        from_->copy_buffer(*piece.name, static_cast<std::size_t>(piece.first), append);
      else
        copy_elements(*from_, piece.kind, *piece.name, piece.dtype, piece.first, piece.count,
                      append);
    }
    return file.finish();
  }

 private:
  struct Piece {
    std::size_t kind;
    const std::string* name;
    std::string_view dtype;
    std::uint64_t first, count;
  };
  SavedState<System>* from_;
  std::vector<TensorToStore> tensors_;
  std::vector<Piece> pieces_;
};

template <class System>
std::vector<FileRecord> write_parts(SavedState<System>& from, const Manifest& manifest,
                                    const std::string& folder, std::size_t parts) {
  std::vector<FileRecord> files;
  for (std::size_t part = 0; part < parts; ++part) {
    PieceCopier<System> copier{from};
    for (const Manifest::Parameter& parameter : manifest.parameters) {
      const std::uint64_t count = parameter.count();
      const std::uint64_t each = (count + parts - 1) / parts;
      const std::uint64_t first = std::min(count, part * each);
      const std::uint64_t last = std::min(count, first + each);
      if (first == last) continue;
      for (std::size_t kind = 0; kind <= manifest.moments; ++kind)
        if (from.has(kind, parameter.name))
          copier.add(kind, parameter.name,
                     kind == 0 ? std::string_view{parameter.dtype} : manifest.moment_dtype, first,
                     last - first);
    }
    from.for_each_buffer([&](const std::string& name, std::string_view dtype, std::uint64_t count) {
      copier.add_buffer(name, dtype, count, part);
    });
    files.push_back(copier.write(folder, part_name(part, parts)));
  }
  return files;
}

template <class System>
std::vector<FileRecord> write_full(SavedState<System>& from, const Manifest& manifest,
                                   const std::string& folder, const FullState& form) {
  std::vector<TensorToStore> tensors;
  for (const Manifest::Parameter& parameter : manifest.parameters)
    tensors.push_back({parameter.name,
                       form.dtype.empty() ? std::string_view{parameter.dtype} : form.dtype,
                       parameter.shape});
  SafetensorsSetLayout set =
      lay_out_safetensors_set(tensors, {{"format", "pt"}}, form.most_file_bytes);
  std::vector<FileRecord> files;
  for (SafetensorsSetLayout::File& file : set.files) {
    PartWriter<System> model{folder, file.name, std::move(file.layout)};
    for (std::size_t i = 0; i < model.header().tensors.size(); ++i) {
      const StoredTensor& tensor = model.header().tensors[i];
      std::uint64_t count = 1;
      for (const std::uint64_t extent : tensor.shape) count *= extent;
      std::uint64_t at = 0;
      copy_elements(from, StateStretch::parameter, tensor.name, tensor.dtype.name, 0, count,
                    [&](std::span<const std::byte> bytes) {
                      model.append(i, at, bytes);
                      at += bytes.size();
                    });
    }
    files.push_back(model.finish());
    files.back().role = "model";
  }
  if (set.has_index())
    files.push_back(write_beside<System>(folder, std::string{SafetensorsIndex::file_name},
                                         index_text(set.index)));
  PieceCopier<System> optimizer{from};
  for (const Manifest::Parameter& parameter : manifest.parameters) {
    const bool is_exact = form.dtype.empty() || form.dtype == parameter.dtype;
    for (std::size_t kind = is_exact ? 1 : 0; kind <= manifest.moments; ++kind)
      if (from.has(kind, parameter.name))
        optimizer.add(kind, parameter.name,
                      kind == 0 ? std::string_view{parameter.dtype} : manifest.moment_dtype, 0,
                      parameter.count());
  }
  from.for_each_buffer([&](const std::string& name, std::string_view dtype, std::uint64_t count) {
    optimizer.add_buffer(name, dtype, count, 0);
  });
  files.push_back(optimizer.write(folder, "optimizer.safetensors"));
  return files;
}

/// That a checkpoint of `folder`, of that step, may be written into `to`.
/// Errors:  ConfigError.
inline void check_target(const std::string& folder, const std::string& to, std::uint64_t step) {
  namespace fs = std::filesystem;
  const auto refuse = [&](const std::string& what) {
    throw ConfigError(to + what + "; give another directory");
  };
  std::error_code error;
  const auto place = [&](const std::string& path) {
    const fs::path whole = fs::weakly_canonical(fs::absolute(path, error), error);
    return whole.has_filename() ? whole : whole.parent_path();
  };
  const fs::path at = place(to), read = place(folder);
  if (at == read.parent_path())
    refuse(" holds the checkpoint that is read, and a run may be saving there");
  for (fs::path inner = at; inner.has_relative_path(); inner = inner.parent_path())
    if (inner == read) refuse(" is, or lies in, the checkpoint that is read");
  if (!fs::exists(to, error)) return;
  if (!fs::is_directory(to, error)) refuse(" is no directory");
  if (fs::exists(to + "/" + std::string{Manifest::file_name}, error))
    refuse(" is a checkpoint, not a directory of checkpoints");
  if (fs::exists(to + "/" + step_folder(step), error))
    refuse(" holds " + step_folder(step) + " already");
}

}  // namespace detail

/// Writes a checkpoint anew: in full, as `model.safetensors` (or a set with an index) and
/// `optimizer.safetensors`; or in parts. `from`: a directory that was saved to, or a folder in it;
/// `to`: another directory, where the checkpoint gets a folder of its own and `latest` names it.
/// Returns that folder. Texts that the program saved go with it.
///
/// Errors:  as load_checkpoint and save_checkpoint; every byte that is read is compared with its
///          checksum. ConfigError if `to` is where `from` is, for a run may be saving there, or
///          holds a checkpoint of this step.
/// Cost:    no device; memory of two chunks of 256 KiB, the headers, the sums and what a
///          `StagedWriter` takes. Each byte is read about once and written once.
template <class System = detail::LinuxSystem, class Form>
std::string rewrite_checkpoint(const std::string& from, const std::string& to, const Form& form) {
  using namespace detail;
  const std::string folder = checkpoint_folder<System>(from);
  Manifest manifest = read_manifest<System>(folder);
  if constexpr (std::is_same_v<Form, FullState>) check_dtype(form);
  if (manifest.kind == "local")
    throw ConfigError(folder +
                      " is a LocalState, which only the layout that saved it can read; load it "
                      "there and save a ShardedState");
  check_target(folder, to, manifest.step);
  SavedState<System> saved{folder, manifest};
  const std::vector<FileRecord> before = manifest.files;
  const NewCheckpoint<System> checkpoint{to, manifest.step};
  checkpoint.begin();
  if constexpr (std::is_same_v<Form, FullState>) {
    manifest.files = write_full(saved, manifest, checkpoint.folder(), form);
    manifest.kind = "full";
  } else {
    const auto parts = form.parts != 0 ? form.parts : static_cast<std::size_t>(manifest.world);
    manifest.files = write_parts(saved, manifest, checkpoint.folder(), parts);
    manifest.kind = "sharded";
  }
  for (const FileRecord& file : before)
    if (file.role == "text" && file.name != SafetensorsIndex::file_name)
      manifest.files.push_back(write_beside<System>(checkpoint.folder(), file.name,
                                                    read_saved_text<System>(folder, file)));
  return to + "/" + checkpoint.commit(manifest);
}

}  // namespace shardexpr
