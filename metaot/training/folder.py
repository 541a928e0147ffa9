"""The folder of a run: what it holds already, and that only one training at a time writes to it."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from metaot.checkpoint import read_card
from metaot.folders import CARD, PICKLED, WEIGHTS
from metaot.training.recipe import Recipe

FILE = "training.pt"
LOCK = "training.lock"
_MAY_CHANGE = {"steps", "learning_rate", "clip", "log_every", "validate_every", "save_every", "compact", "device"}
"""Settings that --resume accepts with another value."""


@contextmanager
def claimed(folder: Path) -> Generator[None]:
    """Make a folder and keep other trainings out of it while the block runs, also of other processes.

    The operating system drops the lock when a process ends, however it ends. Folders that were made here and stay
    empty are removed. Raises ValueError when another training has the folder, and when it cannot be one.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} cannot be a folder: a file is in the way; name another one") from error
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another training writes to {folder}: wait for it, or name another folder") from error
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows the release removes it
            (folder / LOCK).unlink()
        lock.release()
        with suppress(OSError):  # not empty: a run began
            for each in made:
                each.rmdir()


def require_free(recipe: Recipe, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise ValueError where training would replace what it did not begin, or go on with another run."""
    begun = (folder / FILE).exists()
    if resume and overwrite:
        raise ValueError("resume goes on with a run, overwrite begins again: give one of them")
    if resume and not begun:
        raise ValueError(f"{folder} holds no run to resume: leave --resume away to begin one")
    if resume:
        _require_same(recipe, folder)
    elif begun and not overwrite:
        raise ValueError(
            f"{folder} holds a run already: go on with --resume, name another folder with --out, or replace the "
            "run with --overwrite"
        )
    elif not overwrite:
        there = [name for name in (CARD, WEIGHTS, PICKLED) if (folder / name).exists()]
        if there:
            raise ValueError(
                f"{folder} holds a checkpoint ({there[0]}) that no training here began: name another folder with "
                "--out, or replace it with --overwrite"
            )


def _require_same(recipe: Recipe, folder: Path) -> None:
    old, new = read_card(folder)["recipe"], recipe.to_json()
    for key in new:
        if key not in _MAY_CHANGE and old.get(key) != new[key]:
            raise ValueError(
                f"{folder} was started with {key} = {old.get(key)!r}, not {new[key]!r}: give the same settings"
            )


def clear(folder: Path) -> None:
    """Remove what a run left that a new one does not replace: its state and its curves."""
    (folder / FILE).unlink(missing_ok=True)
    for events in (folder / "board").glob("events.out.tfevents.*"):
        events.unlink()
