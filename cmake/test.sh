#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# cmake/test.sh [--only release|clang|asan|tsan]
# Builds and tests every preset in turn and stops at the first that fails.
#   release  g++: most tests, compile-fail cases under g++, clang++ and nvcc where installed
#   clang    clang++: arithmetic, every legal strategy, the emulated GPU
#   asan     clang++, address and undefined behaviour: most test programs
#   tsan     clang++, data races: those with threads
# JOBS=n builds and tests n at a time (default 2).
set -eu
cd "$(dirname "$0")/.."

presets="release clang asan tsan"
while [ $# -gt 0 ]; do
  case $1 in
    --only)
      presets=${2:-}
      case $presets in
        release | clang | asan | tsan) ;;
        *)
          echo "test.sh: --only takes release, clang, asan or tsan" >&2
          exit 2
          ;;
      esac
      shift 2
      ;;
    *)
      sed -n '3,9s/^# //p' "$0" >&2
      exit 2
      ;;
  esac
done

. cmake/setup.sh
setup g++ cmake ninja-build libeigen3-dev libopenblas-pthread-dev libdnnl-dev liburing-dev \
  doctest-dev libbenchmark-dev bible-kjv bible-kjv-text ccache clang clang-format libclang-rt-14-dev \
  libopenmpi-dev openmpi-bin libmpich-dev mpich iproute2 libyaml-cpp-dev nlohmann-json3-dev \
  doxygen pkgconf python3 python3-matplotlib gnuplot-nox

# A cache of compilers serves every checkout: paths below it count from it.
export CCACHE_BASEDIR="${CCACHE_BASEDIR:-$PWD}" CCACHE_NOHASHDIR="${CCACHE_NOHASHDIR:-1}"

jobs=${JOBS:-2}
summary=
seconds() { date +%s; }

run_preset() {
  echo
  echo "== $1: configure and build"
  cmake --preset "$1" || return 1
  cmake --build --preset "$1" --parallel "$jobs" || return 1
  echo
  echo "== $1: test"
  # ThreadSanitizer's memory map breaks under strong address randomization.
  launch=
  if [ "$1" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    launch="setarch $(uname -m) -R"
  fi
  $launch ctest --preset "$1" --parallel "$jobs" --output-log "build/$1/ctest.log" || return 1
}

for preset in $presets; do
  begin=$(seconds)
  if ! run_preset "$preset"; then
    printf '%s' "$summary"
    echo
    echo "== FAILED: preset $preset"
    exit 1
  fi
  result=$(grep 'tests passed' "build/$preset/ctest.log" | tail -n 1)
  summary="$summary
$(printf '%-8s' "$preset") $result, $(($(seconds) - begin)) s with the build"
done

echo
echo "== every preset passed$summary"
