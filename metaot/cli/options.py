"""The values of options, checked when they are read: what cannot be is refused before the work."""

import math
import os
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


class RefusedError(ArgumentTypeError, ValueError):
    """A value that an option does not take; argparse prints the message, and so does `main`."""


def whole(least: int) -> Callable[[str], int]:
    """Return the type of whole numbers of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value < 2**63:
            raise RefusedError(f"wants a whole number of at least {least}, got {text!r}")
        return value

    return read


def threads(text: str) -> int:
    """Read a number of threads; far more than there are processors crash OpenMP."""
    most = max(64, os.cpu_count() or 1)
    value = whole(1)(text)
    if value > most:
        raise RefusedError(f"wants at most {most} threads, got {text!r}")
    return value


def positive(text: str) -> float:
    """Read a positive, finite number."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise RefusedError(f"wants a positive number, got {text!r}")
    return value


def duration(text: str) -> float:
    """Read a number of seconds, which may be 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise RefusedError(f"wants a number of seconds, got {text!r}")
    return value


def positives(text: str) -> list[float]:
    """Read positive, finite numbers with commas between them."""
    return [positive(part) for part in text.split(",")]


def wholes(text: str) -> list[int]:
    """Read whole numbers of at least 2 with commas between them."""
    return [whole(2)(part) for part in text.split(",")]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def new_file(*suffixes: str) -> Callable[[str], Path]:
    """Return the type of files that can be written, with a name that ends with one of `suffixes`, if there are."""

    def read(text: str) -> Path:
        path = Path(text)
        if path.is_dir():
            raise RefusedError(f"{path} is a folder: name a file in it")
        if suffixes and path.suffix.lower() not in suffixes:
            raise RefusedError(f"{path} must end with {' or '.join(suffixes)}")
        if not path.parent.is_dir():
            raise RefusedError(f"{path.parent} is not a folder: make it, or name a file in another one")
        _require_writable(path.parent)
        return path

    return read


def new_folder(text: str) -> Path:
    """Read the name of a folder that can be written to, or made."""
    path = Path(text)
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise RefusedError(f"{there} is a file: name a folder")
    _require_writable(there)
    return path


def folder(text: str) -> Path:
    """Read the name of a folder, which need not be there."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise RefusedError(f"{path} is a file: name a folder")
    return path


def _require_writable(where: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as error:
        raise RefusedError(f"{where} cannot be written to: {(error.strerror or str(error)).lower()}") from error


def add_data_dir(parser: ArgumentParser, *, written: bool = False) -> None:
    """Add the option that names the data folder."""
    words = "data folder (default: $METAOT_DATA, else the user's cache)"
    parser.add_argument("--data-dir", type=new_folder if written else folder, help=words)
