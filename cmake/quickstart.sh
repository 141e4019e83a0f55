#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# cmake/quickstart.sh [train_gpt option]...
# Builds train_gpt, trains it on the King James Bible over two ranks, then compares the
# strategies. Options go to both runs, after ours: --ranks 4 replaces --ranks 2. Those that concern the
# first run alone (--strategy, --steps, --log, --quiet) are kept from the second.
set -eu
cd "$(dirname "$0")/.."
. cmake/setup.sh
setup g++ cmake ninja-build libeigen3-dev libopenblas-pthread-dev libdnnl-dev liburing-dev \
  bible-kjv bible-kjv-text

build=build/release
data=$build/data/kjv.txt

# A tree that is configured already keeps its options; `cmake --preset release` turns tests and
# benchmarks on in a tree that began here.
if [ ! -f $build/build.ninja ]; then
  cmake --preset release -DSHARDEXPR_TESTS=OFF -DSHARDEXPR_BENCHMARKS=OFF
fi
cmake --build $build --target train_gpt --parallel "${JOBS:-2}"

if [ ! -s $data ]; then
  mkdir -p $build/data
  bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //' >$data.part  # drops "Ge1:1 "
  [ "$(wc -l <$data.part)" -gt 30000 ] || {
    echo "quickstart: bible wrote too little text to $data.part" >&2
    exit 1
  }
  mv $data.part $data
fi

echo
echo "== training, fully sharded over 2 ranks"
$build/bin/train_gpt --data $data --ranks 2 --strategy full_shard "$@"
echo
echo "== every strategy: bytes per rank and bytes sent per step, predicted and measured"
set -- "$@" --compare
left=$#
while [ "$left" -gt 0 ]; do
  case $1 in
    --strategy | --steps | --log | --trace)
      shift
      [ "$left" -gt 1 ] && left=$((left - 1)) && shift
      ;;
    --quiet) shift ;;
    *)
      set -- "$@" "$1"
      shift
      ;;
  esac
  left=$((left - 1))
done
$build/bin/train_gpt --data $data --ranks 2 --steps 3 "$@"
