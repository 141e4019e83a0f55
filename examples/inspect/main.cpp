// SPDX-License-Identifier: Apache-2.0
// Lists a checkpoint, or the tensors of a safetensors file or set, or says which rule it breaks.
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/verify.hpp>
#include <shardexpr/core/error.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

#include "checkpoint.hpp"
#include "listing.hpp"

namespace {

constexpr const char* usage =
    "usage: inspect [--verify] FILE|DIR\n"
    "Lists tensors: name, dtype, shape, bytes, and the file if there are several; of a checkpoint\n"
    "also what it is and its files. Bytes are then those in all files, with moments.\n"
    "\n"
    "  FILE      a safetensors file, or the index of a set, *.json\n"
    "  DIR       a directory with model.safetensors or model.safetensors.index.json;\n"
    "            a directory that checkpoints were saved to, of which the latest is listed;\n"
    "            or the folder of one, step-...\n"
    "  --verify  of a checkpoint: read every byte first and compare it with its checksum\n"
    "  --help    print this\n"
    "\n"
    "Control characters and invisible ones in names are written as \\x1b and \\u202e.\n"
    "Ends with status 2 and one line that names the rule, the tensor and the byte if a file\n"
    "breaks a rule of its format; with 1 if it cannot be read.\n";

int fail(int status, std::string what) {
  // A path is the user's own text; a line stays a line all the same.
  for (char& c : what)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  std::fprintf(stderr, "inspect: %s\n", what.c_str());
  return status;
}

/// Ends the output: a full disk is an error, too.
int finish(int status) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  return fail(1, "the output cannot be written: " + std::string{std::strerror(errno)});
}

Listing list_safetensors(const std::string& path) {
  const sx::SafetensorsSet<> set{path};
  Listing listing;
  listing.files = set.files().size();
  for (const sx::PlacedTensor& placed : set.tensors()) {
    const std::string& file = set.files()[placed.file].path();
    listing.rows.push_back({placed.tensor->name, std::string{placed.tensor->dtype.name},
                            placed.tensor->shape, placed.tensor->size_bytes(),
                            set.has_index() ? file.substr(file.rfind('/') + 1) : std::string{}});
  }
  return listing;
}

/// A directory with a manifest, or one with `latest` that is not itself a model: DeepSpeed leaves a
/// file of that name, too.
bool is_checkpoint(const std::string& path) {
  namespace fs = std::filesystem;
  const auto has = [&, folder = fs::path{path}](std::string_view name) {
    std::error_code error;
    return fs::exists(folder / name, error);
  };
  return has("manifest.json") || (has("latest") && !has(sx::SafetensorsSet<>::single_file_name) &&
                                  !has(sx::SafetensorsIndex::file_name));
}

void list(const std::string& path, bool verifies) {
  if (!is_checkpoint(path)) {
    if (verifies)
      throw sx::ConfigError("--verify: " + path +
                            " is no checkpoint, and a safetensors file has no checksums; leave "
                            "--verify out");
    return print(list_safetensors(path));
  }
  // Before anything is printed: a broken one is one line.
  if (verifies) sx::verify_checkpoint(path);
  print(sx::read_contents(path), verifies);
}

}  // namespace

int main(int argc, char** argv) {
  bool verifies = false;
  std::string path;
  int paths = 0;
  for (int i = 1; i < argc; ++i)
    if (std::string_view{argv[i]} == "--help") {
      std::fputs(usage, stdout);
      return finish(0);
    }
  for (int i = 1; i < argc; ++i) {
    if (std::string_view{argv[i]} == "--verify") {
      verifies = true;
    } else if (argv[i][0] == '-' && argv[i][1] != '\0') {
      return fail(2, "unknown option '" + std::string{argv[i]} + "'; see --help");
    } else {
      path = argv[i];
      ++paths;
    }
  }
  if (paths != 1 || path.empty())
    return fail(2, "name one file or directory, not " + std::to_string(paths) + "; see --help");
  try {
    list(path, verifies);
    return finish(0);
  } catch (const sx::FormatError& error) {
    return fail(2, error.what());
  } catch (const sx::ConfigError& error) {
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
