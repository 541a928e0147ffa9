"""The folder of real data: an explicit one, else METAOT_DATA, else the user's cache."""

import os
from pathlib import Path


def data_folder(explicit: Path | None = None) -> Path:
    """Return the data folder: `explicit`, else $METAOT_DATA, else ~/.cache/metaot."""
    if explicit is not None:
        return Path(explicit)
    if named := os.environ.get("METAOT_DATA"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "metaot"


def find_data(name: str, explicit: Path | None = None) -> Path:
    """Return a file of the data folder; FileNotFoundError names both ways to get it."""
    path = data_folder(explicit) / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: copy it there (or name another folder with --data-dir or METAOT_DATA), "
            f"or fetch it from the Hugging Face hub with `metaot fetch {Path(name).parts[0]}`"
        )
    return path
