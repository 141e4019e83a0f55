# SPDX-License-Identifier: Apache-2.0
# Sourced by quickstart.sh and test.sh (POSIX sh):
#   setup <Debian package>...
# Installs what is missing with apt-get and does nothing when all is there. Without root, or without
# apt-get, it says what to install and exits with status 2.

# The command that a package is wanted for: found anywhere on PATH, it counts as installed.
setup_command() {
  case $1 in
    g++) echo g++ ;;
    cmake) echo cmake ;;
    ninja-build) echo ninja ;;
    ccache) echo ccache ;;
    clang) echo clang++ ;;
    clang-format) echo clang-format ;;
    bible-kjv) echo bible ;;
    openmpi-bin) echo mpirun.openmpi ;;
    mpich) echo mpirun.mpich ;;
    iproute2) echo ip ;;
    doxygen) echo doxygen ;;
    python3) echo python3 ;;
    pkgconf) echo pkg-config ;;
    gnuplot-nox) echo gnuplot ;;
  esac
}

# The headers that a package is wanted for, where there is no dpkg to ask.
setup_header() {
  case $1 in
    libeigen3-dev) echo eigen3/Eigen/Core ;;
    libopenblas-pthread-dev) echo openblas_config.h ;;
    libdnnl-dev) echo oneapi/dnnl/dnnl.hpp ;;
    liburing-dev) echo liburing.h ;;
    doctest-dev) echo doctest/doctest.h ;;
    libbenchmark-dev) echo benchmark/benchmark.h ;;
    libopenmpi-dev | libmpich-dev) echo mpi.h ;;
    libyaml-cpp-dev) echo yaml-cpp/yaml.h ;;
    nlohmann-json3-dev) echo nlohmann/json.hpp ;;
  esac
}

setup_has() {
  setup_probe=$(setup_command "$1")
  if [ -n "$setup_probe" ]; then
    command -v "$setup_probe" >/dev/null 2>&1
    return
  fi
  if command -v dpkg-query >/dev/null 2>&1; then
    dpkg-query -W -f='${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed'
    return
  fi
  setup_probe=$(setup_header "$1")
  [ -z "$setup_probe" ] || [ -e "/usr/include/$setup_probe" ] ||
    [ -e "/usr/local/include/$setup_probe" ] || [ -e "/usr/include/openblas/$setup_probe" ]
}

setup() {
  setup_missing=
  for setup_package in "$@"; do
    setup_has "$setup_package" || setup_missing="$setup_missing $setup_package"
  done
  [ -n "$setup_missing" ] || return 0
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "shardexpr: install the equivalents of these Debian packages and run again:$setup_missing" >&2
    exit 2
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "shardexpr: as root, run 'apt-get update && apt-get install --no-install-recommends$setup_missing'" >&2
    exit 2
  fi
  echo "shardexpr: installing$setup_missing"
  apt-get update -qq || {
    echo "shardexpr: apt-get update failed; still missing:$setup_missing" >&2
    exit 2
  }
  # shellcheck disable=SC2086  # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $setup_missing \
    </dev/null || {
    echo "shardexpr: apt-get could not install$setup_missing" >&2
    exit 2
  }
}
