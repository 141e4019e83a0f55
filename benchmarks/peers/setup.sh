#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment with the peers, PyTorch and DeepSpeed, in the versions that
# requirements.txt pins, and compiles DeepSpeed's CPU Adam.
#
#   benchmarks/peers/setup.sh [DIR [OPTION...]]     DIR: build/peers; options go to pip install
#
# On x86, PyPI's torch brings CUDA's libraries, some 3 GB, and uses none of them here; a mirror with
# a build for CPUs alone is named by an option: --index-url URL.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
directory=${1:-$here/../../build/peers}
[ $# -eq 0 ] || shift
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
for tool in python3 g++; do
  command -v "$tool" >/dev/null || {
    echo "setup.sh: no $tool; install it (Debian: python3, python3-venv, g++)" >&2
    exit 2
  }
done
python3 -c 'import ensurepip' 2>/dev/null || {
  echo "setup.sh: python3 has no ensurepip; install it (Debian: python3-venv)" >&2
  exit 2
}
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: python3 is older than 3.11, which these versions need" >&2
  exit 2
}
python3 -m venv "$directory"
# DeepSpeed is installed as it is; what it compiles, it compiles when it is first used.
export DS_BUILD_OPS=0 DS_ACCELERATOR=cpu
PATH=$directory/bin:$PATH
"$directory/bin/pip" install --disable-pip-version-check --requirement "$here/requirements.txt" "$@"
echo "setup.sh: compiling DeepSpeed's CPU Adam, some minutes"
"$directory/bin/python" - <<'PYTHON'
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

p = torch.nn.Parameter(torch.ones(64))
p.grad = torch.ones(64)
DeepSpeedCPUAdam([p]).step()
print(f"setup.sh: PyTorch {torch.__version__} is ready, CPU Adam's first step: {p[0].item():.4f}")
PYTHON
