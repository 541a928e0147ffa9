"""Models by name: a solver takes the name of one that comes with the package, and does not know what loads it.

What loads models lies above the solvers; the package itself, which knows both, says here what that is.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from metaot.folders import shipped

_opened: list[Callable[[str], Any]] = []


def open_by(load: Callable[[str], Any]) -> None:
    """Have models opened by this function."""
    _opened[:] = [load]


@lru_cache
def named(name: str) -> Any:
    """Return the model of a name, opened once; ValueError for a name of none."""
    names = shipped()
    if name not in names or not _opened:
        raise ValueError(
            f"init must name a model that comes with metaot, one of {names}, got {name!r}: "
            "open others with metaot.load and pass them"
        )
    return _opened[0](name)
