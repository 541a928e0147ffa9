"""The folder of a run: nothing is overwritten unasked, and two trainings never write to one folder."""

import subprocess
import sys
from pathlib import Path

import pytest
from small import tiny

from metaot.checkpoint import read_card
from metaot.runs import LOCK, claimed
from metaot.training import train

HOLD = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_keeps_the_folder_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another training writes to"):
            train(tiny("shapes", 1), tmp_path, progress=False)
        other.kill()
        other.wait()
    with claimed(tmp_path), pytest.raises(ValueError, match="another training"), claimed(tmp_path):
        pass


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed(tmp_path / "a" / "b"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="a file is in the way"), claimed(folder):
            pass


def test_only_overwrite_replaces_a_checkpoint_or_a_run(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a checkpoint \(model.json\) that no training here began"):
        train(tiny("shapes", 1), tmp_path, progress=False)
    assert (tmp_path / "model.json").read_text() == "{}"
    train(tiny("shapes", 2), tmp_path, progress=False, overwrite=True)
    train(tiny("shapes", 1, seed=1), tmp_path, progress=False, overwrite=True)
    assert (read_card(tmp_path)["step"], read_card(tmp_path)["seed"]) == (1, 1)
    assert len(list((tmp_path / "board").iterdir())) == 1
    assert not (tmp_path / LOCK).exists()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    train(tiny("shapes", 2), tmp_path, stop_at=1, progress=False)
    state = tmp_path / "training.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"training.pt is damaged"):
        train(tiny("shapes", 2), tmp_path, resume=True, progress=False)
