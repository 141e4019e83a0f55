// SPDX-License-Identifier: Apache-2.0
// strategy_from_config as a user meets it: options in, output and status out.
#include <string>

#include "../examples/run.hpp"
#include <doctest/doctest.h>

namespace {

const std::string folder = SHARDEXPR_FIXTURES_DIR "/configs/";

Ended program(const Words& words) { return run(Words{STRATEGY_FROM_CONFIG} + words); }
bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

}  // namespace

TEST_CASE("the type, a table, warnings, rules; status 0") {
  const Ended ended = program({folder + "found/fsdp1_forward_prefetch.yaml"});
  CHECK(ended.status == 0);
  CHECK(ended.err.empty());
  const auto lines = lines_of(ended.out);
  CHECK(lines.at(0) ==
        "Sharded<Model, FullShard, ForwardPrefetch<1>, WrapEach<gpt::Block>, AdamW, "
        "MixedPrecision<bf16, bf16>>");
  CHECK(lines.at(1).empty());
  CHECK(lines.at(2).starts_with("line  key"));
  CHECK(holds(ended.out, "fsdp_config.fsdp_forward_prefetch"));
  CHECK(holds(ended.out, "\nrules\n"));
}

TEST_CASE("status 3 where something is not carried over") {
  const std::string file = folder + "written/misspelt.json";
  const Ended ended = program({file});
  CHECK(ended.status == 3);
  CHECK(lines_of(ended.out).at(0) == "not all of it is carried over; the nearest:");
  CHECK(holds(ended.out, "NOT SUPPORTED"));
  // What goes into a program is not printed, what is wrong is.
  for (const Words& mode : {Words{"--pack"}, Words{"--header", "Mine"}}) {
    const Ended refused = program(Words{file} + mode);
    CHECK(refused.status == 3);
    CHECK(refused.out.empty());
    CHECK(holds(refused.err, file + ":3: gradient_cliping: not supported: DeepSpeed has no key"));
  }
}

TEST_CASE("status 2 and one line for what is malformed") {
  const Ended ended = program({folder + "written/negative_count.json"});
  CHECK(ended.status == 2);
  CHECK(ended.out.empty());
  CHECK(ended.err == folder +
                         "written/negative_count.json:4: "
                         "zero_optimization.stage3_max_live_parameters: -1 is negative; give at "
                         "least 0\n");
  const auto refused = [](const Words& words) {
    const Ended bad = program(words);
    CHECK(bad.status == 2);
    CHECK(lines_of(bad.err).size() == 1);
    return bad.err;
  };
  CHECK(holds(refused({"/nowhere/a.yaml"}), "/nowhere/a.yaml:1: cannot be read: "));
  CHECK(holds(refused({folder}), "ends in none of"));
  CHECK(holds(refused({}), "no file"));
  CHECK(holds(refused({"a.json", "b.json"}), "two files"));
  CHECK(holds(refused({"a.json", "--ranks"}), "--ranks takes a value"));
  CHECK(holds(refused({"a.json", "--ranks", "0"}), "--ranks takes a whole number"));
  CHECK(holds(refused({"a.json", "--loaded", "fp8"}), "--loaded"));
  CHECK(holds(refused({"a.json", "--header", "2x"}), "--header takes a name"));
  CHECK(holds(refused({"a.json", "--header", "a::b"}), "--header takes a name"));
  CHECK(holds(refused({"a.json", "--block", "a:b"}), "--block takes a name"));
  CHECK(holds(refused({"a.json", "--unit", "B"}), "--unit takes NAME=TYPE"));
  CHECK(holds(refused({"a.json", "--pack", "--explain"}), "keep one"));
  CHECK(holds(refused({"a.json", "--nonsense"}), "unknown option"));
  CHECK(holds(refused({"--policies", "Nothing"}), "--policies: 'Nothing' is none"));
  CHECK(holds(refused({"a.json", "--policies", "FullShard"}), "leave one of them out"));
}

TEST_CASE("settings decide what a file leaves open") {
  const std::string file = folder + "found/zero3_auto.json";
  CHECK(program({file, "--pack", "--mixed-precision", "bf16", "--hidden-size", "100"}).out ==
        "FullShard, PersistBelow<1000>, MaxLive<1000000000>, "
        "ReuseWithin<1000000000>, ClipNorm, AdamW, MixedPrecision<bf16, bf16>\n");
  CHECK(program({folder + "found/fsdp2_two_layers.yaml", "--pack", "--block", "my::Text", "--unit",
                 "Qwen3_5VisionBlock=my::Vision"})
            .out ==
        "FullShard, WrapEach<my::Text, my::Vision>, AdamW, MixedPrecision<bf16, bf16>\n");
  CHECK(program({folder + "written/by_file.yaml", "--pack"}).status == 3);
  CHECK(program({folder + "written/by_file.yaml", "--pack", "--root", folder}).status == 0);
}

TEST_CASE("policies to files and back") {
  const Ended json = program({"--policies", "sx::ShardGradOp, Lion, ClipValue", "--deepspeed"});
  CHECK(json.status == 0);
  CHECK(json.out.starts_with("// cannot be said: clipping, ClipValue; this says ClipNorm\n{\n"));
  const Ended back = program({make_file("back.json", json.out), "--pack"});
  CHECK(back.status == 0);
  CHECK(back.out == "ShardGradOp, ClipNorm, Lion, FullPrecision\n");
  const Ended yaml = program({"--policies",
                              "HybridShard<2>, WrapEach<gpt::Block>, AdamW, "
                              "MixedPrecision<bf16, bf16>",
                              "--ranks", "8", "--accelerate"});
  CHECK(yaml.status == 0);
  const Ended again = program({make_file("back.yaml", yaml.out), "--pack"});
  CHECK(again.out == "HybridShard<2>, WrapEach<gpt::Block>, AdamW, MixedPrecision<bf16, bf16>\n");
  const Ended table = program({"--policies", "FullShard", "--explain"});
  CHECK(table.status == 0);
  CHECK(table.out.starts_with("| group | FSDP | DeepSpeed | here |\n"));
}

TEST_CASE("--output writes a file, --depfile of what it was made") {
  const std::string path = scratch() / "made.hpp", rule = scratch() / "made.d";
  const std::string file = folder + "written/by_file.yaml";
  const Words words{file, "--root", folder, "--header", "Zero3", "--output", path};
  const Ended ended = program(words + Words{"--depfile", rule});
  CHECK(ended.status == 0);
  CHECK(ended.out.empty());
  CHECK(holds(read_file(path), "struct Zero3 {"));
  CHECK(read_file(rule) == path + ": " + file + " " + folder + "written/zeropp.json\n");
  const Ended bad = program({file, "--depfile", rule});
  CHECK(bad.status == 2);
  CHECK(holds(bad.err, "give FILE and --output"));
  CHECK(program({folder + "found/zero3_block.yaml", "--output", "/nowhere/x"}).status == 1);
  CHECK(run({STRATEGY_FROM_CONFIG, "--help"}, "/dev/full").status == 1);
}
