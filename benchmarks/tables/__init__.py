"""Every table of the documentation and the README, made of benchmarks/results: python -m benchmarks.tables [NAME].

A table is a function without arguments in one of the modules here, registered under a name. Pages of the
documentation ask for it by that name; `readme` is the two tables of the README.
"""

from benchmarks.tables import (
    couplings,
    grids,
    images,
    inverse,
    losses,
    many,
    maps,
    own,
    paper,
    peers,
    production,
    progot,
    readme,
    roads,
    scale,
    spaces,
    sphere,
)
from benchmarks.tables.base import TABLES, Table, card, read

__all__ = [
    "TABLES", "Table", "card", "couplings", "grids", "images", "inverse", "losses", "many", "maps", "own",
    "paper", "peers", "production", "progot", "read", "readme", "roads", "scale", "spaces", "sphere",
]  # fmt: skip
