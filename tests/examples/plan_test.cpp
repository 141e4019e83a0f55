// SPDX-License-Identifier: Apache-2.0
// shardexpr_plan as its user meets it: what it prints and writes, its status, what it refuses.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"
#include "run.hpp"
#include <doctest/doctest.h>

namespace {

/// A model that all strategies have a place for; later options replace these.
Ended plan(const Words& options) {
  return run(Words{SHARDEXPR_PLAN, "--layers", "2", "--embed", "64", "--heads", "2", "--vocabulary",
                   "100", "--context", "16", "--world", "16", "--node-ranks", "4"} +
             options);
}
Json record(const Words& options, int status) {
  const std::string path = fresh("plan.json");
  const Ended ended = plan(options + Words{"--json", path});
  CAPTURE(ended.err);
  REQUIRE(ended.status == status);
  std::string text = read_file(path);
  REQUIRE(text.ends_with("\n"));
  text.pop_back();
  return Json::parse(text);
}
std::size_t least(const Json& record, const char* field) {
  std::size_t bytes = static_cast<std::size_t>(-1);
  for (const Json& each : record["strategies"].array())
    bytes = std::min(bytes, each[field].count());
  return bytes;
}

/// What half of the strategies fit into.
std::string middling() {
  static const std::string bytes = [] {
    std::vector<std::size_t> peaks;
    const Json free = record({}, 0);
    for (const Json& each : free["strategies"].array())
      peaks.push_back(each["device_peak_bytes"].count());
    std::sort(peaks.begin(), peaks.end());
    return std::to_string(peaks[peaks.size() / 2]);
  }();
  return bytes;
}

void check_refused(const Words& options, const std::string& what) {
  std::string line;
  for (const std::string& word : options) line += word + ' ';
  CAPTURE(line);
  const Ended ended = plan(options);
  CHECK(ended.status == 2);
  CHECK(ended.out == "");
  CAPTURE(ended.err);
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("shardexpr_plan: "));
  CHECK(ended.err.find(what) != std::string::npos);
}

}  // namespace

TEST_CASE("a device's memory is judged to the byte") {
  const Json free = record({}, 0);
  const std::size_t need = least(free, "device_peak_bytes");
  CHECK(free["strategies"].array().front()["misses"].array().empty());

  const Json exact = record({"--device-memory", std::to_string(need)}, 0);
  std::size_t fit = 0;
  for (const Json& each : exact["strategies"].array()) {
    const bool fits = each["device_peak_bytes"].count() <= need;
    CHECK(each["misses"].array().empty() == fits);
    CHECK(each["missing_device_bytes"].count() ==
          (fits ? 0 : each["device_peak_bytes"].count() - need));
    fit += fits;
  }
  CHECK(fit >= 1);
  CHECK(exact["strategies"].array().front()["device_peak_bytes"].count() == need);
  CHECK(exact["fastest"].string() == exact["strategies"].array().front()["type"].string());

  const Ended less = plan({"--device-memory", std::to_string(need - 1)});
  CHECK(less.status == 3);
  CHECK(less.out.find(
            "nothing fits. The nearest misses by 1 byte on each device:\n  Sharded<Gpt, ") !=
        std::string::npos);
  CHECK_FALSE(record({"--device-memory", std::to_string(need - 1)}, 3).has("fastest"));
}

TEST_CASE("a machine's memory and disk are judged for all of its ranks") {
  const Json free = record({}, 0);
  const Json* on_disk = nullptr;
  for (const Json& each : free["strategies"].array())
    if (each["type"].string().find("FullShard, Offload<OnNvme, OnNvme>, MixedPrecision") !=
        std::string::npos)
      on_disk = &each;
  REQUIRE(on_disk != nullptr);
  const std::size_t host = 4 * (*on_disk)["host_peak_bytes"].count();
  const std::size_t disk = 4 * (*on_disk)["nvme_bytes"].count();
  const auto missing = [&](std::size_t host_bytes, std::size_t disk_bytes) {
    const Json r = record(
        {"--host-memory", std::to_string(host_bytes), "--disk", std::to_string(disk_bytes)}, 0);
    for (const Json& each : r["strategies"].array())
      if (each["type"].string() == (*on_disk)["type"].string())
        return std::pair{each["missing_host_bytes_a_machine"].count(),
                         each["missing_disk_bytes_a_machine"].count()};
    return std::pair{std::size_t{9}, std::size_t{9}};
  };
  CHECK(missing(host, disk) == std::pair{std::size_t{0}, std::size_t{0}});
  CHECK(missing(host - 1, disk) == std::pair{std::size_t{1}, std::size_t{0}});
  CHECK(missing(host, disk - 1) == std::pair{std::size_t{0}, std::size_t{1}});
}

TEST_CASE("of a CPU, both accounts are the machine's memory") {
  const Json free = record({"--device", "cpu"}, 0);
  std::size_t need = static_cast<std::size_t>(-1);
  for (const Json& each : free["strategies"].array())
    need =
        std::min(need, 4 * (each["device_peak_bytes"].count() + each["host_peak_bytes"].count()));
  CHECK(plan({"--device", "cpu", "--host-memory", std::to_string(need)}).status == 0);
  const Ended less = plan({"--device", "cpu", "--host-memory", std::to_string(need - 1)});
  CHECK(less.status == 3);
  CHECK(less.out.find("misses by 1 byte of each machine's memory:") != std::string::npos);
}

TEST_CASE("strategies are sorted: what fits first, then by time, then by memory") {
  const Json r = record({"--device-memory", middling(), "--accumulate", "2"}, 0);
  const auto& all = r["strategies"].array();
  CHECK(all.size() == 112);
  bool has_missed = false;
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const bool fits = all[i]["misses"].array().empty(), next = all[i + 1]["misses"].array().empty();
    has_missed = has_missed || !next;
    CHECK((fits || !next));
    if (fits == next) CHECK(all[i]["step_s"].real() <= all[i + 1]["step_s"].real() + 1.1e-6);
  }
  CHECK(has_missed);
  // Of those that fit, none moves less.
  std::size_t least_moved = static_cast<std::size_t>(-1);
  std::string type;
  for (const Json& each : all) {
    std::size_t moved = 0;
    for (const char* field : {"sent_bytes", "to_device_bytes", "to_host_bytes", "nvme_read_bytes",
                              "nvme_written_bytes"})
      moved += each[field].count();
    if (!each["misses"].array().empty()) continue;
    least_moved = std::min(least_moved, moved);
    if (each["type"].string() == r["moves_least"].string()) type = std::to_string(moved);
  }
  CHECK(type == std::to_string(least_moved));
}

TEST_CASE("CSV holds what JSON does, in its order") {
  const std::string path = fresh("plan.json");
  const Ended ended = plan({"--device-memory", middling(), "--csv", "--json", path});
  REQUIRE(ended.status == 0);
  std::string text = read_file(path);
  text.pop_back();
  const Json r = Json::parse(text);
  const auto lines = lines_of(ended.out);
  const auto& all = r["strategies"].array();
  REQUIRE(lines.size() == all.size() + 1);
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::string line = all[i]["misses"].array().empty() ? "yes" : "no", names = "fits";
    for (std::size_t k = 0; k < all[i].keys.size(); ++k) {
      if (all[i].keys[k] == "misses") continue;
      names += "," + all[i].keys[k];
      const std::string& value = all[i].values[k].text;
      line += "," + (all[i].keys[k] == "type" ? '"' + value + '"' : value);
    }
    CHECK(lines[0] == names);
    CHECK(lines[i + 1] == line);
  }
}

TEST_CASE("a table is at most 120 columns wide and shows every strategy that was asked for") {
  for (const Words& options :
       {Words{}, Words{"--all", "--device-memory", middling(), "--host-memory", "1", "--disk", "1"},
        Words{"--precision", "all", "--accumulate", "2"}, Words{"--device", "cpu"}}) {
    const Ended ended = plan(options + Words{"--embed", "8192", "--heads", "64"});
    std::size_t rows = 0;
    for (const std::string& line : lines_of(ended.out)) {
      CAPTURE(line);
      CHECK((line.size() <= 120 || line.starts_with("  Sharded<")));
      rows += line.starts_with("-  ") || line.starts_with("no: ") || line.starts_with("yes ");
    }
    const std::size_t want = options.empty()            ? 84
                             : options[0] == "--all"    ? 84
                             : options[0] == "--device" ? 44
                                                        : 336;
    CHECK(rows == want);
  }
  const Ended few = plan({"--device-memory", "1GiB"});
  CHECK(few.out.find("12 of the 84 that fit are shown; --all shows all 84\n") != std::string::npos);
  CHECK(few.out.find("84 of 84 strategies fit\n") != std::string::npos);
}

TEST_CASE("a world that hybrid groups do not divide leaves them out, and says so") {
  const Ended ended = plan({"--world", "12", "--device-memory", "1GiB"});
  CHECK(ended.status == 0);
  for (const char* name : {"HybridShard<8>", "HybridShardGradOp<8>"})
    CHECK(ended.out.find(std::string{name} + " is left out: it takes a multiple of 8 ranks, 16 or "
                                             "more\n") != std::string::npos);
  CHECK(record({"--world", "12"}, 0)["left_out"].array().size() == 2);
  CHECK(record({}, 0)["left_out"].array().empty());
}

TEST_CASE("estimates beside plans") {
  const Ended ended = run({SHARDEXPR_PLAN, "--model", "gpt2", "--world", "8", "--estimates"});
  CHECK(ended.status == 0);
  // 18 bytes of 124439808 parameters over 8 ranks, and 4 of the table's 38597376: 0.405 GiB.
  const auto lines = lines_of(ended.out);
  const auto at =
      std::find(lines.begin(), lines.end(), "ZeRO-3, FSDP: Sharded<Gpt, FullShard, ...>");
  REQUIRE(at != lines.end());
  CHECK((at + 1)->find("     0.23     0.40     1.73  |") != std::string::npos);
}

TEST_CASE("models by name, by file, by sizes") {
  const auto model = [](const Words& options) {
    const std::string path = fresh("model.json");
    const Ended ended = run(Words{SHARDEXPR_PLAN, "--json", path} + options);
    CAPTURE(ended.err);
    REQUIRE(ended.status == 0);
    std::string text = read_file(path);
    text.pop_back();
    return Json::parse(text)["model"];
  };
  const Json small = model({"--model", "gpt2"});
  CHECK(small["parameters"].count() == 124'439'808);
  CHECK(model({"--model", "gpt2-xl"})["parameters"].count() == 1'557'611'200);
  const std::string file = make_file(
      "config.json", R"({"model_type": "gpt2", "n_embd": 96, "n_head": 3, "n_layer": 2})");
  const Json read = model({"--config", file, "--context", "64", "--batch", "3"});
  CHECK(read["embed"].count() == 96);
  CHECK(read["heads"].count() == 3);
  CHECK(read["context"].count() == 64);
  CHECK(read["batch"].count() == 3);
  const Json solved = model({"--parameters", "7B", "--layers", "32"});
  CHECK(solved["embed"].count() == 4224);
  CHECK(solved["heads"].count() == 33);
}

TEST_CASE("the plan that the documentation shows is what the program prints and writes") {
  const std::string root = SHARDEXPR_ROOT, path = fresh("plan.json");
  const Ended ended = run({SHARDEXPR_PLAN, "--parameters", "7e9", "--layers", "32", "--context",
                           "4096", "--batch", "2", "--world", "64", "--device-memory", "40GiB",
                           "--host-memory", "1TiB", "--disk", "8TB", "--json", path});
  REQUIRE(ended.status == 0);
  const auto read = [](const std::string& file) {
    std::string text = read_file(file);
    text.pop_back();
    return Json::parse(text);
  };
  const Json now = read(path), committed = read(root + "/benchmarks/results/plan_7b_64.json");
  CHECK(now["fastest"].string() == committed["fastest"].string());
  const auto &all = now["strategies"].array(), &old = committed["strategies"].array();
  REQUIRE(all.size() == old.size());
  for (const Json& each : old) {
    const std::string type = each["type"].string();
    CAPTURE(type);
    const auto same = std::find_if(
        all.begin(), all.end(), [&](const Json& other) { return other["type"].string() == type; });
    REQUIRE(same != all.end());
    for (const std::string& key : each.keys)
      if (key.find("_bytes") != std::string::npos) CHECK((*same)[key].count() == each[key].count());
  }

  // Between the fences: lines of the output, in order, some left out.
  const auto printed = lines_of(ended.out);
  auto at = printed.begin();
  bool is_output = false;
  std::size_t shown = 0;
  for (const std::string& line : lines_of(read_file(root + "/docs/plan.md"))) {
    if (line.starts_with("```")) is_output = line == "```text";
    if (!is_output || line.starts_with("```") || line.empty() || line == "...") continue;
    CAPTURE(line);
    at = std::find(at, printed.end(), line);
    REQUIRE(at != printed.end());
    ++shown;
  }
  CHECK(shown > 15);
}

TEST_CASE("bad input: one line, status 2") {
  const Words bare{SHARDEXPR_PLAN};
  const auto refused = [&](const Words& options, const std::string& what) {
    const Ended ended = run(bare + options);
    CAPTURE(ended.err);
    CHECK(ended.status == 2);
    CHECK(lines_of(ended.err).size() == 1);
    CHECK(ended.err.find(what) != std::string::npos);
  };
  refused({}, "no model; give --parameters and --layers");
  refused({"--parameters", "7e9"}, "no --layers; say how many");
  refused({"--layers", "2"}, "no --parameters and no --embed; give one");
  refused({"--layers", "2", "--embed", "64", "--parameters", "7e9"}, "keep one");
  refused({"--model", "gpt2", "--layers", "2"}, "each say which model; keep one");
  refused({"--model", "gpt2", "--config", "x"}, "each say which model; keep one");
  refused({"--model", "gpt3"}, "--model 'gpt3' is none of gpt2,");
  refused({"--config", fresh("none.json")}, "none.json");
  refused({"--config", make_file("bad.json", "{")}, "bad.json, byte 1");
  refused({"--parameters", "1e4", "--layers", "4000"}, "the nearest with 4000 layers has");
  refused({"--parameters", "1e13", "--layers", "1"}, "the nearest with 1 layers has");
  refused({"--layers", "2", "--embed", "1000"}, "--embed 1000 is no multiple of 64; give --heads");
  refused({"--layers", "2", "--embed", "514", "--heads", "2"},
          "heads of 257 elements: attention on a GPU takes at most 256; give more --heads");
  CHECK(run(bare + Words{"--layers", "2", "--embed", "512", "--heads", "2"}).status == 0);
  CHECK(run(bare + Words{"--layers", "2", "--embed", "514", "--heads", "2", "--device", "cpu"})
            .status == 0);
  refused({"--parameters", "7q", "--layers", "1"}, "--parameters takes a number, as 7e9, 7B");
  refused({"--parameters", "", "--layers", "1"}, "--parameters takes a value");
  refused({"--parameters", "nan", "--layers", "1"}, "--parameters nan is out of range");
  refused({"--parameters", "1", "--layers", "1"}, "--parameters 1 is out of range; give 1e4 to");

  check_refused({"--heads", "3"}, "--heads 3 does not divide --embed 64; choose heads that do");
  check_refused({"--world", "0"}, "--world 0 is out of range; give 1 to 65536");
  check_refused({"--world", "65537"}, "--world 65537 is out of range");
  check_refused({"--world", "-1"}, "--world takes a whole number, got '-1'");
  check_refused({"--world", "99999999999999999999"},
                "--world 99999999999999999999 is out of range");
  check_refused({"--world", "8x"}, "--world takes a whole number, got '8x'");
  check_refused({"--world"}, "--world takes a value; see --help");
  check_refused({"--batch", "1000000", "--context", "16000000", "--embed", "65536"},
                "10^18 bytes of activations");
  check_refused({"--device", "tpu"}, "--device 'tpu' is none of cuda, cpu");
  check_refused({"--precision", "fp8"}, "--precision 'fp8' is none of mixed, fp32, bf16, all");
  for (const char* bad : {"80", "80GiB"})  // fine: bytes, and a unit
    CHECK(plan({"--device-memory", bad}).status != 2);
  for (const char* bad : {"80 GiB", "GiB", "80gib", "-1GiB", "0x10", "nan", "inf", "80GiB/s", "1e"})
    check_refused({"--device-memory", bad},
                  "--device-memory takes bytes, as 80GiB, 1.5TB or 4096, got '" + std::string{bad});
  check_refused({"--disk", "1e30"}, "--disk 1e30 is out of range");
  check_refused({"--network", "fast"}, "--network takes bytes a second, as 25GB/s, got 'fast'");
  check_refused({"--network", "0"}, "--network 0 is out of range; give 1 to");
  check_refused({"--flops", "0"}, "--flops 0 is out of range");
  check_refused({"--flops", "1T"}, "--flops takes a number, got '1T'");
  check_refused({"--device", "cpu", "--device-memory", "1GiB"},
                "--device-memory is of --device cuda");
  check_refused({"--csv", "--estimates"}, "keep one");
  check_refused({"--precision", "all", "--estimates"}, "--estimates stands beside plans of one");
  check_refused({"--picture", "a.pdf"}, "--picture 'a.pdf' ends neither in .png nor in .svg");
  check_refused({"--json", scratch() / "none/a.json"}, "a.json cannot be written: No such file");
  check_refused({"--bogus"}, "unknown option '--bogus'; see --help");
  check_refused({"7e9"}, "unknown option '7e9'");
}

TEST_CASE("help names every option") {
  const Ended ended = run({SHARDEXPR_PLAN, "--help"});
  CHECK(ended.status == 0);
  for (const char* option :
       {"--parameters",  "--layers",     "--embed",      "--heads",     "--vocabulary",
        "--context",     "--model",      "--config",     "--batch",     "--accumulate",
        "--world",       "--node-ranks", "--device ",    "--precision", "--device-memory",
        "--host-memory", "--disk ",      "--flops",      "--network",   "--node-network",
        "--host-link",   "--host-speed", "--disk-speed", "--all",       "--csv",
        "--json",        "--picture",    "--estimates",  "--help"})
    CHECK(ended.out.find(std::string{"  "} + option) != std::string::npos);
}

TEST_CASE("without gnuplot there is no picture, and a line says so") {
  const Ended ended = run({"/usr/bin/env", "PATH=/nowhere", SHARDEXPR_PLAN, "--model", "gpt2",
                           "--picture", scratch() / "none.png"});
  CHECK(ended.status == 2);
  CHECK(ended.out == "");
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.find("--picture needs gnuplot, which is not there; install it") !=
        std::string::npos);
}

TEST_CASE("pictures" * doctest::skip(std::system("command -v gnuplot >/dev/null 2>&1") != 0)) {
  const std::string png = fresh("plan.png"), svg = fresh("it's a plan.svg");
  CHECK(plan({"--device-memory", middling(), "--picture", png}).status == 0);
  CHECK(read_file(png).starts_with("\x89PNG"));
  CHECK(read_file(png).size() > 10'000);
  CHECK(plan({"--device-memory", middling(), "--picture", svg}).status == 0);
  const std::string text = read_file(svg);
  CHECK(text.find("estimated step, seconds") != std::string::npos);
  CHECK(text.find("memory of a device") != std::string::npos);
  const Json r = record({"--device-memory", middling()}, 0);
  // The chosen one stands below: its policies, of the type, as XML.
  std::string policies = r["fastest"].string();
  policies = policies.substr(13, policies.find(", MixedPrecision") - 13);
  for (std::size_t at = 0; (at = policies.find('<', at)) != std::string::npos;)
    policies.replace(at, 1, "&lt;");
  CHECK(text.find("fastest that fits: " + policies + "<") != std::string::npos);
  // Nothing fits: a picture all the same, without a choice.
  const Ended none = plan({"--device-memory", "1", "--picture", svg});
  CHECK(none.status == 3);
  CHECK(read_file(svg).find("fastest that fits") == std::string::npos);
  check_refused({"--picture", scratch() / "none/a.png"}, "gnuplot could not write it");
}
