"""Measures on the plane in the frame of the universal network: moments in, values of potentials out.

With the cost |x - y|^2, moving a measure adds a linear function to the potential, and scaling the plane by s
scales potential and eps by s^2. So the network reads centred measures in units of their common width.

Everything here works on tensors and on numpy arrays alike: on single problems numpy takes less time for its calls.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from metaot.geometry import Geometry, Grid, Points

FAR = 2.0
"""Coordinates are compressed so that infinity is at FAR widths: the network reads what is far away coarsely."""
NARROWEST = 1e-5
"""The least squared width, in units of eps."""

Values = Any
"""A tensor or an array."""


class Frame(ABC):
    """The atoms of measures in coordinates of their own: from the mean, in units of a width."""

    @abstractmethod
    def analysed(self, weights: Values) -> Values:
        """Return the sums of weights (measures n) times cosines: measures modes modes."""

    @abstractmethod
    def evaluated(self, coefficients: Values, quadratic: Values | None = None) -> Values:
        """Return the sum of cosines with coefficients measures modes modes, at each atom: measures n.

        `quadratic`, measures 3 3, adds that of the powers 1, x, x^2 times 1, y, y^2.
        """


class Support(ABC):
    """The atoms of a geometry on the plane."""

    @abstractmethod
    def statistics(self, a: Values, b: Values) -> tuple[Values, Values]:
        """Return means, 2 batch 2, and covariances (xx, xy, yy), 2 batch 3, of both measures, float64."""

    @abstractmethod
    def frames(self, mean: Values, width: Values, modes: int) -> list[Frame]:
        """Return the frames of the sources and of the targets, or one for all of them, sources first."""


@final
class GridSupport(Support):
    """A grid with two axes: everything axis by axis."""

    def __init__(self, rows: Values, columns: Values) -> None:
        xp = _library(rows)
        self.sizes = rows.shape[0], columns.shape[0]
        self._middle = xp.stack([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2
        rows, columns = rows - self._middle[0], columns - self._middle[1]
        self._of_rows, self._of_columns = (xp.stack([x * 0 + 1, x, x * x], axis=-1) for x in (rows, columns))
        self._atoms = xp.concatenate([rows, columns])
        zero, one = self._atoms[:1] * 0, self._atoms[:1] * 0 + 1
        row, column = xp.concatenate([one, zero]), xp.concatenate([zero, one])
        self._first, self._second = xp.stack([row, row, column], axis=1), xp.stack([row, column, column], axis=1)
        of_axes = [row[:, None] + 0 * rows[None], column[:, None] + 0 * columns[None]]
        self._axis = xp.concatenate(of_axes, axis=1)

    def statistics(self, a: Values, b: Values) -> tuple[Values, Values]:
        xp = _library(a)
        images = _double(xp.concatenate([a, b])).reshape(-1, *self.sizes)
        powers = ((images @ self._of_columns).mT @ self._of_rows).reshape(-1, 9)  # x^i y^j at 3 j + i
        powers = powers / powers[:, :1]
        mean = powers[:, 1:4:2]
        covariance = powers[:, 2:7:2] - (mean @ self._first) * (mean @ self._second)
        return (mean + self._middle).reshape(2, -1, 2), covariance.reshape(2, -1, 3)

    def frames(self, mean: Values, width: Values, modes: int) -> list[Frame]:
        atoms = self._atoms - (mean.reshape(-1, 2) - self._middle) @ self._axis
        return [GridFrame(_single(atoms / _library(mean).concatenate([width, width])[:, None]), self.sizes, modes)]


@final
class GridFrame(Frame):
    """A grid in coordinates of measures: all rows, then all columns."""

    def __init__(self, atoms: Values, sizes: tuple[Any, Any], modes: int) -> None:
        self._atoms, self.sizes = atoms, sizes
        table = cosines(atoms, modes)
        self._rows, self._columns = table[..., : sizes[0]], table[..., sizes[0] :]

    def analysed(self, weights: Values) -> Values:
        images, count = _single(weights).reshape(-1, *self.sizes), weights.shape[0]
        return self._rows[:count] @ images @ self._columns[:count].mT

    def evaluated(self, coefficients: Values, quadratic: Values | None = None) -> Values:
        count, (height, width) = coefficients.shape[0], self.sizes
        values = self._rows[:count].mT @ (coefficients @ self._columns[:count])
        if quadratic is not None:
            powers = _powers(self._atoms[:count])
            values += powers[..., :height].mT @ (quadratic @ powers[..., height:])
        return values.reshape(count, height * width)


@final
class CloudSupport(Support):
    """Atoms anywhere on the plane, clouds n 2: the same for the batch or of each instance."""

    def __init__(self, x: Values, y: Values) -> None:
        self._clouds = _double(x), _double(y)

    def statistics(self, a: Values, b: Values) -> tuple[Values, Values]:
        xp, means, covariances = _library(a), [], []
        for weights, cloud in zip((a, b), self._clouds, strict=True):
            shares = _double(weights)[:, :, None] / _double(weights).sum(axis=1)[:, None, None]
            mean = (shares * cloud).sum(axis=1)
            centred = cloud - mean[:, None]
            means.append(mean)
            x, y = centred[..., 0], centred[..., 1]
            covariances.append((shares * xp.stack([x * x, x * y, y * y], axis=-1)).sum(axis=1))
        return xp.stack(means), xp.stack(covariances)

    def frames(self, mean: Values, width: Values, modes: int) -> list[Frame]:
        pairs = zip(self._clouds, mean, strict=True)
        return [CloudFrame(_single((cloud - m[:, None]) / width[:, None, None]), modes) for cloud, m in pairs]


@final
class CloudFrame(Frame):
    """A cloud in coordinates of measures, measures n 2."""

    def __init__(self, atoms: Values, modes: int) -> None:
        self._x, self._y = atoms[..., 0], atoms[..., 1]
        self._of_x, self._of_y = cosines(self._x, modes), cosines(self._y, modes)

    def analysed(self, weights: Values) -> Values:
        return (self._of_x * _single(weights)[:, None]) @ self._of_y.mT

    def evaluated(self, coefficients: Values, quadratic: Values | None = None) -> Values:
        values = ((coefficients.mT @ self._of_x) * self._of_y).sum(axis=1)
        if quadratic is not None:
            values += ((quadratic.mT @ _powers(self._x)) * _powers(self._y)).sum(axis=1)
        return values


def cosines(u: Values, modes: int) -> Values:
    """Return cos(pi k (w + FAR) / (2 FAR)), measures modes n, of w = u / sqrt(1 + (u / FAR)^2) for k < `modes`.

    A reflection of u, measures n, changes the sign where k is odd.
    """
    xp = _library(u)
    angle = (u / xp.sqrt(1 + u * u * FAR**-2) + FAR) * (math.pi / (2 * FAR))
    frequencies = xp.arange(modes, dtype=u.dtype)
    if xp is torch:
        frequencies = frequencies.to(u.device)
    return xp.cos(angle[:, None] * frequencies[:, None])


@final
@dataclass(frozen=True)
class Encoding:
    """A batch of problems as the network reads it."""

    inputs: tuple[Values, ...]
    """Moments, covariances and eps, as `UniversalNetwork.forward` takes them."""
    quadratic: Values
    """The potential between Gaussians, batch 3 3: the coefficients of 1, x, x^2 times 1, y, y^2."""
    width: Values
    """The unit of length, batch."""
    frame: Frame
    """Of the source, or of source and target, of which functions of the source use the first part."""

    @cached_property
    def unit(self) -> Values:
        """The unit of potentials, batch 1, in the units of the cost."""
        return (self.width * self.width)[:, None]

    def potential(self, coefficients: Values) -> Values:
        """Return f of the network, for its coefficients, at the source atoms, in the units of the cost."""
        return self.frame.evaluated(coefficients, self.quadratic) * self.unit

    def correction(self, coefficients: Values) -> Values:
        """Return the function of these coefficients at the source atoms, in the units of the cost."""
        return self.frame.evaluated(coefficients) * self.unit


def encode(atoms: Support, a: Values, b: Values, eps: Values, modes: int) -> Encoding:
    """Bring both measures, batch n and batch m, of problems at temperatures eps, batch, into their frame."""
    xp = _library(a)
    mean, covariance = atoms.statistics(a, b)
    square = xp.maximum((covariance[0, :, ::2] + covariance[1, :, ::2]).sum(axis=-1) / 4, NARROWEST * eps)
    width = xp.sqrt(square)
    frames = atoms.frames(mean, width, modes)
    if len(frames) == 1:
        moments = frames[0].analysed(xp.concatenate([a, b])).reshape(2, -1, modes, modes)
    else:
        moments = xp.stack([frame.analysed(w) for frame, w in zip(frames, (a, b), strict=True)])
    temperature, covariance = eps / square, covariance / square[:, None]
    quadratic = _single(_between_gaussians(covariance, (mean[1] - mean[0]) / width[:, None], temperature))
    inputs = moments, _single(covariance), _single(temperature)
    return Encoding(inputs, quadratic, width, frames[0])


def _between_gaussians(covariance: Values, shift: Values, eps: Values) -> Values:
    r"""Return $|z|^2 - 2 z \cdot (\bar y - \bar x) - z^\top F z$ by its coefficients, batch 3 3; float64.

    Covariances are 2 batch 3, shifts from mean to mean batch 2, eps batch. One problem is computed in numbers.
    """
    if not isinstance(covariance, Tensor) and len(eps) == 1:
        (A,), (B,) = covariance.tolist()
        return np.array([_quadratic(A, B, shift[0].tolist(), float(eps[0]))])
    A, B = (tuple(part[:, k] for k in range(3)) for part in covariance)
    table = _quadratic(A, B, (shift[:, 0], shift[:, 1]), eps)
    xp = _library(eps)
    return xp.stack([xp.stack([value + 0 * eps for value in row], axis=-1) for row in table], axis=-2)


def _quadratic(A: Any, B: Any, shift: Any, eps: Any) -> list[list[Any]]:
    xx, xy, yy = gaussian_matrix(A, B, eps)
    return [[0.0, -2 * shift[1], 1 - yy], [-2 * shift[0], -2 * xy, 0.0], [1 - xx, 0.0, 0.0]]


def gaussian_matrix(A: Any, B: Any, eps: Any) -> tuple[Any, Any, Any]:
    r"""Return the matrix F of the potential between Gaussians with covariances A and B, numbers or batches.

    As `metaot.amortize.starts.gaussian_potential`, in the plane and without eigenvalues: with c = eps/4,
    $F = B (\sqrt{A B + c^2} + c)^{-1}$, where the theorem of Cayley and Hamilton gives the root and the inverse.
    Matrices are (xx, xy, yy); what rounding makes negative counts as zero.
    """
    (axx, axy, ayy), (bxx, bxy, byy), c = A, B, eps / 4
    det_A, det_B = abs(axx * ayy - axy * axy), abs(bxx * byy - bxy * bxy)
    trace, square = abs(axx * bxx + 2 * axy * bxy + ayy * byy), c * c
    root_det = (det_A * det_B + square * (trace + square)) ** 0.5
    trace = trace + 2 * square
    root_trace = (trace + 2 * root_det) ** 0.5
    k = root_det + c * root_trace
    scale = root_trace / (root_det * root_det + k * (trace + k))
    b, a = scale * (square + k), scale * det_B
    return b * bxx + a * ayy, b * bxy - a * axy, b * byy + a * axx


def require_plane(geometry: Geometry) -> None:
    """Raise ValueError for others than the plane with the squared distance."""
    image = isinstance(geometry, Grid) and len(geometry.sizes) == 2
    cloud = isinstance(geometry, Points) and geometry.x.shape[-1] == 2
    if geometry.cost_name != "sqeuclidean" or not (image or cloud):
        raise ValueError(
            "the universal model is for images and planar points with the cost 'sqeuclidean', such as "
            f"Grid(28, 28) or Points(x, y) with d = 2; got {geometry}"
        )


def support(geometry: Geometry, *, arrays: bool) -> Support:
    """Return the atoms of a geometry on the plane, as arrays or as tensors."""
    if isinstance(geometry, Grid):
        return _grid_support(geometry, arrays)
    assert isinstance(geometry, Points)
    clouds = [cloud.detach() if arrays else cloud for cloud in geometry.points]
    clouds = [cloud.reshape(-1, *cloud.shape[-2:]) for cloud in clouds]
    return CloudSupport(*(cloud.numpy() if arrays else cloud for cloud in clouds))


@lru_cache(maxsize=8)
def _grid_support(grid: Grid, arrays: bool) -> GridSupport:
    rows, columns = (axis.numpy() if arrays else axis for axis in grid.axes)
    return GridSupport(rows, columns)


def _powers(u: Values) -> Values:
    """Return 1, u, u^2 for each number: measures 3 n."""
    return _library(u).stack([u * 0 + 1, u, u * u], axis=1)


def _library(values: Values) -> Any:
    return torch if isinstance(values, Tensor) else np


def _single(values: Values) -> Values:
    return values.float() if isinstance(values, Tensor) else values.astype(np.float32, copy=False)


def _double(values: Values) -> Values:
    return values.double() if isinstance(values, Tensor) else values.astype(np.float64, copy=False)
