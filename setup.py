"""What pyproject.toml cannot say: checkpoints/ belongs to the package, and what compiles the core."""

import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

WINDOWS = sys.platform == "win32"


class BuildCore(build_ext):
    """On Windows clang-cl compiles what the compiler of Visual Studio cannot: vectors and atomics of gcc."""

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc" and shutil.which("clang-cl"):
            self.compiler.initialize()
            self.compiler.cc = shutil.which("clang-cl")
        super().build_extensions()


core = Extension(  # optional: without a compiler there is none, and torch does its work
    "metaot.core._core",
    sources=sorted(str(path) for path in Path("metaot/core/src").glob("*.c")),
    depends=["metaot/core/src/core.h", "metaot/core/src/clouds.h"],
    extra_compile_args=[] if WINDOWS else ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"],
    libraries=[] if WINDOWS else ["m", "pthread", "dl"],
    optional=True,
    py_limited_api=True,
)

setup(
    packages=[*find_packages(include=["metaot*"]), "metaot.checkpoints"],
    package_dir={"metaot.checkpoints": "checkpoints"},
    ext_modules=[core],
    cmdclass={"build_ext": BuildCore},
)
