// SPDX-License-Identifier: Apache-2.0
// What any bytes at all may do to the readers: be refused with a FormatError, or be read and
// written again to the same. Under clang with -fsanitize=fuzzer libFuzzer chooses the bytes, else
// fuzz_main.cpp gives those of the fixture.
#include <shardexpr/checkpoint/safetensors_file.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory_system.hpp"

using namespace shardexpr;

namespace {

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz_safetensors: %s\n", what);
  std::abort();
}

/// A message is one line that names the rule.
void check_message(const FormatError& error) {
  const std::string_view text = error.what();
  demand(text.starts_with("file: rule '"), "the message names no rule");
  demand(text.find_first_of(std::string_view{"\n\r\0\x1b", 4}) == text.npos,
         "the message is no line of text");
  demand(text.size() < 1000, "the message is too long");
}

SafetensorsHeader parse(std::string_view file) {
  return parse_safetensors_header("file", file.substr(0, 8), file.size(),
                                  [&](std::size_t bytes) { return file.substr(8, bytes); });
}

/// Tensors lie one behind the other and fill the file; each can be found and read.
void check_file(std::string_view bytes) {
  MemorySystem::file = bytes;
  MemorySystem::read_outside = 0;
  const SafetensorsFile<MemorySystem> file{"file"};
  std::uint64_t end = 0;
  for (const StoredTensor& tensor : file.header().tensors) {
    demand(tensor.begin == end, "a hole or an overlap");
    end = tensor.end;
    demand(file.find(tensor.name) == &tensor, "a tensor is not found by its name");
    std::string data(static_cast<std::size_t>(tensor.size_bytes()), '\0');
    file.read(tensor, 0, std::as_writable_bytes(std::span{data}));
    demand(data == bytes.substr(static_cast<std::size_t>(file.offset_of(tensor)), data.size()),
           "a tensor has other bytes than the file");
  }
  demand(file.header().file_bytes() == bytes.size(), "the tensors do not fill the file");
  demand(MemorySystem::read_outside == 0, "a read outside of the file");
}

/// What was read, written, is read the same, and the second time written the same.
void check_round_trip(const SafetensorsHeader& header) {
  const auto lay_out = [](const SafetensorsHeader& from) {
    std::vector<TensorToStore> tensors;
    for (const StoredTensor& tensor : from.tensors)
      tensors.push_back({tensor.name, tensor.dtype.name, tensor.shape});
    return lay_out_safetensors(std::move(tensors), from.metadata);
  };
  const SafetensorsLayout layout = lay_out(header);
  const SafetensorsHeader again = parse(
      layout.first_bytes + std::string(static_cast<std::size_t>(layout.header.data_bytes()), '\0'));
  demand(again.tensors == layout.header.tensors, "the header is not what the layout said");
  demand(again.metadata == header.metadata, "other metadata");
  demand(again.tensors.size() == header.tensors.size(), "more or fewer tensors");
  for (const StoredTensor& tensor : header.tensors) {
    const StoredTensor* const found = again.find(tensor.name);
    demand(found != nullptr && found->dtype == tensor.dtype && found->shape == tensor.shape &&
               found->size_bytes() == tensor.size_bytes(),
           "a tensor came back as another");
  }
  demand(lay_out(again).first_bytes == layout.first_bytes, "the header changes when written again");
}

void check_index(std::string_view text) {
  const SafetensorsIndex index = parse_safetensors_index("file", text);
  for (const SafetensorsIndex::Entry& entry : index.entries) {
    demand(entry.file.find('/') == entry.file.npos && entry.file != ".." && entry.file != "." &&
               !entry.file.empty(),
           "a file's name is a path");
    demand(index.find(entry.tensor) == &entry, "a tensor is not found by its name");
  }
  const SafetensorsIndex again = parse_safetensors_index("file", index_text(index));
  demand(again.total_size == index.total_size, "another total_size");
  demand(std::equal(
             again.entries.begin(), again.entries.end(), index.entries.begin(), index.entries.end(),
             [](const auto& a, const auto& b) { return a.tensor == b.tensor && a.file == b.file; }),
         "the index is not what was written");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  std::optional<SafetensorsHeader> header;
  try {
    header = parse(bytes);
  } catch (const FormatError& error) {
    check_message(error);
  }
  if (header) {
    check_file(bytes);
    check_round_trip(*header);
  }
  // The same bytes behind a length that fits: a fuzzer seldom finds both.
  if (size < 100'000'000) {
    std::string file(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(size >> 8 * i & 255);
    file += bytes;
    try {
      check_round_trip(parse(file));
    } catch (const FormatError& error) {
      check_message(error);
    }
  }
  try {
    check_index(bytes);
  } catch (const FormatError& error) {
    check_message(error);
  }
  return 0;
}
