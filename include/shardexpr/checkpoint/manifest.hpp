// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/durable_files.hpp>
#include <shardexpr/checkpoint/json_reader.hpp>
#include <shardexpr/checkpoint/json_text.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

// What a checkpoint is and what belongs to it. Its folder:
//
//   DIR/latest                                       the folder to load, and its name's checksum
//   DIR/step-000000000100/manifest.json              this; the last file that is written
//   DIR/step-000000000100/state-00000-of-00004.safetensors, .sums       a rank's part
namespace shardexpr::detail {

/// Something that only its owner understands: a loss scale's state, options. It fits where type and
/// size are the same.
struct OpaqueValue {
  std::string name, type;
  std::string bytes;  // in hexadecimal digits
};

struct Manifest {
  static constexpr std::string_view file_name = "manifest.json";
  static constexpr std::string_view format_name = "shardexpr checkpoint";
  static constexpr std::uint64_t version = 1;
  static constexpr std::uint64_t most_bytes = std::uint64_t{1} << 30;
  // Whoever reads loops over these and multiplies them; no run comes near.
  static constexpr std::uint64_t most_steps = 999'999'999'999'999'999, most_ranks = 1'000'000,
                                 most_moments = 64;

  struct Parameter {
    std::string name, dtype;
    std::vector<std::uint64_t> shape;

    /// Elements. Of what was parsed the bits, too, are within 64 bits.
    std::uint64_t count() const {
      std::uint64_t count = 1;
      for (const std::uint64_t extent : shape) count *= extent;
      return count;
    }
  };

  std::string kind;      // "sharded", "full" or "local"
  std::string strategy;  // as trainer_name writes it
  std::string layout;    // "local": what must be the same to load it
  std::uint64_t step = 0, world = 0, moments = 0, seed = 0;
  std::string moment_dtype;
  std::string cursor;  // the program's own
  std::vector<OpaqueValue> values;
  std::vector<Parameter> parameters;  // in the order of the model
  std::vector<FileRecord> files;

  const OpaqueValue* find(std::string_view name) const {
    for (const OpaqueValue& value : values)
      if (value.name == name) return &value;
    return nullptr;
  }

  std::string text() const;
  /// Errors:  FormatError: the file, the byte, what is wrong.
  static Manifest parse(const std::string& path, std::string_view text);

 private:
  template <class Refuse>
  void check(Refuse refuse) const;

  // The text's last line is its sum, of all before it, so that no byte is without one.
  static constexpr std::string_view sum_begins = ",\n\"crc32c\":\"";
  static constexpr std::string_view sum_ends = "\"}\n";
  static constexpr std::size_t sum_bytes = sum_begins.size() + 8 + sum_ends.size();
};

/// Of a file in a checkpoint's folder: no path, and not hidden.
inline bool is_plain_name(std::string_view name) {
  return is_bare_file_name(name) && name.front() != '.';
}

inline std::string hex_of(std::uint32_t value) {
  std::string text;
  append_hex(text, value, 8);
  return text;
}

inline std::string Manifest::text() const {
  std::string text = "{";
  const auto key = [&](std::string_view name) {
    text += text.size() == 1 ? "\n" : ",\n";
    append_json(text, name);
    text += ": ";
  };
  const auto line = [&](std::string_view name, std::string_view value) {
    key(name);
    append_json(text, value);
  };
  const auto number = [&](std::string_view name, std::uint64_t value) {
    key(name);
    text += std::to_string(value);
  };
  const auto list = [&](std::string_view name, const auto& items, auto write) {
    key(name);
    text += '[';
    for (std::size_t i = 0; i < items.size(); ++i) {
      text += i == 0 ? "\n  " : ",\n  ";
      write(items[i]);
    }
    text += ']';
  };
  const auto named = [&](const char* before, std::string_view value) {
    text += before;
    append_json(text, value);
  };
  line("format", format_name);
  number("version", version);
  line("kind", kind);
  line("strategy", strategy);
  line("layout", layout);
  number("step", step);
  number("world", world);
  number("seed", seed);
  number("moments", moments);
  line("moment_dtype", moment_dtype);
  line("cursor", cursor);
  list("values", values, [&](const OpaqueValue& value) {
    named("{\"name\": ", value.name);
    named(", \"type\": ", value.type);
    named(", \"bytes\": ", value.bytes);
    text += '}';
  });
  list("parameters", parameters, [&](const Parameter& parameter) {
    named("{\"name\": ", parameter.name);
    named(", \"dtype\": ", parameter.dtype);
    text += ", \"shape\": [";
    for (std::size_t i = 0; i < parameter.shape.size(); ++i)
      text += (i == 0 ? "" : ", ") + std::to_string(parameter.shape[i]);
    text += "]}";
  });
  list("files", files, [&](const FileRecord& file) {
    named("{\"name\": ", file.name);
    named(", \"role\": ", file.role);
    text += ", \"bytes\": " + std::to_string(file.bytes) +
            ", \"sums_bytes\": " + std::to_string(file.sums_bytes) +
            ", \"sums_crc32c\": " + std::to_string(file.sums_crc) + "}";
  });
  const std::string sum = hex_of(crc32c_of(text));
  text += sum_begins;
  text += sum;
  text += sum_ends;
  return text;
}

inline Manifest Manifest::parse(const std::string& path, std::string_view text) {
  const auto refuse = [&](const std::string& what) {
    throw FormatError(path + ": " + what + "; take another checkpoint");
  };
  if (text.size() < sum_bytes) refuse("it was cut off");
  const std::string_view sum = text.substr(text.size() - sum_bytes);
  const std::string_view summed = text.substr(0, text.size() - sum_bytes);
  if (sum.substr(0, sum_begins.size()) != sum_begins ||
      sum.substr(sum.size() - sum_ends.size()) != sum_ends)
    refuse("it does not end in its checksum: it was cut off or changed");
  if (sum.substr(sum_begins.size(), 8) != hex_of(crc32c_of(summed)))
    refuse("its checksum is not that of what was saved: it was changed");

  Manifest manifest;
  JsonReader reader{text};
  std::string format;
  std::uint64_t found_version = 0;
  const auto integer = [&] { return reader.integer("a number"); };
  // Calls `member(key)` for each member of each object of an array.
  const auto objects = [&](auto& items, auto member) {
    reader.array([&] {
      auto& item = items.emplace_back();
      reader.object([&](const std::string& key, std::size_t) {
        if (!member(item, key)) reader.skip_value();
      });
    });
  };
  try {
    reader.object([&](const std::string& key, std::size_t) {
      const auto text_of = [&](const char* name, std::string& to) {
        if (key != name) return false;
        to = reader.string();
        return true;
      };
      const auto number_of = [&](const char* name, std::uint64_t& to) {
        if (key != name) return false;
        to = integer();
        return true;
      };
      if (text_of("format", format) || number_of("version", found_version) ||
          text_of("kind", manifest.kind) || text_of("strategy", manifest.strategy) ||
          text_of("layout", manifest.layout) || number_of("step", manifest.step) ||
          number_of("world", manifest.world) || number_of("seed", manifest.seed) ||
          number_of("moments", manifest.moments) ||
          text_of("moment_dtype", manifest.moment_dtype) || text_of("cursor", manifest.cursor))
        return;
      if (key == "values") {
        objects(manifest.values, [&](OpaqueValue& value, const std::string& member) {
          std::string* const to = member == "name"    ? &value.name
                                  : member == "type"  ? &value.type
                                  : member == "bytes" ? &value.bytes
                                                      : nullptr;
          if (to != nullptr) *to = reader.string();
          return to != nullptr;
        });
      } else if (key == "parameters") {
        objects(manifest.parameters, [&](Parameter& parameter, const std::string& member) {
          if (member == "name")
            parameter.name = reader.string();
          else if (member == "dtype")
            parameter.dtype = reader.string();
          else if (member == "shape")
            reader.array([&] { parameter.shape.push_back(integer()); });
          else
            return false;
          return true;
        });
      } else if (key == "files") {
        objects(manifest.files, [&](FileRecord& file, const std::string& member) {
          if (member == "name")
            file.name = reader.string();
          else if (member == "role")
            file.role = reader.string();
          else if (member == "bytes")
            file.bytes = integer();
          else if (member == "sums_bytes")
            file.sums_bytes = integer();
          else if (member == "sums_crc32c")
            file.sums_crc = read_crc(reader);
          else
            return false;
          return true;
        });
      } else {
        reader.skip_value();
      }
    });
    reader.end();
  } catch (const JsonFault& fault) {
    refuse("byte " + std::to_string(fault.at) + ": " + fault.what);
  }
  if (format != format_name) refuse("it is no manifest of a checkpoint");
  if (found_version != version)
    refuse("its version is " + std::to_string(found_version) + ", this library reads " +
           std::to_string(version));
  manifest.check(refuse);
  return manifest;
}

/// What a text that is well formed may still not say. Its sum shows that it was written so; who
/// wrote it, it does not show.
template <class Refuse>
void Manifest::check(Refuse refuse) const {
  const auto within = [&](const char* what, std::uint64_t value, std::uint64_t least,
                          std::uint64_t most) {
    if (value < least || value > most)
      refuse(std::string{what} + " is " + std::to_string(value) + ", not " + std::to_string(least) +
             " to " + std::to_string(most));
  };
  within("step", step, 0, most_steps);
  within("world", world, 1, most_ranks);
  within("moments", moments, 0, most_moments);
  if (moments != 0 && find_stored_dtype(moment_dtype) == nullptr)
    refuse("moments of dtype " + shown(moment_dtype) + ", which the format does not have");
  for (const Parameter& parameter : parameters) {
    const StoredDtype* const dtype = find_stored_dtype(parameter.dtype);
    if (dtype == nullptr)
      refuse("parameter " + shown(parameter.name) + " has dtype " + shown(parameter.dtype) +
             ", which the format does not have");
    if (!stored_bits(*dtype, parameter.shape))
      refuse("parameter " + shown(parameter.name) +
             ": the product of its extents, in bits, is beyond 64 bits");
  }
  for (const FileRecord& file : files)
    if (!is_plain_name(file.name)) refuse("the file " + shown(file.name) + " is no plain name");
  const auto once = [&](const char* what, const auto& items) {
    const auto name_of = [&](std::size_t i) -> const std::string& { return items[i].name; };
    if (const auto twice = first_repeated(places_by_name(items.size(), name_of), name_of))
      refuse(std::string{what} + " " + shown(name_of(*twice)) + " stands twice");
  };
  once("parameter", parameters);
  once("the file", files);
}

// Folders -----------------------------------------------------------------------------------------

inline std::string step_folder(std::uint64_t step) {
  const std::string digits = std::to_string(step);
  return "step-" + std::string(digits.size() < 12 ? 12 - digits.size() : 0, '0') + digits;
}
/// "step-" and 12 to 18 digits; where a step was saved again, "-" and a number of as many at most.
inline bool is_step_folder(std::string_view name) {
  constexpr std::string_view digits = "0123456789";
  if (!name.starts_with("step-")) return false;
  name.remove_prefix(5);
  const std::size_t end = std::min(name.find_first_not_of(digits), name.size());
  if (end < 12 || end > 18) return false;
  name.remove_prefix(end);
  return name.empty() || (name.size() > 1 && name.size() < 20 && name[0] == '-' &&
                          name.find_first_not_of(digits, 1) == std::string_view::npos);
}
/// Of the name of such a folder: the step, and how often it was saved before.
inline std::pair<std::uint64_t, std::uint64_t> step_of_folder(std::string_view name) {
  std::pair<std::uint64_t, std::uint64_t> numbers{};
  std::uint64_t* to = &numbers.first;
  for (const char c : name.substr(5)) {
    if (c == '-')
      to = &numbers.second;
    else
      *to = 10 * *to + static_cast<std::uint64_t>(c - '0');
  }
  return numbers;
}
inline std::string latest_text(const std::string& folder) {
  return folder + " " + hex_of(crc32c_of(folder)) + "\n";
}
/// The folder that it names.
/// Errors:  FormatError if the text is not one that `latest_text` makes.
inline std::string parse_latest(const std::string& path, std::string_view text) {
  std::string name{text.substr(0, text.find(' '))};
  if (!is_step_folder(name) || text != latest_text(name))
    throw FormatError(path +
                      " is not as it was saved: its checksum differs; name a folder step-... "
                      "there");
  return name;
}

/// The folder of a checkpoint that `directory` means: the one that its `latest` names, or itself if
/// it is one.
/// Errors:  ConfigError if there is none, FormatError if `latest` was changed.
template <class System>
std::string checkpoint_folder(const std::string& directory) {
  std::error_code error;
  const std::filesystem::path folder{directory};
  if (std::filesystem::exists(folder / Manifest::file_name, error)) return directory;
  if (!std::filesystem::exists(folder / "latest", error))
    throw ConfigError(directory + " holds no checkpoint: neither `latest` nor `" +
                      std::string{Manifest::file_name} + "`; name a folder that was saved to");
  const auto file = FileHandle<System>::to_read(directory + "/latest");
  const std::string text = read_text(file, 4096, [] { return "the name of a folder"; });
  return directory + "/" + parse_latest(file.path(), text);
}
template <class System>
Manifest read_manifest(const std::string& folder) {
  const auto file = FileHandle<System>::to_read(folder + "/" + std::string{Manifest::file_name});
  return Manifest::parse(
      file.path(), read_text(file, Manifest::most_bytes, [] { return "a checkpoint's manifest"; }));
}

}  // namespace shardexpr::detail
