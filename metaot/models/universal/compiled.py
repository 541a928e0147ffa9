"""The universal network by compiled code, for images on a CPU: some in lanes beside each other, or one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from metaot.models.alone import Array
from metaot.single import Kernels

try:
    from metaot.models import _forward
except ImportError:  # installed where there was no compiler
    _forward = None

COMPILED = _forward is not None
"""Whether there is compiled code."""


Step = Callable[[Array], tuple[Array, Array]]
"""From rows of f to the next ones, and the marginals that their plans miss.

Potentials are in units of eps, float64.
"""


@final
class Images(NamedTuple):
    """Pairs of images: coordinates, weights (batch n) and one eps for each, float64."""

    axes: tuple[Array, Array]
    a: Array
    b: Array
    eps: Array


@final
class Coarser(NamedTuple):
    """A grid with few of the points of images: axes, kernels of problems there, and those from images to it."""

    axes: tuple[Array, Array]
    kernels: Kernels
    lifts: Kernels
    by: tuple[int, ...]
    """How many points of an image are in one, along each axis."""


@final
class Way(NamedTuple):
    """How starts are made: with these kernels, in so many passes, or until plans miss little enough of the mass.

    Or on a coarser grid, from which a step leads back; there one pass more is made if plans have missed too much.
    """

    kernels: Kernels
    passes: int
    enough: float = 0.0
    coarser: Coarser | None = None


@final
class Started(NamedTuple):
    """f in units of eps, right on atoms with mass; of problems that are `lost` nothing.

    Lost are those whose numbers leave floating point on the way.
    """

    f: Array
    lost: Array


_LANES, _CLASSES, _NUMBERS = 16, 4, 7
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

    def __call__(self, images: Images, step: Step, *, passes: int, threads: int = 1) -> Iterator[Array]:
        """Give the stages of f in units of eps, batch n."""
        assert _forward is not None
        rows, columns, a, b, eps = map(np.ascontiguousarray, (*images.axes, *images[1:]))
        seen = self._room(len(a), len(rows), len(columns))
        f = np.empty(a.shape)
        arrays = rows, columns, *self.network, a, b, eps, *seen, f
        _forward.look_each(self.modes, *self._range, threads, arrays)
        yield f
        for _ in range(passes):
            f, missing = step(f)
            arrays = rows, columns, *self.correction, eps, *seen, missing, f
            _forward.correct_each(self.modes, threads, arrays)
            yield f

    def start(self, images: Images, way: Way, *, threads: int = 1) -> Started:
        """Do the same as far as solvers ask for it: a late stage, on atoms with mass."""
        assert _forward is not None
        rows, columns, a, b, eps = map(np.ascontiguousarray, (*images.axes, *images[1:]))
        f, told = np.empty(a.shape), np.zeros(len(a), dtype=np.int64)
        axes, kernels, lifts, by = way.coarser or ((rows, columns), way.kernels, None, (1, 1))
        _forward.start_each(
            self.modes,
            *self._range,
            way.passes,
            way.enough,
            threads,
            (*axes, *self.network),
            (*axes, *self.correction),
            kernels.flat,
            () if lifts is None else lifts.flat,
            way.kernels.flat,
            (np.array(by, dtype=np.int64), rows, columns, a, b, eps, f, told),
        )
        return Started(f, told.nonzero()[0])

    @property
    def _range(self) -> tuple[float, float]:
        """The logarithms of the temperatures."""
        return math.log(self.temperatures[0]), math.log(self.temperatures[1])

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
