"""`make` takes the first Python that is new enough, and says what it wants where there is none."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None or shutil.which("sh") is None, reason="no make")


def set_up(folder: Path, pythons: dict[str, bool], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Show what `make setup` would do where these Pythons are on the path, each new enough or not."""
    path = folder / "bin"
    path.mkdir()
    (path / "sh").symlink_to(str(shutil.which("sh")))
    for name, suits in pythons.items():
        (path / name).write_text(f"#!{shutil.which('sh')}\nexit {0 if suits else 1}\n")
        (path / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "setup.py", "constraints.txt"):
        (folder / name).touch()
    command = [str(MAKE), "-n", "setup", *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PATH": str(path)}, check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("pythons", "arguments", "expected"),
    [
        ({"python3.11": True, "python3": True}, [], "python3.11"),
        ({"python3.11": False, "python3.12": False, "python3.13": True, "python3": True}, [], "python3.13"),
        ({"python3": True}, [], "python3"),
        ({"python3.11": True, "mine": True}, ["PYTHON=mine"], "mine"),
    ],
)
def test_the_first_that_is_new_enough_is_taken(tmp_path: Path, pythons, arguments, expected):
    assert set_up(tmp_path, pythons, *arguments).stdout.startswith(f"{expected} -m venv ")


@pytest.mark.parametrize(
    ("pythons", "arguments", "tried"),
    [
        ({"python3": False}, [], "python3.11 python3.12 python3.13 python3.14 python3"),
        ({"python3.11": True, "old": False}, ["PYTHON=old"], "old"),
    ],
)
def test_without_one_it_is_said_what_is_wanted(tmp_path: Path, pythons, arguments, tried):
    done = set_up(tmp_path, pythons, *arguments)
    assert done.returncode == 2
    assert not done.stdout
    assert "needs Python 3.11 or newer" in done.stderr
    assert f"found none as {tried}:" in done.stderr
    assert "make setup PYTHON=" in done.stderr
