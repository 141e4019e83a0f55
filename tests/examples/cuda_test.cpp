// SPDX-License-Identifier: Apache-2.0
// train_gpt_cuda as a user meets it, over an emulated runtime with two GPUs: what it says of the
// machine, that its plans are what it does, that it learns.
#include <cstdlib>
#include <string>
#include <vector>

#include "json.hpp"
#include "program.hpp"
#include <doctest/doctest.h>

namespace {

/// How many GPUs a program finds that is started meanwhile.
struct Gpus {
  explicit Gpus(const char* count) { setenv("EMULATED_GPUS", count, 1); }
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;
  ~Gpus() { unsetenv("EMULATED_GPUS"); }
};

/// Refused by one line that says `words`.
void check_refused(const Ended& ended, const std::string& words) {
  CAPTURE(ended.err);
  CHECK(ended.status == 2);
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("train_gpt_cuda: "));
  CHECK(ended.err.find(words) != std::string::npos);
}

std::string curve(const Words& options) {
  const std::string path = scratch() / "curve.jsonl";
  const Ended ended = train(Words{"--log", path, "--quiet"} + options);
  CAPTURE(ended.err);
  REQUIRE(ended.status == 0);
  std::string all;
  const std::vector<std::string> lines = lines_of(read_file(path));
  for (std::size_t i = 1; i + 1 < lines.size(); ++i) {
    const Json event = Json::parse(lines[i]);
    all += event["loss"].text + ' ' + event["grad_norm"].text + '\n';
  }
  return all;
}

TEST_CASE("every strategy of train_gpt_cuda is on Cuda, and its plan equals its run") {
  const std::vector<Listed> all = strategies();
  CHECK(all.size() >= 7);
  for (const Listed& strategy : all) CHECK(strategy.type.find("On<Cuda>") != std::string::npos);
  const Ended ended = train(Words{"--compare", "--steps", "1", "--accumulate", "2"} + nvme());
  CAPTURE(ended.err);
  CAPTURE(ended.out);
  CHECK(ended.status == 0);
  CHECK(without_notices(ended.err) == "");
  CHECK(ended.out.ends_with("the plan equals the run to the byte\n"));
  for (const Listed& strategy : all)
    CHECK(ended.out.find("\n" + strategy.name + ' ') != std::string::npos);
}

TEST_CASE("without a GPU one line says so; what needs none still works") {
  const Gpus none{"0"};
  check_refused(train({}), "there is no GPU: no CUDA-capable device is detected; run where there");
  check_refused(train(Words{"--compare"} + nvme()), "there is no GPU: ");
  CHECK(run({TRAIN_GPT, "--list"}).status == 0);
  const Ended help = run({TRAIN_GPT, "--help"});
  CHECK(help.status == 0);
  CHECK(help.out.starts_with("usage: train_gpt_cuda --data FILE"));
  CHECK(help.out.find("--async") == std::string::npos);
}

TEST_CASE("what a GPU cannot hold is refused with the numbers, before it is allocated") {
  const Words large{"--embed", "4096", "--layers", "24"};
  check_refused(train(large), "the free memory of GPU 0 has 4.00 GiB");
  // What two GPUs hold, a rank each, is too much for both ranks on one.
  const Words half{"--embed", "512", "--layers", "48", "--strategy", "no_shard"};
  const auto refusal = [](const Ended& ended) {
    return ended.err.find("the free memory of") != std::string::npos;
  };
  {
    const Gpus one{"1"};
    const Ended ended = train(half + Words{"--steps", "1"});
    check_refused(ended, "(2 ranks of ");
    CHECK(refusal(ended));
  }
  check_refused(train(large + Words{"--ranks", "3"}), "(2 ranks of ");  // ranks 0 and 2
}

TEST_CASE("--trace writes what the GPU's streams did") {
  const std::string path = scratch() / "trace.json";
  const Words traced{"--steps", "1", "--trace", path, "--strategy"};
  const Ended ended = train(traced + Words{"offload_all"});
  CAPTURE(ended.err);
  REQUIRE(ended.status == 0);
  const std::string trace = read_file(path);
  for (const char* name : {"forward", "backward", "\"up\"", "\"down\"", "update"})
    CHECK(trace.find(name) != std::string::npos);
  check_refused(train(traced + Words{"full_shard"}),
                "--trace records what runs on Cuda, in this program under mixed_bf16, offload_all");
}

TEST_CASE("--async is refused: streams of a GPU always are") {
  check_refused(train({"--async"}), "--async: streams of a GPU always are; leave it out");
}

TEST_CASE("train_gpt_cuda learns, and shards alike to the bit on one GPU as on two") {
  const std::string path = scratch() / "learned.jsonl";
  const Ended ended =
      train({"--ranks", "1", "--lr", "0.02", "--steps", "32", "--quiet", "--log", path});
  REQUIRE(ended.status == 0);
  const std::vector<std::string> lines = lines_of(read_file(path));
  CHECK(Json::parse(lines.back())["loss"].real() <
        0.95 * Json::parse(lines.front())["unigram_entropy"].real());

  const Words two{"--ranks", "2", "--steps", "2"};
  const std::string whole = curve(two + Words{"--strategy", "no_shard"});
  CHECK(lines_of(whole).size() == 2);
  CHECK(curve(two + Words{"--strategy", "full_shard"}) == whole);
  const Gpus one{"1"};
  CHECK(curve(two + Words{"--strategy", "shard_grad_op"}) == whole);
}

}  // namespace
