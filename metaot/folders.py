"""Folders: where checkpoints and data are, the readable half of a checkpoint, and files written whole."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metaot import digest, hub

WEIGHTS, CARD = "model.safetensors", "model.json"
PICKLED = "model.pt"
"""The weights of checkpoints of format 1, which have no digests."""
FETCHED = (CARD, WEIGHTS, "*.onnx")
"""What is read of a repository on the Hub: no pickles."""
FORMAT = 2
SETTINGS = ("format", "model", "geometry", "dim", "cost", "eps")
"""The entries of a card that change numbers: those that have a digest. All others are facts for people."""


def located(path: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint, or the .onnx file.

    What exists here wins; else a plain name is a shipped checkpoint, and OWNER/NAME, of which `revision` chooses
    a branch, tag or commit, is fetched from the Hub. Only a str may be a name on the Hub, a Path is always here.
    """
    folder = Path(path)
    if isinstance(path, str) and not folder.exists() and hub.is_name(path):
        return _fetched(path, revision)
    if revision is not None:
        raise ValueError(f"only OWNER/NAME on the Hub has revisions, got {str(path)!r} and {revision!r}")
    if folder.exists() or len(folder.parts) != 1:
        return folder
    candidates = [parent / folder for parent in _shipped()]
    return next((candidate for candidate in candidates if (candidate / CARD).exists()), folder)


def _fetched(name: str, revision: str | None) -> Path:
    """Return the folder of a repository's checkpoint, or its .onnx file; ValueError if it has neither."""
    folder = hub.fetched(name, revision, FETCHED)
    if (folder / CARD).exists():
        if "digest" not in read_card(folder):
            raise ValueError(f"{name} on the Hub is of format 1, whose weights are pickled: they are not read")
        return folder
    files = [file for file in folder.glob("*.onnx") if not file.stem.endswith("-push")]
    if len(files) != 1:
        raise ValueError(
            f"{name} on the Hub has no model of metaot: neither {CARD} and {WEIGHTS} nor one exported .onnx file"
        )
    return files[0]


def shipped() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    return sorted({card.parent.name for parent in _shipped() for card in parent.glob(f"*/{CARD}")})


def taken() -> str:
    """Say what names a model."""
    return (
        "a model is the folder of a checkpoint, an exported .onnx file, OWNER/NAME on the Hub, or the name of one "
        f"that comes with the package: {', '.join(shipped())}"
    )


def _shipped() -> list[Path]:
    """Return where checkpoints are: inside the package where a wheel put them, beside it in its repository."""
    package = Path(__file__).parent
    return [package / "checkpoints", package.parent / "checkpoints"]


def read_card(folder: Path) -> dict[str, Any]:
    """Return the readable half of a checkpoint; ValueError, with the file's name, if its settings are others."""
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: {path} is missing; {taken()}")
    try:
        card = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error}): {digest.AGAIN}") from error
    if not isinstance(card, dict) or card.get("format") not in (1, FORMAT):
        found = card.get("format") if isinstance(card, dict) else None
        raise ValueError(f"{path} has format {found!r}, this version reads {FORMAT}: {digest.AGAIN}")
    if card["format"] == 1 and "digest" not in card:
        return card
    found = card.get("digest")
    if not isinstance(found, dict) or found != digests(settings_of(card), found.get("weights")):
        raise ValueError(
            f"{path} is damaged or was edited: its settings ({', '.join(SETTINGS)}) are not what was saved: "
            "undo the edit, or copy the file anew; only its other entries may be edited"
        )
    return card


def digests(settings: dict[str, Any], weights: Any) -> dict[str, Any]:
    """Return the digests of a card: of the weights, as given, and of all that changes numbers, these included."""
    return {"weights": weights, "settings": digest.of_json({**settings, "weights": weights})}


def settings_of(card: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a card that change numbers."""
    return {key: card[key] for key in SETTINGS if key in card}


def eps_range(values: Any) -> tuple[float, float]:
    """Return the lowest and the highest temperature that a file names; ValueError unless they are such numbers."""
    if isinstance(values, list) and [type(value) in (int, float) for value in values] == [True, True]:
        low, high = map(float, values)
        if 0 < low <= high < math.inf:
            return low, high
    raise ValueError(f"eps must be the lowest and the highest temperature, both positive, got {values!r}")


def read_weights(folder: Path, card: dict[str, Any]) -> bytes:
    """Return the content of the weights of a card; ValueError, with the file's name, if they are others."""
    path = folder / (WEIGHTS if "digest" in card else PICKLED)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: {path} is missing")
    content = path.read_bytes()
    if "digest" in card and card["digest"].get("weights") != digest.of_bytes(content):
        raise ValueError(
            f"{path} is damaged, or of another checkpoint than the {CARD} beside it: copy both anew; a training "
            "run writes them again when it goes on with --resume"
        )
    return content


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file and move it to `path`: readers get the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_together(contents: dict[Path, bytes]) -> None:
    """Replace files by others that belong together, in one go, once all are written."""
    partials = {path.with_name(path.name + ".partial"): path for path in contents}
    try:
        for partial, path in partials.items():
            partial.write_bytes(contents[path])
        for partial, path in partials.items():
            partial.replace(path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


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
