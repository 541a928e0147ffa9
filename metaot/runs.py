"""Folders of runs: one writer at a time, the state that a run goes on from, what stops it, and its progress."""

import io
import pickle
import signal
import sys
import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from metaot import digest
from metaot.folders import CARD, PICKLED, WEIGHTS, read_card, write_atomically

FILE = "training.pt"
LOCK = "training.lock"


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


def require_free(
    folder: Path, settings: dict[str, Any], may_change: Collection[str], *, resume: bool, overwrite: bool
) -> None:
    """Raise ValueError where training would replace what it did not begin, or go on with another run.

    `settings` are compared with those of the run that is to be resumed, all but those that may change.
    """
    begun = (folder / FILE).exists()
    if resume and overwrite:
        raise ValueError("resume goes on with a run, overwrite begins again: give one of them")
    if resume and not begun:
        raise ValueError(f"{folder} holds no run to resume: leave --resume away to begin one")
    if resume:
        _require_same(folder, settings, may_change)
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


def _require_same(folder: Path, settings: dict[str, Any], may_change: Collection[str]) -> None:
    old = read_card(folder)["recipe"]
    for key, value in settings.items():
        if key not in may_change and old.get(key) != value:
            raise ValueError(
                f"{folder} was started with {key} = {old.get(key)!r}, not {value!r}: give the same settings"
            )


def clear(folder: Path) -> None:
    """Remove what a run left that a new one does not replace: its state and its curves."""
    (folder / FILE).unlink(missing_ok=True)
    for events in (folder / "board").glob("events.out.tfevents.*"):
        events.unlink()


def write_state(folder: Path, content: dict[str, Any]) -> None:
    """Write the state of a run, tensors and numbers, with its digest; the file is replaced as a whole."""
    stream = io.BytesIO()
    torch.save(content, stream)
    write_atomically(folder / FILE, lambda path: path.write_bytes(digest.sealed(stream.getvalue())))


@contextmanager
def read_state(folder: Path) -> Generator[Any]:
    """Give the state of a run to the block; ValueError for a damaged file, or one that the block cannot take."""
    path = folder / FILE
    content = path.read_bytes()
    sealed = digest.is_sealed(content)  # those of older versions are not
    content = digest.require_whole(path, content) if sealed else content
    try:
        yield torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(f"{path} is damaged: {reason}; begin again with --overwrite") from error


@contextmanager
def stop_on_signal() -> Generator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM while the block runs; a second one stops it at once.

    Only the main thread receives signals: nothing is collected in others.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, old[number])

    old: dict[int, Any] = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def progress_bar(name: str, total: int, done: int, unit: str = "step") -> tqdm:
    """Return a bar in a terminal; elsewhere, as in a log, it writes a line now and then."""
    line = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"
    seconds, layout = (0.1, None) if sys.stderr.isatty() else (20.0, line)
    return tqdm(
        total=total, initial=done, desc=name, unit=unit,
        mininterval=seconds, maxinterval=2 * seconds, bar_format=layout,
    )  # fmt: skip
