"""What pyproject.toml cannot say: checkpoints/ belongs to the package, and what compiles the core."""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

core = Extension(  # optional: without a compiler there is none, and torch does its work
    "metaot.core._core",
    sources=sorted(str(path) for path in Path("metaot/core/src").glob("*.c")),
    depends=["metaot/core/src/core.h"],
    extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"],
    libraries=[] if sys.platform == "win32" else ["m", "pthread", "dl"],
    optional=True,
    py_limited_api=True,
)

setup(
    packages=[*find_packages(include=["metaot*"]), "metaot.checkpoints"],
    package_dir={"metaot.checkpoints": "checkpoints"},
    ext_modules=[core],
)
