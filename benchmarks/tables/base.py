"""What every table is made of: results that were measured, and text that is Markdown."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, quantiles
from typing import Any, final

from metaot.folders import located, read_card

RESULTS = Path(__file__).parents[1] / "results"

TABLES: dict[str, Callable[[], "Table"]] = {}
"""Every table, by its name."""


@final
@dataclass(frozen=True)
class Table:
    """Texts in rows; the first `left` columns are aligned left, the others right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def markdown(self) -> str:
        rule = "|" + "---|" * self.left + "--:|" * (len(self.head) - self.left)
        return "\n".join([line(self.head), rule, *map(line, self.rows)])


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(name: str) -> Callable[[Callable[[], Table]], Callable[[], Table]]:
    """Register a function that makes the table of this name."""

    def registered(make: Callable[[], Table]) -> Callable[[], Table]:
        TABLES[name] = make
        return make

    return registered


@cache
def read(name: str) -> Any:
    """Return the content of benchmarks/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


@cache
def card(name: str) -> Any:
    """Return what is written beside the weights of a shipped checkpoint."""
    return read_card(located(name))


def p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20)[-1]


def percent(average: float, high: float) -> str:
    return f"{100 * average:.2g} % ({100 * high:.2g} %)"


def of_all(values: Sequence[float], digits: str = ".3f") -> str:
    """Return mean (worst), where low values are bad."""
    return f"{mean(values):{digits}} ({min(values):{digits}})"


def times(ratio: float) -> str:
    """Return a ratio with two digits that count, and at most two after the point."""
    return f"{ratio:.2f}x" if ratio >= 0.01 else f"{ratio:.2g}x"
