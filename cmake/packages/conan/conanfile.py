# SPDX-License-Identifier: Apache-2.0
# A Conan 2 recipe of the checkout that it is in: docs/installing.md.
import os

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy


class Shardexpr(ConanFile):
    name = "shardexpr"
    version = "0.1.0"
    description = "Sharded training as types: FSDP and ZeRO in header-only C++20"
    license = "Apache-2.0"
    topics = ("training", "sharding", "fsdp", "zero", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    # The names of the components of the CMake package. oneDNN 2 is the system's; so are CUDA and
    # NCCL, which need no option: CMake finds them where a program asks for them.
    options = {
        "blas": [True, False],
        "config": [True, False],
        "liburing": [True, False],
        "mpi": [True, False],
        "onednn": [True, False],
    }
    default_options = {
        "blas": False,
        "config": False,
        "liburing": False,
        "mpi": False,
        "onednn": False,
    }

    def export_sources(self):
        root = os.path.join(self.recipe_folder, "..", "..", "..")
        for pattern in (
            "CMakeLists.txt",
            "LICENSE",
            "cmake/*.cmake",
            "cmake/*.in",
            "include/*",
            "examples/strategy_from_config/*",
        ):
            copy(self, pattern, src=root, dst=self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/3.4.0", transitive_headers=True)
        if self.options.blas:
            self.requires("openblas/[>=0.3.20 <1]", transitive_headers=True, transitive_libs=True)
        if self.options.liburing:
            self.requires("liburing/[>=2.2 <3]", transitive_headers=True, transitive_libs=True)
        if self.options.mpi:
            self.requires("openmpi/[>=4 <6]", transitive_headers=True, transitive_libs=True)
        if self.options.config:
            self.requires("yaml-cpp/[>=0.7 <1]")
            self.requires("nlohmann_json/[>=3.11 <4]")

    def validate(self):
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration("shardexpr is tested on Linux alone")
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for name in ("TESTS", "BENCHMARKS", "EXAMPLES", "NATIVE"):
            toolchain.cache_variables["SHARDEXPR_" + name] = "OFF"
        toolchain.cache_variables["SHARDEXPR_INSTALL"] = "ON"
        for option in ("blas", "config", "liburing", "mpi", "onednn"):
            wanted = self.options.get_safe(option)
            toolchain.cache_variables["SHARDEXPR_" + option.upper()] = "ON" if wanted else "OFF"
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()

    def package_id(self):
        # Headers are the same everywhere, whatever is found beside them.
        if not self.info.options.config:
            self.info.clear()

    def package_info(self):
        # Our own package is found, with its components, and none that Conan would write.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "shardexpr")]
        self.cpp_info.libdirs = []
        if not self.options.config:
            self.cpp_info.bindirs = []
        self.cpp_info.cxxflags = ["-fno-math-errno"]
        self.cpp_info.system_libs = ["pthread"]
