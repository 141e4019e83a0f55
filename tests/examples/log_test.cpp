// SPDX-License-Identifier: Apache-2.0
// What train_gpt logs: strict JSON, the fields that are promised, and the plan's numbers.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "json.hpp"
#include "program.hpp"
#include <doctest/doctest.h>

namespace {

/// One line of --compare's tables: its name, and that each number has its twin; returns the
/// numbers.
std::vector<std::size_t> check_row(const std::string& line, const std::string& wanted) {
  CAPTURE(line);
  std::istringstream words{line};
  std::string name, bar;
  words >> name;
  CHECK(name == wanted);
  std::vector<std::size_t> numbers;
  for (int pair = 0; pair < 3; ++pair) {
    std::size_t planned = 1, measured = 2;
    words >> planned >> bar >> measured;
    CHECK(bar == "|");
    CHECK(planned == measured);
    numbers.push_back(planned);
  }
  CHECK_FALSE((words >> bar));
  return numbers;
}

}  // namespace

TEST_CASE("the parser of this test is strict") {
  CHECK(Json::parse(R"({"a":{"b":-1.5e-3},"c":"d"})")["a"]["b"].real() == -1.5e-3);
  CHECK(Json::parse("{}").names() == "");
  CHECK(Json::parse("[\n1,\n[],[\n]\n]").array().size() == 3);
  CHECK(Json::parse(R"(["a\"\\\u001f"])").array()[0].string() == "a\"\\\x1f");
  CHECK_THROWS(Json::parse(R"({"a":1.0})")["a"].count());
  CHECK_THROWS(Json::parse(R"({"a":1})")["a"].string());
  for (const char* bad : {"",
                          "{",
                          R"({"a":1)",
                          R"({"a":1}})",
                          R"({"a":1,})",
                          R"({"a"1})",
                          R"({"a":})",
                          R"({a:1})",
                          R"({"a":1,"a":2})",
                          R"({"a":01})",
                          R"({"a":.5})",
                          R"({"a":1.})",
                          R"({"a":nan})",
                          R"({"a":inf})",
                          R"({"a":null})",
                          R"({"a":1e999})",
                          R"({"a":"b)",
                          R"({"a":1} )",
                          R"({"a":+1})",
                          R"({"a":-})",
                          "[1,]",
                          "[1",
                          "[1\n,2]",
                          "[\n\n1]",
                          "[1 ]",
                          R"(["\n"])",
                          R"(["\u0041"])",
                          R"(["\u00g0"])",
                          R"(["\u001)",
                          R"(["\)",
                          "{\"a\":\"\n\"}"}) {
    CAPTURE(bad);
    CHECK_THROWS(Json::parse(bad));
  }
}

TEST_CASE("the log: events, fields, and the plan's numbers") {
  for (const Listed& strategy : strategies())
    for (const std::size_t ranks : {1, 2, 3}) {
      CAPTURE(strategy.name);
      CAPTURE(ranks);
      const std::size_t steps = 4;
      const std::string path = scratch() / "log.jsonl";
      const Ended ended =
          train(strategy.options() + Words{"--ranks", std::to_string(ranks), "--steps",
                                           std::to_string(steps), "--log", path});
      REQUIRE(ended.status == 0);
      const std::string log = read_file(path);
      REQUIRE(log.ends_with('\n'));
      const std::vector<std::string> lines = lines_of(log);
      REQUIRE(lines.size() == steps + 2);

      const Json start = Json::parse(lines.front());
      CHECK(start.names() == "event strategy world steps_before parameters plan unigram_entropy");
      CHECK(start["event"].string() == "start");
      CHECK(start["strategy"].string() == strategy.name);
      CHECK(start["world"].count() == ranks);
      // Embeddings 256 and 16 rows, one block, the last norm: the head is tied.
      CHECK(start["parameters"].count() == (256 + 16) * 16 + 12 * 16 * 16 + 13 * 16 + 2 * 16);
      CHECK(start["unigram_entropy"].real() > 0);
      const Json& plan = start["plan"];
      for (const std::string& name : plan.keys) {
        CAPTURE(name);
        CHECK_NOTHROW((void)plan[name].count());
      }
      CHECK(plan["device_resident_bytes"].count() == plan["parameters_bytes"].count() +
                                                         plan["gradients_bytes"].count() +
                                                         plan["optimizer_bytes"].count());
      CHECK(plan["device_peak_bytes"].count() ==
            plan["device_resident_bytes"].count() + plan["gathered_bytes"].count() +
                plan["resharded_bytes"].count() + plan["full_gradients_bytes"].count() +
                plan["activations_bytes"].count() + plan["transfers_bytes"].count() +
                plan["other_bytes"].count());
      CHECK(plan["host_resident_bytes"].count() == plan["host_parameters_bytes"].count() +
                                                       plan["host_gradients_bytes"].count() +
                                                       plan["host_optimizer_bytes"].count());
      CHECK(plan["host_peak_bytes"].count() == plan["host_resident_bytes"].count() +
                                                   plan["host_transfers_bytes"].count() +
                                                   plan["host_other_bytes"].count());
      const bool is_offloaded = strategy.type.find("Offload<") != std::string::npos;
      for (const char* name :
           {"transfers_bytes", "host_peak_bytes", "to_device_bytes", "to_host_bytes"})
        CHECK((plan[name].count() != 0) == is_offloaded);
      for (const char* name : {"nvme_bytes", "nvme_read_bytes", "nvme_written_bytes"})
        CHECK((plan[name].count() != 0) == strategy.is_on_disk());
      CHECK(plan["sent_bytes"].count() ==
            plan["all_gather_sent_bytes"].count() + plan["reduce_scatter_sent_bytes"].count() +
                plan["all_reduce_sent_bytes"].count() + plan["all_to_all_sent_bytes"].count());
      CHECK((plan["sent_bytes"].count() == 0) == (ranks == 1));

      double loss = 0;
      for (std::size_t step = 1; step <= steps; ++step) {
        const Json event = Json::parse(lines[step]);
        CHECK(event.names() ==
              "event step loss grad_norm tokens_per_s sent_bytes learning_rate loss_scale skipped");
        CHECK(event["loss_scale"].real() == 1);
        CHECK(event["skipped"].count() == 0);
        CHECK(event["event"].string() == "step");
        CHECK(event["step"].count() == step);
        CHECK(event["grad_norm"].real() > 0);
        CHECK(event["tokens_per_s"].real() > 0);
        CHECK(event["sent_bytes"].count() == plan["sent_bytes"].count());
        loss = event["loss"].real();
        CHECK(loss > 0);
        CHECK(loss < 10);
      }

      const Json end = Json::parse(lines.back());
      CHECK(end.names() == "event loss resident_bytes peak_bytes nvme_bytes");
      CHECK(end["event"].string() == "end");
      CHECK(end["loss"].real() == loss);
      CHECK(end["resident_bytes"].names() == "device host");
      CHECK(end["peak_bytes"].names() == "device host");
      CHECK(end["resident_bytes"]["device"].count() == plan["device_resident_bytes"].count());
      CHECK(end["peak_bytes"]["device"].count() == plan["device_peak_bytes"].count());
      CHECK(end["resident_bytes"]["host"].count() == plan["host_resident_bytes"].count());
      CHECK(end["peak_bytes"]["host"].count() == plan["host_peak_bytes"].count());
      CHECK(end["nvme_bytes"].count() == plan["nvme_bytes"].count());

      // What is printed first names each place that holds something.
      const std::string second = lines_of(ended.out).at(1);
      CAPTURE(second);
      CHECK(second.find(" a rank (peak), ") != std::string::npos);
      CHECK((second.find(" on its host (peak), ") != std::string::npos) == is_offloaded);
      CHECK((second.find(" on a disk, ") != std::string::npos) == strategy.is_on_disk());

      // What is printed is what is logged.
      char last[40];
      std::snprintf(last, sizeof last, "final loss %.4f", loss);
      CHECK(lines_of(ended.out).back().starts_with(last));
    }
}

TEST_CASE("a new run replaces the log") {
  const std::string path = make_file("again.jsonl", std::string(100'000, 'x'));
  REQUIRE(train({"--log", path}).status == 0);
  CHECK(lines_of(read_file(path)).size() == 5);
}

TEST_CASE("--compare: each strategy in a line, planned equal to measured") {
  for (const char* ranks : {"1", "3"}) {
    const Ended ended = train(Words{"--compare", "--ranks", ranks} + nvme());
    CHECK(ended.status == 0);
    CHECK(without_notices(ended.err) == "");
    const std::vector<Listed> all = strategies();
    const std::vector<std::string> lines = lines_of(ended.out);
    std::vector<Listed> offloaded;
    for (const Listed& strategy : all)
      if (strategy.type.find("Offload<") != std::string::npos) offloaded.push_back(strategy);
    const std::size_t second = 2 + all.size(), more = offloaded.empty() ? 0 : 1 + offloaded.size();
    REQUIRE(lines.size() == second + more + 1);
    CHECK(lines[0].starts_with(ranks));
    CHECK(lines.back() == "the plan equals the run to the byte");
    for (std::size_t i = 0; i < all.size(); ++i) check_row(lines[i + 2], all[i].name);
    // What lies elsewhere than on the device, of the strategies that have such.
    if (more != 0) CHECK(lines[second].starts_with("strategy "));
    for (std::size_t i = 0; i < offloaded.size(); ++i) {
      const auto numbers = check_row(lines[second + 1 + i], offloaded[i].name);
      CHECK(numbers[0] <= numbers[1]);
      CHECK(numbers[1] > 0);
      CHECK((numbers[2] > 0) == offloaded[i].is_on_disk());
    }
  }
}
