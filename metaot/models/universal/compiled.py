"""The universal network by compiled code, for images on a CPU: some in lanes beside each other, or one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from metaot.models.alone import Array

try:
    from metaot.models import _forward
except ImportError:  # installed where there was no compiler
    _forward = None

COMPILED = _forward is not None
"""Whether there is compiled code."""


Step = Callable[[Array, bool], tuple[Array, Array]]
"""From rows of f to the next ones, everywhere or on atoms with mass, and the marginals that their plans miss.

Potentials are in units of eps, float64.
"""


@final
class Images(NamedTuple):
    """Pairs of images: coordinates, weights (batch n) and one eps for each, float64."""

    axes: tuple[Array, Array]
    a: Array
    b: Array
    eps: Array


_LANES, _CLASSES, _NUMBERS = 16, 4, 5
"""As in universal.c: problems at once, classes of features, numbers known of a problem beside its temperature."""


@final
@dataclass(frozen=True)
class UniversalCompiled:
    """A `UniversalNetwork` as its arrays."""

    modes: int
    width: int
    terms: int
    """Chebyshev polynomials of the temperature."""
    temperatures: tuple[float, float]
    """The range of temperatures, in squared widths, that the network tells apart."""
    network: tuple[Array, ...]
    correction: tuple[Array, ...]

    def __call__(
        self, images: Images, step: Step, *, passes: int, everywhere: bool = True, threads: int = 1
    ) -> Iterator[Array]:
        """Give the stages of f in units of eps, batch n; where not `everywhere`, right on atoms with mass only."""
        assert _forward is not None
        rows, columns, a, b, eps = map(np.ascontiguousarray, (*images.axes, *images[1:]))
        seen = self._room(len(a), len(rows), len(columns))
        f = np.empty(a.shape)
        arrays = rows, columns, *self.network, a, b, eps, *seen, f
        coldest, warmest = map(math.log, self.temperatures)
        _forward.look_each(self.modes, coldest, warmest, everywhere, threads, arrays)
        yield f
        for _ in range(passes):
            f, missing = step(f, everywhere)
            arrays = rows, columns, *self.correction, eps, *seen, missing, f
            _forward.correct_each(self.modes, everywhere, threads, arrays)
            yield f

    def _room(self, batch: int, height: int, width: int) -> tuple[Array, Array, Array]:
        """Make room for what is seen of problems: numbers, tables of cosines, features."""
        cosines = sum(self.modes * _padded(size) + size * _padded(self.modes) for size in (height, width))
        return (
            np.empty((batch, _NUMBERS + self.terms)),
            np.empty((batch, cosines), dtype=np.float32),
            np.empty((batch + _LANES - 1, _CLASSES * self.width), dtype=np.float32),
        )


def _padded(size: int) -> int:
    return -(-size // _LANES) * _LANES
