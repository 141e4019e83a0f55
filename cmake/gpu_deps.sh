#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# cmake/gpu_deps.sh DIR
# On a machine with packages (Debian 12; installs what is missing): fills DIR with what
# cmake/gpu_check.sh needs of others on a machine without: headers of doctest, Google Benchmark, Eigen
# and liburing, libraries of two of them, a text to train on. Plain files alone, about 10 MB, to be
# copied there. The GPU's machine brings CUDA, NCCL and g++.
set -eu
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '3,8s/^# //p' "$0" >&2
  exit 2
fi
if [ -d "$1" ] && [ -n "$(ls -A "$1")" ] && [ ! -e "$1/versions.txt" ]; then
  echo "gpu_deps: $1 has other files; name a folder that is new, empty or made by this script" >&2
  exit 2
fi
mkdir -p "$1"
deps=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
# shellcheck source=cmake/setup.sh
. cmake/setup.sh
setup g++ libeigen3-dev liburing-dev doctest-dev libbenchmark-dev bible-kjv bible-kjv-text

fail() {
  echo "gpu_deps: $1" >&2
  exit 1
}

# Where g++ finds a header: g++'s word for the folder that an #include was found in.
header() {
  found=$(echo "#include <$1>" | g++ -std=c++20 -I/usr/include/eigen3 -M -x c++ - 2>/dev/null |
    tr -s '[:space:]' '\n' | grep "/$1\$" | head -n 1)
  [ -n "$found" ] || fail "the header $1 is not found; install it"
  echo "${found%"/$1"}"
}
# Copies a library: the static one where there is one, else the shared one under the name that
# programs ask for when they start.
library() {
  for name in "lib$1.a" "lib$1.so"; do
    file=$(g++ -print-file-name="$name")
    if [ -e "$file" ] && [ "$file" != "$name" ]; then
      case $name in
        *.a) cp -L "$file" "$deps/lib/$name" ;;
        *) cp -L "$file" "$deps/lib/$(objdump -p "$file" | sed -n 's/^ *SONAME *//p')" ;;
      esac
      return
    fi
  done
  fail "the library $1 is not found; install it"
}
rm -rf "${deps:?}/include" "${deps:?}/lib"
mkdir -p "$deps/include" "$deps/lib"
cp -RL "$(header doctest/doctest.h)/doctest" "$deps/include/"
cp -RL "$(header benchmark/benchmark.h)/benchmark" "$deps/include/"
cp -RL "$(header Eigen/Core)/Eigen" "$deps/include/"
cp -L "$(header liburing.h)/liburing.h" "$deps/include/"
cp -RL "$(header liburing.h)/liburing" "$deps/include/"
library benchmark
library uring

bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //' >"$deps/text.txt"
[ "$(wc -l <"$deps/text.txt")" -gt 30000 ] || fail "bible wrote too little text"

{
  echo "Third-party files for cmake/gpu_check.sh, made by cmake/gpu_deps.sh on $(uname -sm)."
  if command -v dpkg-query >/dev/null 2>&1; then
    dpkg-query -W doctest-dev libbenchmark-dev libeigen3-dev liburing-dev bible-kjv-text
  fi
} >"$deps/versions.txt"
echo "gpu_deps: $deps is ready, $(du -sh "$deps" | cut -f1); on the GPU's machine:"
echo "  cmake/gpu_check.sh --deps DIR"
