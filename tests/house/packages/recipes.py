# SPDX-License-Identifier: Apache-2.0
"""recipes.py conan|spack|vcpkg ROOT VERSION SOURCES PART...

Executes the recipe below ROOT/cmake/packages in the place of its package manager, for which a few
names stand. Says what is wrong with the recipe, and fails; else prints, one a line, the arguments
of CMake with the PARTs switched on. What Conan's recipe exports is copied to SOURCES.
"""

import fnmatch
import importlib.util
import json
import os
import shutil
import sys
import types

sys.dont_write_bytecode = True

# What a part of the library, by its name as a component of the CMake package, depends on.
PARTS = {
    "conan": {
        "blas": ["openblas/[>=0.3.20 <1]"],
        "config": ["yaml-cpp/[>=0.7 <1]", "nlohmann_json/[>=3.11 <4]"],
        "liburing": ["liburing/[>=2.2 <3]"],
        "mpi": ["openmpi/[>=4 <6]"],
        "onednn": [],
    },
    "spack": {
        "blas": ["openblas"],
        "config": ["nlohmann-json@3.11:", "yaml-cpp@0.7:"],
        "cuda": ["cuda@12:"],
        "liburing": ["liburing@2.2:"],
        "mpi": ["mpi@3:"],
        "nccl": ["nccl"],
        "onednn": ["onednn@2:2 cpu_runtime=omp"],
    },
    "vcpkg": {
        "blas": ["openblas"],
        "config": ["nlohmann-json", "yaml-cpp"],
        "cuda": ["cuda"],
        "liburing": ["liburing>=2.2"],
        "mpi": ["mpi"],
        "nccl": ["nccl", "shardexpr[cuda]"],
    },
}
ALWAYS = {"conan": ["eigen/3.4.0"], "spack": ["cxx", "cmake@3.25:", "eigen@3.4"],
          "vcpkg": ["eigen3>=3.4.0", "vcpkg-cmake", "vcpkg-cmake-config"]}
# What CMake has an option for; the others are found where a program asks for them.
WITH_OPTION = ("blas", "config", "liburing", "mpi", "onednn")


def fail(text):
    sys.exit("recipes.py: " + text)


def module(name, **members):
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made


def load(path):
    spec = importlib.util.spec_from_file_location("recipe", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Recipe:
    """What a recipe says: `version`, `parts`, `needs(parts)`, `arguments(parts)`."""


def spack(root, sources):
    said = types.SimpleNamespace(versions=[], variants={}, needs=[], conflicts=[])

    class CMakePackage:
        def define(self, name, value):
            return f"-D{name}:BOOL={'ON' if value else 'OFF'}"

        def define_from_variant(self, name, variant):
            if variant not in said.variants:
                fail(f"there is no variant {variant}")
            return self.define(name, variant in self.chosen)

    def variant(name, default, description, when=None):
        said.variants[name] = (default, when)

    def depends_on(spec, when=None, type=None):
        said.needs.append((spec, when))

    module("spack")
    module("spack.package", __all__=["license", "version", "variant", "depends_on", "conflicts"],
           license=lambda name: None, variant=variant, depends_on=depends_on,
           version=lambda number, **_: said.versions.append(number),
           conflicts=lambda spec, msg: said.conflicts.append(spec))
    for name in ("spack_repo", "spack_repo.builtin", "spack_repo.builtin.build_systems"):
        module(name)
    module("spack_repo.builtin.build_systems.cmake", CMakePackage=CMakePackage)
    folder = os.path.join(root, "cmake/packages/spack/spack_repo/shardexpr")
    loaded = load(os.path.join(folder, "packages/shardexpr/package.py"))
    package = loaded.Shardexpr()
    if os.path.realpath(package.git[len("file://"):]) != os.path.realpath(root):
        fail(f"git is {package.git}, the checkout {root}")
    if any(default for default, _ in said.variants.values()):
        fail("a variant is on by default")
    with open(os.path.join(folder, "repo.yaml"), encoding="utf-8") as file:
        if "namespace: shardexpr\n" not in file.read():
            fail("repo.yaml does not name the folder that it is in")

    def arguments(parts):
        package.chosen = parts
        return package.cmake_args()

    recipe = Recipe()
    [recipe.version] = said.versions
    recipe.parts = set(said.variants)
    recipe.needs = lambda parts: [s for s, when in said.needs if when is None or when[1:] in parts]
    recipe.arguments = arguments
    return recipe


def conan(root, sources):
    class Invalid(Exception):
        pass

    class Toolchain:
        made = None

        def __init__(self, recipe):
            Toolchain.made = self
            self.cache_variables = {}

        def generate(self):
            pass

    # As Conan's: `*` is any text, slashes included.
    def copy(recipe, pattern, src, dst):
        count = 0
        for folder, _, files in os.walk(os.path.join(src, os.path.dirname(pattern))):
            for name in files:
                path = os.path.join(folder, name)
                relative = os.path.relpath(path, src)
                if fnmatch.fnmatchcase(relative, pattern):
                    os.makedirs(os.path.dirname(os.path.join(dst, relative)), exist_ok=True)
                    shutil.copyfile(path, os.path.join(dst, relative))
                    count += 1
            if not os.path.dirname(pattern):
                break
        if count == 0:
            fail(f"export_sources: nothing is {pattern}")

    module("conan", ConanFile=object)
    module("conan.errors", ConanInvalidConfiguration=Invalid)
    module("conan.tools")
    module("conan.tools.build", check_min_cppstd=lambda recipe, standard: None)
    module("conan.tools.cmake", CMake=None, CMakeToolchain=Toolchain, cmake_layout=None,
           CMakeDeps=lambda recipe: types.SimpleNamespace(generate=lambda: None))
    module("conan.tools.files", copy=copy)
    folder = os.path.join(root, "cmake/packages/conan")
    made = load(os.path.join(folder, "conanfile.py")).Shardexpr()
    made.recipe_folder, made.export_sources_folder = folder, sources
    made.export_sources()
    if made.default_options != {option: False for option in made.options}:
        fail("an option is on by default, or has no default")

    def chosen(parts):
        made.options = types.SimpleNamespace(
            **{option: option in parts for option in made.default_options},
            get_safe=lambda option: option in parts)
        return made

    def needs(parts):
        listed = []
        made.requires = lambda reference, **_: listed.append(reference)
        chosen(parts).requirements()
        return listed

    def arguments(parts):
        chosen(parts).generate()
        return [f"-D{k}={v}" for k, v in Toolchain.made.cache_variables.items()]

    recipe = Recipe()
    recipe.version = made.version
    recipe.parts = set(made.default_options)
    recipe.needs, recipe.arguments = needs, arguments
    return recipe


def vcpkg(root, sources):
    folder = os.path.join(root, "cmake/packages/vcpkg/shardexpr")
    with open(os.path.join(folder, "vcpkg.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    known = {"name", "version", "description", "license", "supports", "dependencies", "features"}
    if set(manifest) - known:
        fail(f"vcpkg.json: {set(manifest) - known} is not looked at here")
    if manifest["name"] != os.path.basename(folder):
        fail(f"the port {manifest['name']} is in a folder {os.path.basename(folder)}")

    def text(dependency):
        if isinstance(dependency, str):
            return dependency
        if set(dependency) - {"name", "version>=", "host", "default-features", "features"}:
            fail(f"a dependency has a field that vcpkg has not: {dependency}")
        text = dependency["name"]
        if "features" in dependency:
            text += "[" + ",".join(dependency["features"]) + "]"
        return text + (">=" + dependency["version>="] if "version>=" in dependency else "")

    for name, feature in manifest["features"].items():
        if set(feature) != {"description", "dependencies"}:
            fail(f"feature {name} has {sorted(feature)}")

    recipe = Recipe()
    recipe.version = manifest["version"]
    recipe.parts = set(manifest["features"])
    recipe.needs = lambda parts: [
        text(d) for d in manifest["dependencies"]
        + [d for part in sorted(parts) for d in manifest["features"][part]["dependencies"]]]
    recipe.arguments = None  # RunRecipe.cmake includes the port
    return recipe


def main(name, root, version, sources, *chosen):
    recipe = {"spack": spack, "conan": conan, "vcpkg": vcpkg}[name](root, sources)
    if recipe.version != version:
        fail(f"{name} says version {recipe.version}, the project {version}")
    if recipe.parts != set(PARTS[name]):
        fail(f"{name} has {sorted(recipe.parts)}, not {sorted(PARTS[name])}")
    if sorted(recipe.needs(set())) != sorted(ALWAYS[name]):
        fail(f"{name} needs {recipe.needs(set())}, not {ALWAYS[name]}")
    for part in sorted(recipe.parts):
        needs = sorted(set(recipe.needs({part})) - set(ALWAYS[name]))
        if needs != sorted(PARTS[name][part]):
            fail(f"{name} needs {needs} for {part}, not {PARTS[name][part]}")
    if recipe.arguments is None:
        return
    off = recipe.arguments(set())
    for part in WITH_OPTION:
        changed = [a for a in recipe.arguments({part}) if a not in off]
        if len(changed) != 1 or not changed[0].startswith("-DSHARDEXPR_" + part.upper()) or \
                not changed[0].endswith("=ON"):
            fail(f"{name}: {part} changes {changed}")
    print("\n".join(recipe.arguments({p for p in chosen if p in recipe.parts})))


main(*sys.argv[1:])
