"""Solvers, geometries, predictors and training work on another device: no tensor of the CPU gets in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from remote import CASES


@pytest.fixture(scope="module")
def errors() -> dict[str, str | None]:
    """The errors of all cases, from a process of its own."""
    folder = Path(__file__).parents[1]
    command = [sys.executable, str(folder / "tests" / "remote.py")]
    limits = {**os.environ, "OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, check=True, cwd=folder, env=limits, stdout=subprocess.PIPE).stdout)


@pytest.mark.parametrize("name", CASES)
def test_it_stays_on_the_device(name: str, errors: dict[str, str | None]) -> None:
    assert errors[name] is None, errors[name]
