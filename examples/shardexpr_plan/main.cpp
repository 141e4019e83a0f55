// SPDX-License-Identifier: Apache-2.0
// Plans every strategy for a GPT of given size on given machines: which fit, and the cheapest.
#include <shardexpr/core/error.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "cost.hpp"
#include "options.hpp"
#include "report.hpp"
#include "row.hpp"

namespace {

using namespace planner;

int fail(int status, std::string what) {
  // A path is the user's own text; a line stays a line all the same.
  for (char& c : what)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  std::fprintf(stderr, "shardexpr_plan: %s\n", what.c_str());
  return status;
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file{path, std::ios::binary | std::ios::trunc};
  file << text;
  if (!file.flush())
    throw BadInput("--json " + path + " cannot be written: " + std::strerror(errno) +
                   "; name a file in a folder that is there");
}

int plan(const Options& o) {
  Rows rows;
  for (const PrecisionKind precision : o.precisions) rows.add(plan_all(o.device, precision, o.job));
  const std::vector<Judged> judged = judge(rows, o.device, o.job, o.limits, o.speeds);
  if (!o.json.empty()) write_file(o.json, json(o, rows, judged));
  if (!o.picture.empty()) draw(o, judged);
  std::string text;
  if (o.csv)
    text = csv(o, judged);
  else if (o.estimates)
    text = heading(o, rows, judged) + "\n" + estimates_report(o, judged);
  else
    text = heading(o, rows, judged) + "\n" + table(o, judged) + choices(o, judged);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    return fail(1, "the output cannot be written: " + std::string{std::strerror(errno)});
  return judged.front().fits() ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse_options(argc, argv);
    if (!options.help) return plan(options);
    std::fputs(usage().c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : fail(1, "the output cannot be written");
  } catch (const BadInput& error) {
    return fail(2, error.what());
  } catch (const shardexpr::Error& error) {  // of a file that --config names
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
