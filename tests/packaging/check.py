"""Build the distributions, and test them as users install them: python tests/packaging/check.py [--torch].

The source distribution is built from the repository, a wheel from it; both are looked through. Then the wheel is
installed into empty environments, where nothing of the repository can be imported: by `--target`, beside numpy and
onnxruntime alone, and with --torch as a whole. The tests are those of the source distribution. Minutes; with torch
gigabytes, unless a CPU build of it is at hand (--pip takes options of pip, such as an index that has one).
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ["numpy", "onnxruntime"]
"""What is enough to solve, to predict from exported files and to recolour pictures."""
NOT_SHIPPED = {".ci", ".github", ".gitignore", ".gitattributes"}
LIGHT_PROGRAM = """
import sys
import metaot
from metaot import core
from metaot.folders import located, shipped
assert "site-packages" in metaot.__file__ or sys.argv[1:] == ["target"], metaot.__file__
assert {"mnist", "palette", "sphere", "universal"} <= set(shipped()), shipped()
assert metaot.load(str(located("palette") / "model.onnx")).dim == 3
assert "torch" not in sys.modules
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the distributions, and test them as users install them.")
    parser.add_argument(
        "--dist", type=Path, help="folder of a wheel and a source distribution, instead of building"
    )
    parser.add_argument("--torch", action="store_true", help="also with torch and all else that metaot needs")
    parser.add_argument("--pip", default="", help="options of pip where torch is installed")
    parser.add_argument("--no-core", action="store_true", help="the wheel may come without compiled code")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist = options.dist or build(folder)
        [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
        tests = contents(sdist, wheel, folder)
        target(wheel, folder)
        light(wheel, tests, folder, core=not options.no_core)
        if options.torch:
            whole(wheel, tests, folder, shlex.split(options.pip))
    print("done")


def build(folder: Path) -> Path:
    """Build both distributions, and check what PyPI and the stable ABI ask for."""
    say("build")
    python = environment(folder / "tools", ["build", "twine", "abi3audit"])
    dist = folder / "dist"
    run(python, "-m", "build", "--outdir", dist, ROOT)
    run(python, "-m", "twine", "check", "--strict", *dist.iterdir())
    run(python, "-m", "abi3audit", "--strict", *dist.glob("*.whl"))
    return dist


def contents(sdist: Path, wheel: Path, folder: Path) -> Path:
    """Check that nothing is missing; return a folder with the tests of the source distribution, and no package."""
    say(f"contents of {sdist.name} and {wheel.name}")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    [source] = (folder / "source").iterdir()
    if (ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        missing = [
            line for line in tracked.splitlines()
            if Path(line).parts[0] not in NOT_SHIPPED and not (source / line).exists()
        ]  # fmt: skip
        demand(not missing, f"not in the source distribution: {missing}")
    names = set(zipfile.ZipFile(wheel).namelist())
    belong = [*source.glob("checkpoints/*/*"), *source.glob("metaot/**/*.py")]
    inside = [path.relative_to(source).as_posix() for path in belong]
    missing = [path for path in inside if path.replace("checkpoints", "metaot/checkpoints", 1) not in names]
    demand(not missing, f"not in the wheel: {missing}")
    shutil.rmtree(source / "metaot")
    return source


def target(wheel: Path, folder: Path) -> None:
    """Install into a folder that is on the path and in no environment."""
    say("pip install --target")
    python = environment(folder / "empty", LIGHT)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "target", wheel)
    run(python, "-c", LIGHT_PROGRAM, "target", cwd=folder, PYTHONPATH=str(folder / "target"))


def light(wheel: Path, tests: Path, folder: Path, *, core: bool) -> None:
    """Test the wheel beside numpy and onnxruntime alone."""
    say("without torch")
    python = environment(folder / "light", [*LIGHT, *pinned("pytest", "hypothesis")])
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    run(python, "-m", "metaot", "info", cwd=folder)
    run(python, "-c", LIGHT_PROGRAM, cwd=folder)
    if core:
        run(python, "-c", "from metaot import core; assert core.COMPILED, 'no compiled core'", cwd=folder)
    shutil.copytree(tests / "tests" / "core", folder / "core")
    alone = ["-c", os.devnull, "--noconftest", "--rootdir", folder / "core", "-p", "no:cacheprovider"]
    run(python, "-m", "pytest", "-q", *alone, folder / "core", cwd=folder / "core")


def whole(wheel: Path, tests: Path, folder: Path, pip: list[str]) -> None:
    """Test the wheel with all that it depends on."""
    say("with torch")
    python = environment(folder / "whole", [])
    package = f"metaot[plot,export,serve] @ {wheel.resolve().as_uri()}"
    tools = pinned("pytest", "hypothesis", "beartype")
    run(python, "-m", "pip", "install", "--quiet", *pip, "-c", tests / "constraints.txt", package, *tools)
    run(python, "-m", "metaot", "info", cwd=folder)
    chosen = ["tests/test_shipped.py", "tests/solvers/test_solve.py", "tests/onnx", "tests/cli", "tests/examples"]
    run(python, "-m", "pytest", "-q", "-m", "not slow", *chosen, cwd=tests)


def environment(folder: Path, packages: list[str]) -> Path:
    """Make an environment; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if packages:
        run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def pinned(*names: str) -> list[str]:
    """Return the tools of the tests at the versions that the project pins."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    return [tool for tool in tools if isinstance(tool, str) and re.split("[=<>]", tool)[0] in names]


def run(*command: object, cwd: Path | None = None, **variables: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    status = subprocess.run(words, check=False, cwd=cwd, env={**kept, **variables}).returncode
    demand(status == 0, f"status {status} of: {shlex.join(words)}")


def demand(fact: bool, otherwise: str) -> None:
    if not fact:
        sys.exit(otherwise)


def say(words: str) -> None:
    print(f"== {words}", flush=True)


if __name__ == "__main__":
    main()
