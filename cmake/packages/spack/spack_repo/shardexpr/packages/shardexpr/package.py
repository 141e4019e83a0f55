# SPDX-License-Identifier: Apache-2.0
# A Spack recipe of the checkout that it is in: docs/installing.md.
import os

from spack.package import *
from spack_repo.builtin.build_systems.cmake import CMakePackage


class Shardexpr(CMakePackage):
    """Sharded training as types: FSDP and ZeRO in header-only C++20."""

    git = "file://" + os.path.abspath(os.path.join(os.path.dirname(__file__), *[".."] * 7))

    license("Apache-2.0")

    version("0.1.0", branch="main")

    # The names of the components of the CMake package.
    variant("blas", default=False, description="Matrix products by OpenBLAS")
    variant("config", default=False, description="strategy_from_config and shardexpr_strategy()")
    variant("cuda", default=False, description="GPUs")
    variant("liburing", default=False, description="State on a disk by io_uring")
    variant("mpi", default=False, description="Ranks that are processes")
    variant("nccl", default=False, description="GPUs joined by NCCL", when="+cuda")
    variant("onednn", default=False, description="Products of bf16 by oneDNN")

    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("eigen@3.4")
    depends_on("openblas", when="+blas")
    depends_on("nlohmann-json@3.11:", when="+config")
    depends_on("yaml-cpp@0.7:", when="+config")
    depends_on("cuda@12:", when="+cuda")
    depends_on("liburing@2.2:", when="+liburing")
    depends_on("mpi@3:", when="+mpi")
    depends_on("nccl", when="+nccl")
    depends_on("onednn@2:2 cpu_runtime=omp", when="+onednn")

    conflicts("%gcc@:11", msg="shardexpr needs C++20 as g++ 12 has it")
    conflicts("%clang@:13", msg="shardexpr needs C++20 as clang 14 has it")

    def cmake_args(self):
        args = [
            self.define("SHARDEXPR_TESTS", False),
            self.define("SHARDEXPR_BENCHMARKS", False),
            self.define("SHARDEXPR_EXAMPLES", False),
            self.define("SHARDEXPR_NATIVE", False),
            self.define("SHARDEXPR_INSTALL", True),
        ]
        for variant in ("blas", "config", "liburing", "mpi", "onednn"):
            args.append(self.define_from_variant("SHARDEXPR_" + variant.upper(), variant))
        return args
