// SPDX-License-Identifier: Apache-2.0
// A picture by gnuplot: a point a strategy, memory of a device against the estimated step.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "report.hpp"

namespace planner {
namespace {

constexpr double gib = 1024.0 * 1024 * 1024;

/// A text in a script: a quote stands twice.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string{"''"} : std::string{c};
  return out + "'";
}
std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

struct Look {
  const char *name, *color;
};
constexpr Look shardings[] = {{"FullShard", "1b6ca8"},      {"ShardGradOp", "2a9d5c"},
                              {"ShardOptimizer", "8a9a1f"}, {"NoShard", "b2182b"},
                              {"HybridShard", "e08214"},    {"HybridShardGradOp", "7b3294"}};
/// Of where the optimizer's state is, and whether blocks are rebuilt: filled if so.
struct Shape {
  shardexpr::Place optimizer;
  const char* name;
  int open, filled;
};
constexpr Shape shapes[] = {{shardexpr::Place::device, "optimizer on the device", 6, 7},
                            {shardexpr::Place::host, "optimizer on the host", 8, 9},
                            {shardexpr::Place::nvme, "optimizer on a disk", 4, 5}};

std::string script(const Options& o, const std::vector<Judged>& judged) {
  const bool is_cpu = o.device == DeviceKind::cpu;
  const auto memory = [&](const Judged& j) {
    return static_cast<double>(is_cpu ? j.needs.host : j.needs.device) / gib;
  };
  const auto& limit = is_cpu ? o.limits.host : o.limits.device;
  std::string text = o.picture.ends_with(".svg")
                         ? "set terminal svg size 1080,720 font 'sans,13' background 'white'\n"
                         : "set terminal pngcairo size 1080,720 font 'sans,11'\n";
  // A name that begins with a bar would be a command.
  text += "set output " + quoted((o.picture.front() == '/' ? "" : "./") + o.picture) + "\n";

  std::string plots;
  const auto plot = [&](const std::string& what) { plots += (plots.empty() ? "" : ", ") + what; };
  const auto points = [&](int shape, const std::string& color) {
    return " with points ps 1.3 pt " + std::to_string(shape) + " lc rgb '#" + color + "' ";
  };
  std::size_t blocks = 0;
  for (const bool fits : {false, true})  // those that fit over the others
    for (const Look& look : shardings)
      for (const Shape& shape : shapes)
        for (const bool rebuilt : {false, true}) {
          std::string data;
          for (const Judged& j : judged)
            if (j.row.sharding.substr(0, j.row.sharding.find('<')) == look.name &&
                j.row.optimizer == shape.optimizer && j.row.recomputes == rebuilt &&
                j.fits() == fits)
              data += number(memory(j)) + " " + number(j.estimate.step()) + "\n";
          if (data.empty()) continue;
          const std::string block = "$b" + std::to_string(blocks++);
          text += block + " << EOD\n" + data + "EOD\n";
          plot(block +
               points(rebuilt ? shape.filled : shape.open,
                      (fits ? "" : "c0") + std::string{look.color}) +
               "notitle");
        }
  for (const Look& look : shardings)
    plot("keyentry" + points(7, look.color) + "title '" + look.name + "'");
  for (const Shape& shape : shapes)
    plot("keyentry" + points(shape.open, "555555") + "title '" + shape.name + "'");
  plot("keyentry" + points(7, "555555") + "title 'filled: blocks recomputed'");
  if (o.limits.is_given()) plot("keyentry" + points(7, "c0555555") + "title 'pale: does not fit'");

  const Judged& first = judged.front();
  char title[200];
  std::snprintf(title, sizeof title, "GPT of %.3g parameters, %zu rank%s, %s",
                static_cast<double>(first.row.plan.parameter_count), o.job.world,
                o.job.world == 1 ? "" : "s",
                is_cpu ? "On<Cpu>, Over<Mpi>" : "On<Cuda>, Over<Nccl>");
  text += "set title " + quoted(title) + " noenhanced\n";
  text += "set xlabel " +
          quoted(is_cpu ? "memory of a machine at the peak, GiB"
                        : "memory of a device at the peak, GiB") +
          "\nset ylabel 'estimated step, seconds'\n";
  text += "set logscale xy\nset grid lc rgb '#dddddd'\nset key outside right top Left reverse\n";
  double left = memory(first), right = left, low = first.estimate.step(), high = low;
  for (const Judged& j : judged) {
    left = std::min(left, memory(j));
    right = std::max(right, memory(j));
    low = std::min(low, j.estimate.step());
    high = std::max(high, j.estimate.step());
  }
  if (limit) {
    const double at = static_cast<double>(*limit) / gib;
    left = std::min(left, at);
    right = std::max(right, at);
    const std::string line = "lw 2 dt 2 lc rgb '#b2182b'";
    text += "set arrow from " + number(at) + ", graph 0 to " + number(at) + ", graph 1 nohead " +
            line + "\n";
    plot("keyentry with lines " + line + " title " +
         quoted(is_cpu ? "memory of a machine" : "memory of a device"));
  }
  // Decades alone are too few where all lies within two.
  for (const char* axis : {"x", "y"}) {
    std::string tics;
    for (double decade = 1e-6; decade < 1e7; decade *= 10)
      for (const double step : {1., 2., 5.})
        tics += (tics.empty() ? "" : ",") + number(decade * step);
    text += "set " + std::string{axis} + "tics (" + tics + ")\n";
  }
  constexpr double room = 1.4;
  text += "set xrange [" + number(left / room) + ":" + number(right * room) + "]\nset yrange [" +
          number(low / room) + ":" + number(high * room) + "]\n";
  if (first.fits()) {
    text +=
        "$best << EOD\n" + number(memory(first)) + " " + number(first.estimate.step()) + "\nEOD\n";
    plot("$best with points ps 3 pt 6 lw 2 lc rgb '#000000' title 'fastest that fits'");
    text += "set label 1 " + quoted("fastest that fits: " + first.row.policies) +
            " at screen 0.5, screen 0.035 center noenhanced\nset bmargin 6\n";
  }
  return text + "plot " + plots + "\n";
}

}  // namespace

void draw(const Options& o, const std::vector<Judged>& judged) {
  if (std::system("command -v gnuplot >/dev/null 2>&1") != 0)
    throw BadInput(
        "--picture needs gnuplot, which is not there; install it (Debian: apt-get "
        "install gnuplot-nox)");
  const std::string text = script(o, judged);
  std::FILE* const gnuplot = popen("exec gnuplot >/dev/null 2>&1", "w");
  if (gnuplot == nullptr)
    throw BadInput("--picture: gnuplot cannot be started: " + std::string{std::strerror(errno)});
  // A script of some 10 KiB fits into a pipe, whether it is read or not.
  const bool is_written = std::fwrite(text.data(), 1, text.size(), gnuplot) == text.size();
  if (pclose(gnuplot) != 0 || !is_written)
    throw BadInput("--picture " + o.picture +
                   ": gnuplot could not write it; name a file in a folder that is there");
}

}  // namespace planner
