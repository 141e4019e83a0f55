// SPDX-License-Identifier: Apache-2.0
// Lists the tensors of a safetensors file or set, or says which rule it breaks.
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/core/error.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "listing.hpp"

namespace {

constexpr const char* usage =
    "usage: inspect FILE|DIR\n"
    "Lists tensors: name, dtype, shape, bytes, and the file if there are several.\n"
    "\n"
    "  FILE    a safetensors file, or the index of a set, *.json\n"
    "  DIR     a directory with model.safetensors or model.safetensors.index.json\n"
    "  --help  print this\n"
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

/// A format is a function that makes a listing of a path; what is to be listed besides goes here.
Listing list(const std::string& path) { return list_safetensors(path); }

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    if (std::string_view{argv[i]} == "--help") {
      std::fputs(usage, stdout);
      return finish(0);
    }
  for (int i = 1; i < argc; ++i)
    if (argv[i][0] == '-' && argv[i][1] != '\0')
      return fail(2, "unknown option '" + std::string{argv[i]} + "'; see --help");
  if (argc != 2 || *argv[1] == '\0')
    return fail(2, "name one file or directory, not " + std::to_string(argc - 1) + "; see --help");
  try {
    print(list(argv[1]));
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
