// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/plan/plan.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "options.hpp"
#include <sys/ioctl.h>
#include <unistd.h>

/// Bytes in the unit that reads best. A double, for jobs beyond 64 bits.
inline std::string human_bytes(double value) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

/// One line on standard error, whatever names it quotes.
inline void complain(std::string what) {
  for (char& c : what)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  std::fprintf(stderr, "%s: %s\n", program, what.c_str());
}

/// Memory of this machine, in bytes.
inline double machine_bytes() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
}

/// Refuses what a place cannot hold; bytes of one rank.
/// Errors:  BadInput, with the numbers.
inline void check_fits_in(const std::string& place, double place_bytes, const char* needs,
                          double rank_bytes, std::size_t ranks) {
  const double needed = rank_bytes * static_cast<double>(ranks);
  if (needed > place_bytes)
    throw BadInput(needs + human_bytes(needed) + " (" + std::to_string(ranks) +
                   (ranks == 1 ? " rank of " : " ranks of ") + human_bytes(rank_bytes) + "), " +
                   place + " has " + human_bytes(place_bytes) +
                   "; take fewer ranks or a smaller model");
}

/// What a run held and sent on rank 0, by the accounts of device and host, by the file's size and
/// by the communicator's count.
struct Measured {
  std::size_t resident_bytes = 0, peak_bytes = 0;  // on the device
  std::size_t host_resident_bytes = 0, host_peak_bytes = 0, nvme_bytes = 0;
  std::size_t sent_bytes_per_step = 0;
};

/// The log: one JSON object a line. Numbers that JSON does not know (NaN, infinity) become null.
class Log {
 public:
  Log() = default;
  /// `goes_on`: behind what is there.
  /// Errors:  BadInput if the file cannot be written.
  Log(const std::string& path, bool goes_on) : path_{path} {
    if (path.empty()) return;
    file_.open(path, goes_on ? std::ios::app : std::ios::trunc);
    if (!file_)
      throw BadInput("--log " + path + " cannot be written: " + std::strerror(errno) +
                     "; name a file in a folder that you may write to");
  }

  void start(const std::string& strategy, const shardexpr::Plan& plan, std::size_t steps_before,
             double unigram_entropy) {
    write("{\"event\":\"start\",\"strategy\":\"" + strategy + "\"" + field("world", plan.world) +
          field("steps_before", steps_before) + field("parameters", plan.parameter_count) +
          ",\"plan\":{\"device_resident_bytes\":" + std::to_string(plan.device_resident_bytes) +
          field("device_peak_bytes", plan.device_peak_bytes) +
          field("parameters_bytes", plan.parameters_bytes) +
          field("gradients_bytes", plan.gradients_bytes) +
          field("optimizer_bytes", plan.optimizer_bytes) +
          field("gathered_bytes", plan.gathered_bytes) +
          field("resharded_bytes", plan.resharded_bytes) +
          field("full_gradients_bytes", plan.full_gradients_bytes) +
          field("activations_bytes", plan.activations_bytes) +
          field("transfers_bytes", plan.transfers_bytes) + field("other_bytes", plan.other_bytes) +
          field("host_resident_bytes", plan.host_resident_bytes) +
          field("host_peak_bytes", plan.host_peak_bytes) +
          field("host_parameters_bytes", plan.host_parameters_bytes) +
          field("host_gradients_bytes", plan.host_gradients_bytes) +
          field("host_optimizer_bytes", plan.host_optimizer_bytes) +
          field("host_transfers_bytes", plan.host_transfers_bytes) +
          field("host_other_bytes", plan.host_other_bytes) + field("nvme_bytes", plan.nvme_bytes) +
          field("sent_bytes", plan.sent_bytes) +
          field("all_gather_sent_bytes", plan.all_gather_sent_bytes) +
          field("reduce_scatter_sent_bytes", plan.reduce_scatter_sent_bytes) +
          field("all_reduce_sent_bytes", plan.all_reduce_sent_bytes) +
          field("all_to_all_sent_bytes", plan.all_to_all_sent_bytes) +
          field("to_device_bytes", plan.to_device_bytes) +
          field("to_host_bytes", plan.to_host_bytes) +
          field("nvme_read_bytes", plan.nvme_read_bytes) +
          field("nvme_written_bytes", plan.nvme_written_bytes) + "}" +
          field("unigram_entropy", unigram_entropy) + "}");
  }
  void step(std::size_t step, const shardexpr::StepResult& result, float learning_rate,
            double tokens_per_s, std::size_t sent_bytes) {
    write("{\"event\":\"step\",\"step\":" + std::to_string(step) + field("loss", result.loss) +
          field("grad_norm", result.gradient_norm) + field("tokens_per_s", tokens_per_s) +
          field("sent_bytes", sent_bytes) +
          field("learning_rate", static_cast<double>(learning_rate)) +
          field("loss_scale", static_cast<double>(result.loss_scale)) +
          field("skipped", std::size_t{result.is_skipped}) + "}");
  }
  void end(double loss, const Measured& measured) {
    write("{\"event\":\"end\"" + field("loss", loss) + ",\"resident_bytes\":{\"device\":" +
          std::to_string(measured.resident_bytes) + field("host", measured.host_resident_bytes) +
          "},\"peak_bytes\":{\"device\":" + std::to_string(measured.peak_bytes) +
          field("host", measured.host_peak_bytes) + "}" + field("nvme_bytes", measured.nvme_bytes) +
          "}");
  }

 private:
  static std::string field(const char* name, std::size_t value) {
    return std::string(",\"") + name + "\":" + std::to_string(value);
  }
  static std::string field(const char* name, double value) {
    char text[40] = "null";
    if (std::isfinite(value)) std::snprintf(text, sizeof text, "%.17g", value);
    return std::string(",\"") + name + "\":" + text;
  }
  void write(const std::string& line) {
    if (!file_.is_open()) return;
    file_ << line << '\n' << std::flush;
    if (!file_)
      throw std::runtime_error("--log " + path_ + ": writing failed: " + std::strerror(errno));
  }

  std::string path_;
  std::ofstream file_;
};

/// What a person sees: a bar that redraws itself on a terminal, a line now and then elsewhere.
class Progress {
 public:
  /// Of steps `before` + 1 to `steps`. `terminal`: standard output may be one.
  Progress(std::size_t before, std::size_t steps, bool quiet, bool terminal)
      : before_{before},
        steps_{steps},
        quiet_{quiet},
        terminal_{terminal && isatty(STDOUT_FILENO) == 1} {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// A run that fails leaves the bar's line.
  ~Progress() { end_line(); }

  void step(std::size_t done, double loss, double tokens_per_s) {
    using Clock = std::chrono::steady_clock;
    if (quiet_) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - began_).count();
    const double left =
        seconds / static_cast<double>(done - before_) * static_cast<double>(steps_ - done);
    if (terminal_) {
      char text[160];
      std::snprintf(text, sizeof text, "%zu/%zu  loss %.4f  %.0f tokens/s  %.0f s left", done,
                    steps_, loss, tokens_per_s, left);
      // One line, whatever the width: a line that wraps cannot be drawn over.
      std::string line = text;
      const std::size_t most = columns() - 1;
      if (most >= line.size() + 8) {
        const std::size_t width = std::min<std::size_t>(30, most - line.size() - 3);
        const std::size_t filled = width * done / steps_;
        line = '[' + std::string(filled, '#') + std::string(width - filled, '.') + "] " + line;
      }
      std::printf("\r%s\033[K", line.substr(0, most).c_str());
      open_ = true;
      if (done == steps_) end_line();
      std::fflush(stdout);
    } else if (done == before_ + 1 || done == steps_ ||
               done * 20 / steps_ != (done - 1) * 20 / steps_) {
      std::printf("step %zu/%zu  loss %.4f  %.0f tokens/s  %.0f s left\n", done, steps_, loss,
                  tokens_per_s, left);
      std::fflush(stdout);
    }
  }

 private:
  /// Of the terminal now: a window may be resized.
  static std::size_t columns() {
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 2) return 80;
    return size.ws_col;
  }
  void end_line() {
    if (!open_) return;
    open_ = false;
    std::printf("\n");
    std::fflush(stdout);
  }

  std::size_t before_, steps_;
  bool quiet_, terminal_, open_ = false;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};
