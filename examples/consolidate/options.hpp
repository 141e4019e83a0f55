// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/core/error.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>

namespace sx = shardexpr;

struct Options {
  std::string from, to;
  sx::FullState full;
  sx::ShardedState sharded;
  bool is_sharded = false, help = false;
};

inline constexpr const char* usage =
    "usage: consolidate FROM TO [options]\n"
    "Writes a checkpoint anew in another form, without a device and in little memory.\n"
    "\n"
    "  FROM                a directory that was saved to, of which the latest is taken, or the\n"
    "                      folder of one checkpoint, step-...\n"
    "  TO                  another directory, made if it is not there; the checkpoint gets a "
    "folder\n"
    "                      of its own in it, and `latest` names that\n"
    "  --full              the model as model.safetensors, for any program that reads such files,\n"
    "                      and the optimizer's state beside it (default)\n"
    "  --sharded N         N parts, as N ranks would save them\n"
    "  --dtype X           of a full model: F32, BF16 or F16 (as it is trained); training goes on\n"
    "                      from what lies beside it, exactly\n"
    "  --max-file-bytes N  of a full model: begin another file above that; a whole number, with "
    "KB,\n"
    "                      MB, GB, TB, KiB, MiB, GiB or TiB behind it if you like (5GB)\n"
    "  --help              print this\n"
    "The last of a repeated option counts. Every byte is compared with its checksum as it is "
    "read.\n"
    "Ends with status 2 and one line if FROM is broken or the options are; with 1 if a disk "
    "fails.\n";

/// "5GB", "512MiB", "5000000000"
/// Errors:  ConfigError.
inline std::uint64_t parse_bytes(const std::string& option, const std::string& text) {
  struct Unit {
    std::string_view name;
    std::uint64_t bytes;
  };
  constexpr std::uint64_t k = 1000, ki = 1024;
  constexpr Unit units[] = {{"", 1},
                            {"KB", k},
                            {"MB", k * k},
                            {"GB", k * k * k},
                            {"TB", k * k * k * k},
                            {"KiB", ki},
                            {"MiB", ki * ki},
                            {"GiB", ki * ki * ki},
                            {"TiB", ki * ki * ki * ki}};
  std::uint64_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, count);
  for (const Unit& unit : units) {
    if (at == text.data() || std::string_view{at, static_cast<std::size_t>(end - at)} != unit.name)
      continue;
    if (error != std::errc{} || count == 0 ||
        count > std::numeric_limits<std::uint64_t>::max() / unit.bytes)
      throw sx::ConfigError(option + " " + text + " is out of range; give at least 1, as 5GB");
    return count * unit.bytes;
  }
  throw sx::ConfigError(option + " takes a number of bytes, as 5000000000, 5GB or 512MiB, got '" +
                        text + "'");
}

/// Errors:  ConfigError for an unknown or incomplete option, for options that do not go together,
///          and for a value out of range.
inline Options parse_options(int argc, char** argv) {
  constexpr std::size_t most_parts = 99'999;  // files are numbered by five digits
  Options o;
  int paths = 0;
  std::string dtype, most;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc || *argv[i] == '\0')
        throw sx::ConfigError(name + " takes a value; see --help");
      return argv[i];
    };
    if (name == "--help") {
      o.help = true;
    } else if (name == "--full") {
      o.is_sharded = false;
    } else if (name == "--sharded") {
      o.is_sharded = true;
      const std::string text = value();
      const char* const end = text.data() + text.size();
      const auto [at, error] = std::from_chars(text.data(), end, o.sharded.parts);
      if (error != std::errc{} || at != end || o.sharded.parts == 0 || o.sharded.parts > most_parts)
        throw sx::ConfigError("--sharded takes a number of parts, 1 to " +
                              std::to_string(most_parts) + ", got '" + text + "'");
    } else if (name == "--dtype") {
      dtype = value();
      if (dtype != "F32" && dtype != "BF16" && dtype != "F16")
        throw sx::ConfigError("--dtype '" + dtype + "' is none of F32, BF16 and F16");
      o.full.dtype = dtype;
    } else if (name == "--max-file-bytes") {
      most = value();
      o.full.most_file_bytes = parse_bytes(name, most);
    } else if (name.size() > 1 && name[0] == '-') {
      throw sx::ConfigError("unknown option '" + name + "'; see --help");
    } else {
      if (++paths <= 2) (paths == 1 ? o.from : o.to) = name;
    }
  }
  if (o.help) return o;
  if (paths != 2 || o.from.empty() || o.to.empty())
    throw sx::ConfigError("name two directories, FROM and TO, not " + std::to_string(paths) +
                          "; see --help");
  if (o.is_sharded && !dtype.empty())
    throw sx::ConfigError(
        "--dtype is of a full checkpoint: parts keep what training goes on from; leave it out, or "
        "--sharded");
  if (o.is_sharded && !most.empty())
    throw sx::ConfigError(
        "--max-file-bytes is of a full checkpoint: parts have a file each; leave it out, or give "
        "more parts");
  return o;
}
