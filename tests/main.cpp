// SPDX-License-Identifier: Apache-2.0
// The main of every test program. doctest calls a run without any test case a success; we do not.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>

#include "support/listener.hpp"
#include <doctest/doctest.h>

namespace {

unsigned cases_run = 0;

struct CaseCounter : Listener {
  using Listener::Listener;
  void test_run_end(const doctest::TestRunStats& stats) override {
    cases_run = stats.numTestCasesPassingFilters;
  }
};

}  // namespace

REGISTER_LISTENER("cases", 1, CaseCounter);

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int failed = context.run();
  if (context.shouldExit() || failed != 0) return failed;
  if (cases_run == 0) {
    std::fputs("no test case ran: nothing was tested\n", stderr);
    return 3;
  }
  return 0;
}
