// SPDX-License-Identifier: Apache-2.0
// Whole files, as others use them and of this project: fixtures/configs/EXPECTED.tsv says what
// becomes of each.
#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "../../examples/strategy_from_config/write.hpp"
#include "judged.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

const std::string folder = SHARDEXPR_FIXTURES_DIR "/configs/";

/// Of each file: its status, a tab, the outcome.
std::map<std::string, std::string> expected() {
  std::ifstream file{folder + "EXPECTED.tsv"};
  std::map<std::string, std::string> all;
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    const std::size_t tab = line.find('\t');
    all[line.substr(0, tab)] = line.substr(tab + 1);
  }
  return all;
}

judged::Settings settings() {
  judged::Settings settings;
  settings.root = folder;
  return settings;
}

std::string becomes(const std::string& file) {
  try {
    const judged::Judgement judgement = from_config::judge_file(folder + file, settings());
    return (judgement.is_supported() ? "0\t" : "3\t") + judged::outcome(judgement);
  } catch (const judged::BadFile& error) {
    std::string what = error.what();
    if (what.starts_with(folder)) what.erase(0, folder.size());
    return "2\t" + what;
  }
}

/// Leaves of a document: each must have a row.
std::size_t leaves(const from_config::Node& node) {
  if (!node.is_map() || node.keys.empty()) return 1;
  std::size_t count = 0;
  for (const from_config::Node& value : node.values) count += leaves(value);
  return count;
}

}  // namespace

TEST_CASE("each file becomes what is expected, and each has an expectation") {
  const auto all = expected();
  CHECK(all.size() > 45);
  std::size_t files = 0;
  for (const char* part : {"found/", "written/"})
    for (const auto& entry : fs::directory_iterator{folder + part}) {
      const std::string name = part + entry.path().filename().string();
      if (name == "found/SOURCES.tsv") continue;
      ++files;
      CAPTURE(name);
      REQUIRE(all.count(name) == 1);
      CHECK(becomes(name) == all.at(name));
    }
  CHECK(files == all.size());
}

TEST_CASE("each file that was found has a source") {
  std::ifstream file{folder + "found/SOURCES.tsv"};
  std::set<std::string> sources;
  for (std::string line; std::getline(file, line);) {
    sources.insert(line.substr(0, line.find('\t')));
    if (!line.starts_with("file\t")) CHECK(line.ends_with("\tApache-2.0"));
  }
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator{folder + "found"}) {
    ++files;
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    CHECK((name == "SOURCES.tsv" || sources.count(name) == 1));
  }
  CHECK(files == sources.size());
}

TEST_CASE("each leaf of a file has one verdict, and a text") {
  for (const auto& entry : expected()) {
    const std::string &name = entry.first, &outcome = entry.second;
    if (outcome.starts_with("2") || name == "written/by_file.yaml") continue;
    CAPTURE(name);
    const std::string path = folder + name, bytes = from_config::read_bytes(path);
    const bool is_json = name.ends_with(".json");
    const auto document =
        is_json ? from_config::read_json(path, bytes) : from_config::read_yaml(path, bytes);
    const judged::Judgement judgement = from_config::judge_file(path, settings());
    CHECK(judgement.rows.size() == leaves(document.root));
    std::set<std::string> keys;
    for (const judged::Row& row : judgement.rows) {
      CHECK(keys.insert(row.key).second);
      CHECK_FALSE(row.text.empty());
      CHECK(row.line >= 1);
    }
  }
}

TEST_CASE("a file's strategy, written in the file's own format, comes back whole") {
  for (const auto& entry : expected()) {
    const std::string &name = entry.first, &outcome = entry.second;
    if (!outcome.starts_with("0")) continue;
    CAPTURE(name);
    const judged::Judgement judgement = from_config::judge_file(folder + name, settings());
    const auto& d = judgement.strategy;
    // by_file.yaml says it in the JSON that it names.
    const bool is_json = name.ends_with(".json") || name == "written/by_file.yaml";
    const from_config::Written written = is_json
                                             ? write_deepspeed(d, judgement.values, settings())
                                             : write_accelerate(d, judgement.values, settings());
    for (const auto& each : written.unsaid) {
      CAPTURE(each.axis);
      CHECK(each.wanted == each.got);
    }
  }
}
