// SPDX-License-Identifier: Apache-2.0
// What any bytes at all may do to those who read what a checkpoint is: be refused with a
// FormatError, or be read and written again to the same. Under clang with -fsanitize=fuzzer
// libFuzzer chooses the bytes, else manifest_test.cpp gives some.
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/part_file.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "manifests.hpp"

using namespace shardexpr;

namespace {

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz_manifest: %s\n", what);
  std::abort();
}

/// Calls `read`; what it refuses it refuses in one line that begins with the file.
template <class Read>
void try_to(Read read) {
  try {
    read();
  } catch (const FormatError& error) {
    const std::string_view text = error.what();
    demand(text.starts_with("file"), "the message does not name the file");
    demand(text.find_first_of(std::string_view{"\n\r\0\x1b", 4}) == text.npos,
           "the message is no line of text");
    demand(text.size() < 1000, "the message is too long");
  }
}

void check_manifest(std::string_view text) {
  const detail::Manifest manifest = detail::Manifest::parse("file", text);
  const std::string written = manifest.text();
  demand(detail::Manifest::parse("file", written).text() == written,
         "the manifest changes when written again");
  demand(manifest.world >= 1 && manifest.world <= 1'000'000, "ranks that nobody has");
  demand(manifest.moments <= 64, "moments that no optimizer has");
  demand(detail::is_step_folder(detail::step_folder(manifest.step)), "a step without a folder");
  std::set<std::string_view> names;
  for (const detail::Manifest::Parameter& parameter : manifest.parameters) {
    const StoredDtype* const dtype = find_stored_dtype(parameter.dtype);
    demand(dtype != nullptr, "a dtype that the format does not have");
    __extension__ unsigned __int128 bits = dtype->bits;
    for (const std::uint64_t extent : parameter.shape) {
      bits *= extent;
      demand(bits >> 64 == 0, "a shape that wraps");
    }
    demand(bits == parameter.count() * dtype->bits, "another number of elements");
    demand(names.insert(parameter.name).second, "a parameter stands twice");
  }
  names.clear();
  for (const detail::FileRecord& file : manifest.files) {
    demand(file.name.find_first_of(std::string_view{"/\0", 2}) == file.name.npos &&
               !file.name.empty() && file.name.front() != '.',
           "a file's name is a path");
    demand(names.insert(file.name).second, "a file stands twice");
  }
}

void check_sums(std::string_view text) {
  const detail::FileSums sums = detail::FileSums::parse("file", text);
  const detail::FileSums again = detail::FileSums::parse("file", sums.text());
  demand(again.header == sums.header && again.tensors == sums.tensors,
         "the sums are not what was written");
}

void check_latest(std::string_view text) {
  const std::string name = detail::parse_latest("file", text);
  demand(name.find_first_not_of("step-0123456789") == name.npos, "`latest` is a path");
  demand(detail::latest_text(name) == text, "`latest` changes when written again");
  const auto [step, before] = detail::step_of_folder(name);
  demand(step <= detail::Manifest::most_steps && before <= detail::Manifest::most_steps,
         "a step that wraps");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes{reinterpret_cast<const char*>(data), size};
  try_to([&] { check_manifest(bytes); });
  // No fuzzer finds a checksum.
  try_to([&] { check_manifest(with_right_sum(bytes)); });
  try_to([&] { check_sums(bytes); });
  try_to([&] { check_latest(bytes); });
  const std::string_view name = std::string_view{bytes}.substr(0, bytes.find(' '));
  try_to([&] { check_latest(detail::latest_text(std::string{name})); });
  return 0;
}
