// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint anew: a model for others and the optimizer's state beside it, or in parts.
#include <shardexpr/checkpoint/consolidate.hpp>
#include <shardexpr/checkpoint/contents.hpp>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "options.hpp"

namespace {

int fail(int status, std::string what) {
  // A path is the user's own text; a line stays a line all the same.
  for (char& c : what)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  std::fprintf(stderr, "consolidate: %s\n", what.c_str());
  return status;
}

std::string counted(std::uint64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

/// One line: where, which form, how much.
std::string summary(const std::string& folder) {
  const sx::CheckpointContents contents = sx::read_contents(folder);
  std::uint64_t bytes = 0;
  for (const auto& file : contents.files) bytes += file.bytes;
  return sx::escaped(folder) + ": " + contents.form + ", " +
         counted(contents.parameters.size(), "parameter") + ", " +
         counted(contents.buffers.size(), "buffer") + ", " + counted(bytes, "byte") + " in " +
         counted(contents.files.size(), "file") + "\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse_options(argc, argv);
    std::string text = usage;
    if (!options.help)
      text = summary(options.is_sharded
                         ? sx::rewrite_checkpoint(options.from, options.to, options.sharded)
                         : sx::rewrite_checkpoint(options.from, options.to, options.full));
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
    return fail(1, "the output cannot be written: " + std::string{std::strerror(errno)});
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
