"""Folders: where checkpoints and data are, the readable half of a checkpoint, and files written whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS, CARD = "model.pt", "model.json"
FORMAT = 1


def located(path: str | Path) -> Path:
    """Return the folder of a checkpoint; a plain name that is no folder here is one of the shipped ones."""
    folder = Path(path)
    if folder.exists() or len(folder.parts) != 1:
        return folder
    candidates = [parent / folder for parent in _shipped()]
    return next((candidate for candidate in candidates if (candidate / CARD).exists()), folder)


def shipped() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    return sorted({card.parent.name for parent in _shipped() for card in parent.glob(f"*/{CARD}")})


def _shipped() -> list[Path]:
    """Return where checkpoints are: inside the package where a wheel put them, beside it in its repository."""
    package = Path(__file__).parent
    return [package / "checkpoints", package.parent / "checkpoints"]


def read_card(folder: Path) -> dict[str, Any]:
    """Return the readable half of a checkpoint."""
    for name in (CARD, WEIGHTS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} is not a checkpoint: {folder / name} is missing")
    card = json.loads((folder / CARD).read_text())
    if card.get("format") != FORMAT:
        raise ValueError(f"{folder / CARD} has format {card.get('format')!r}, this version reads {FORMAT}")
    return card


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file and move it to `path`: readers get the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)


def data_folder(explicit: Path | None = None) -> Path:
    """Return the data folder: `explicit`, else $METAOT_DATA, else ~/.cache/metaot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(explicit or os.environ.get("METAOT_DATA") or cache / "metaot")


def find_data(name: str, explicit: Path | None = None, *, otherwise: str) -> Path:
    """Return a file of the data folder; FileNotFoundError names both ways: to copy it there, and `otherwise`."""
    path = data_folder(explicit) / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: copy it there (or name another folder with --data-dir or METAOT_DATA), "
            f"or {otherwise}"
        )
    return path
