"""The core without instructions of newer processors, as compilers other than gcc make it, is right too."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import metaot.core

CORE = Path(metaot.core.__file__).parent
PROGRAM = """
import numpy as np
from core_problems import METHODS, SPACES, problems
from metaot import core

assert core.COMPILED
assert core.__file__.startswith({folder!r})
for name in SPACES:
    for method in METHODS:
        p = problems(name, eps=0.2)
        found = p.solve(method)
        assert (p.true_error(found.f, found.g) <= 1.1e-9).all(), (name, method)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (CORE / "src").is_dir(), reason="no source, as in a wheel")
@pytest.mark.skipif(shutil.which("cc") is None or sys.platform == "win32", reason="no compiler")
def test_solutions_are_right_without_vector_instructions(tmp_path: Path):
    (tmp_path / "metaot").mkdir()
    (tmp_path / "metaot" / "__init__.py").touch()
    shutil.copytree(
        CORE, tmp_path / "metaot" / "core", ignore=shutil.ignore_patterns("*.so", "src", "__pycache__")
    )
    include = sysconfig.get_path("include")
    flags = ["-std=c11", "-O1", "-shared", "-fPIC", "-DWITHOUT_TARGETS", f"-I{include}"]
    sources = [str(path) for path in sorted((CORE / "src").glob("*.c"))]
    library = str(tmp_path / "metaot" / "core" / "_core.abi3.so")
    subprocess.run(["cc", *flags, *sources, "-o", library, "-lpthread", "-ldl", "-lm"], check=True)
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    program = PROGRAM.format(folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
