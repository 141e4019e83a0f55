// SPDX-License-Identifier: Apache-2.0
// What any bytes at all may do to those who read a configuration: be refused in a line, or become a
// strategy that can be written. Under clang with -fsanitize=fuzzer libFuzzer chooses the bytes,
// else fuzz_main.cpp gives the fixtures.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "../../examples/strategy_from_config/write.hpp"

using namespace from_config;

namespace {

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz_config: %s\n", what);
  std::abort();
}

bool is_line(std::string_view text) {
  return text.find_first_of(std::string_view{"\n\r\0\x1b", 4}) == text.npos && text.size() < 4000;
}

std::size_t leaves(const Node& node) {
  if (!node.is_map() || node.keys.empty()) return 1;
  std::size_t count = 0;
  for (const Node& value : node.values) count += leaves(value);
  return count;
}

void check(const Document& document, const Judgement& judged, bool is_json) {
  // A file that another names has rows, too; there is none at the root that is given here.
  demand(judged.rows.size() == (document.root.keys.empty() ? 0 : leaves(document.root)),
         "a leaf without a verdict");
  for (const Row& row : judged.rows) {
    demand(is_line(row.key) && is_line(row.value) && is_line(row.text), "a row is no line");
    demand(!row.text.empty(), "a verdict without a text");
  }
  for (const std::string& warning : judged.warnings) demand(is_line(warning), "a warning's line");
  const Description& d = judged.strategy;
  demand(parse_policies(pack_of(d)) == d, "the policies are not the strategy's");
  demand(!report(judged).empty(), "no report");
  demand(!write_header("Name", document.name, d, judged.values).empty(), "no header");
  // What a format said, it can say.
  if (!judged.is_supported()) return;
  const bool is_accelerate = !is_json || document.root.find("distributed_type") != nullptr ||
                             document.root.find("compute_environment") != nullptr;
  demand((is_accelerate ? write_accelerate(d, judged.values) : write_deepspeed(d, judged.values))
             .unsaid.empty(),
         "a format cannot say what it said");
}

void try_to(std::string_view bytes, bool is_json) {
  Settings settings;
  settings.root = "nowhere";
  try {
    const Document document = is_json ? read_json("file", bytes) : read_yaml("file", bytes);
    check(document, judge_bytes("file", bytes, is_json, settings), is_json);
  } catch (const BadFile& error) {
    const std::string_view text = error.what();
    demand(text.starts_with("file:"), "the message does not name the file");
    demand(is_line(text), "the message is no line of text");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  // A path could name a file of this machine.
  if (bytes.find("deepspeed_config_file") == bytes.npos) {
    try_to(bytes, true);
    try_to(bytes, false);
  }
  try {
    const Description d = parse_policies(bytes);
    demand(parse_policies(pack_of(d)) == d, "policies change when written again");
  } catch (const BadPolicies&) {
  }
  return 0;
}
