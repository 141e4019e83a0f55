#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# benchmarks/report/run.sh [--quick] [--out DIR]
# Builds bench_strategies, runs every strategy, and makes the report of it in DIR (default:
# benchmarks/results). Some 10 minutes of compiling and as many of running; leave the machine alone
# meanwhile. --quick: the few strategies of bench_strategies_some on a small model, to see that it
# works; DIR is then build/release/report unless it is given.
# SHARDEXPR_SWAP_DIR: a folder on the disk on which state may lie (default: in the build tree).
set -eu
cd "$(dirname "$0")/../.."
. cmake/setup.sh
quick=
out=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=yes ;;
    --out)
      out=${2:-}
      [ -n "$out" ] || {
        echo "run.sh: --out takes a folder" >&2
        exit 2
      }
      shift
      ;;
    *)
      sed -n '3,8s/^# //p' "$0" >&2
      exit 2
      ;;
  esac
  shift
done
setup g++ cmake ninja-build libeigen3-dev libopenblas-pthread-dev libdnnl-dev liburing-dev \
  libbenchmark-dev python3-minimal python3-matplotlib

# The system's own Python has the package, whichever stands first on PATH.
python=
for candidate in python3 /usr/bin/python3; do
  if $candidate -c 'import matplotlib' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || {
  echo "run.sh: no python3 here can import matplotlib; install Debian's python3-matplotlib" >&2
  exit 2
}

build=build/release
program=bench_strategies
options="--steps=3"
if [ -n "$quick" ]; then
  program=bench_strategies_some
  options="--size=0 --steps=1"
  out=${out:-$build/report}
fi
out=${out:-benchmarks/results}
[ -f $build/build.ninja ] || cmake --preset release
cmake --build $build --target $program --parallel "${JOBS:-2}"
SHARDEXPR_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
export SHARDEXPR_COMMIT
swap=${SHARDEXPR_SWAP_DIR:-$build}
mkdir -p "$out/timelines"

# Each of two ranks has a core; hybrid strategies, and those that reshard, need two groups.
record() {
  # shellcheck disable=SC2086  # options is a list of words
  $build/bin/$program $options --swap="$swap" "$@"
}
record --benchmark_filter='/ranks:2/|^HybridShard.*/ranks:4/|Reshard.*/ranks:4/' \
  --benchmark_out="$out/strategies.json" --benchmark_out_format=json
record --timelines="$out/timelines" \
  --benchmark_filter='^FullShard(, Backward[A-Z][a-z]*)?, FullPrecision/ranks:2/network:[1-9]' >/dev/null
$python benchmarks/report/report.py --records "$out" --out "$out"
