"""What belongs to a distribution is in it."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import metaot
from metaot import folders

ROOT = Path(__file__).parents[2]


def tracked(*paths: str) -> set[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a repository")
    listed = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, check=True, capture_output=True, text=True)
    return {ROOT / line for line in listed.stdout.splitlines()}


def test_a_wheel_holds_every_file_of_the_checkpoints():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = settings["tool"]["setuptools"]["package-data"]["metaot.checkpoints"]
    taken = {path for glob in globs for path in (ROOT / "checkpoints").glob(glob)}
    assert tracked("checkpoints") <= taken


def test_a_checkpoint_inside_the_package_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a wheel has it, wherever it was unpacked."""
    package, other = tmp_path / "metaot" / "checkpoints" / "mine", tmp_path / "checkpoints" / "mine"
    for folder in (package, other):
        folder.mkdir(parents=True)
        (folder / folders.CARD).write_text("{}")
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "metaot" / "folders.py"))
    assert folders.shipped() == ["mine"]
    assert folders.located("mine") == package


def test_the_version_is_the_same_wherever_it_is_written():
    assert f"\nversion: {metaot.__version__}\n" in (ROOT / "CITATION.cff").read_text()
