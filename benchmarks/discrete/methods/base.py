"""What the benchmark asks of a method."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from benchmarks.discrete.problems import Family, Instance

OURS, PEER, PEER_FROM_MODEL, EXACT = "metaot", "peer", "peer from our model", "exact"


@dataclass(frozen=True)
class Method(ABC):
    """A solver of some library with its settings; `solve` is what the clock covers."""

    name: str
    library: str
    kind: str
    compiled = False
    """Whether the first solve with a setting compiles, and must not be timed."""

    @abstractmethod
    def suits(self, family: Family) -> bool:
        """Return whether the method is to be run on a problem."""

    @abstractmethod
    def settings(self, target: float) -> list[Any]:
        """Return settings from loose and cheap to tight, of which one is chosen by calibration."""

    @abstractmethod
    def prepare(self, instance: Instance) -> Any:
        """Return the instance as the library wants it."""

    @abstractmethod
    def solve(self, inputs: Any, setting: Any) -> Any:
        """Solve it, to the end: nothing may still be running."""

    @abstractmethod
    def error(self, instance: Instance, output: Any) -> float:
        """Return the L1 error of both marginals, computed by `check`."""

    def steps(self, output: Any) -> int | None:
        """Return the steps that were made, where they are known."""
        return None


def tolerances(target: float) -> list[float]:
    """Return tolerances of a stopping rule that is not the L1 error: from four times the target down."""
    return [target * 4 / 2 ** (k / 2) for k in range(20)]
