# SPDX-License-Identifier: Apache-2.0
# Builds and runs tests/house/consumer against the package, with the components of its options.
import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout


class TestPackage(ConanFile):
    settings = "os", "arch", "compiler", "build_type"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["WAY"] = "find_package"
        options = self.dependencies["shardexpr"].options
        for option in ("blas", "config", "liburing", "mpi", "onednn"):
            wanted = options.get_safe(option)
            toolchain.cache_variables["WITH_" + option.upper()] = "ON" if wanted else "OFF"
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        consumer = os.path.join(self.recipe_folder, *[".."] * 4, "tests", "house", "consumer")
        cmake = CMake(self)
        cmake.configure(build_script_folder=os.path.abspath(consumer))
        cmake.build()

    def test(self):
        if can_run(self):
            self.run(os.path.join(self.cpp.build.bindir, "consumer"), env="conanrun")
