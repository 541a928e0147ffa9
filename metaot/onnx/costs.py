"""The costs of a model's space in numpy, as they lie in its file."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from metaot.onnx.wire import OnnxContents

Array = np.ndarray


@final
@dataclass(frozen=True)
class Costs:
    """A matrix C, n m; or one for each axis of a grid, of which C is the sum."""

    matrices: tuple[Array, ...]
    sizes: tuple[int, ...]
    """The numbers of points along the axes; empty for a matrix."""

    @classmethod
    def of(cls, geometry: dict[str, Any], contents: OnnxContents) -> "Costs":
        """Find the costs that the description of a geometry names; ValueError when one is missing."""
        missing = [name for name in geometry["costs"] if name not in contents.doubles]
        if missing:
            raise ValueError(f"the costs {missing[0]!r} are missing")
        matrices = tuple(contents.doubles[name] for name in geometry["costs"])
        return cls(matrices, tuple(geometry["sizes"]))

    def block(self, rows: Array, columns: Array) -> Array:
        """Return C at these rows and columns."""
        if not self.sizes:
            return self.matrices[0].take(columns, 1).take(rows, 0)
        places = zip(np.unravel_index(rows, self.sizes), np.unravel_index(columns, self.sizes), strict=True)
        blocks = [C.take(j, 1).take(i, 0) for C, (i, j) in zip(self.matrices, places, strict=True)]
        return sum(blocks[1:], blocks[0])

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of atoms."""
        if self.sizes:
            return math.prod(self.sizes), math.prod(self.sizes)
        return self.matrices[0].shape

    @property
    def highest(self) -> float:
        """The highest cost."""
        return float(sum(C.max() for C in self.matrices))
