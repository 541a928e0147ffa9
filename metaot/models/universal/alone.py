"""The universal network in numpy, for one pair of images: there torch's calls take longer than the arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from metaot.models.alone import Array, gelu
from metaot.models.layers import TEMPERATURES
from metaot.models.universal.compiled import Images, Step
from metaot.models.universal.frame import NARROWEST, between_gaussians
from metaot.models.universal.places import FAR

_TINY = 1e-6
_MIRRORS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=np.float32) / 2


@final
@dataclass(frozen=True)
class LinearAlone:
    """A `ParityLinear`."""

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        y = np.matmul(x[:, None], self.weight)[:, 0]
        y[0] += self.bias
        return y


@final
@dataclass(frozen=True)
class BlockAlone:
    """A `ParityBlock`."""

    scale: Array
    modulation: Array
    inner: LinearAlone
    outer: LinearAlone

    def __call__(self, x: Array, temperature: Array) -> Array:
        scale = self.modulation.dot(temperature)
        scale += 1
        inner = _MIRRORS.dot(self.inner(normal(x) * (self.scale * scale)))
        half = inner.shape[1] // 2
        gated = gelu(inner[:, :half].reshape(-1)).reshape(4, half)
        gated *= inner[:, half:]
        y = self.outer(_MIRRORS.dot(gated))
        y += x
        return y


@final
@dataclass(frozen=True)
class UniversalAlone:
    """A `UniversalNetwork`, for one pair of images."""

    modes: int
    temperatures: tuple[float, float]
    """The range of temperatures, in squared widths, that the network tells apart."""
    emphasis: Array
    damping: Array
    inputs: LinearAlone
    of_eps: tuple[Array, Array]
    blocks: list[BlockAlone]
    outputs: LinearAlone
    gain: tuple[Array, Array]
    missing: LinearAlone
    corrector: BlockAlone
    correction: LinearAlone

    def __call__(self, images: Images, step: Step, *, passes: int, threads: int = 1) -> Iterator[Array]:
        """Give the stages of f, as `UniversalCompiled` does: of one problem, on one thread."""
        shape, eps = (len(images.axes[0]), len(images.axes[1])), float(images.eps[0])
        weights = images.a.reshape(shape).astype(np.float32), images.b.reshape(shape).astype(np.float32)
        with np.errstate(all="ignore"):
            seen = self._look(images.axes, weights, eps)
            f = self._first(seen)
            f = f.reshape(1, -1) / np.float64(eps)
        yield f
        for _ in range(passes):
            f, left = step(f)
            with np.errstate(all="ignore"):
                f += self._corrected(seen, left.reshape(shape).astype(np.float32)).reshape(1, -1) / eps
            yield f

    def _look(self, axes: tuple[Array, Array], weights: tuple[Array, Array], eps: float) -> "_Seen":
        """Bring both images into their frame and read them."""
        a, b = (_Measure.of(axes, image) for image in weights)
        width = math.sqrt(max((a.xx + a.yy + b.xx + b.yy) / 4, NARROWEST**2))
        bases, others = self._cosines(a.centred, width), self._cosines(b.centred, width)
        t = self._temperature(eps / width**2)
        count = (self.modes // 2) ** 2
        read = np.zeros((4, 2 * count + 5), dtype=np.float32)
        read[:, :count] = self._moments(bases, weights[0])
        read[:, count : 2 * count] = self._moments(others, weights[1])
        read[0, 2 * count : -1] = np.array([a.xx, a.yy, b.xx, b.yy]) / width**2
        read[3, -2:] = a.xy / width**2, b.xy / width**2
        x = self.inputs(read)
        x[0] += _affine(self.of_eps, t)
        for block in self.blocks:
            x = block(x, t)
        return _Seen(a, b, eps, width, bases, t, x)

    def _first(self, seen: "_Seen") -> Array:
        """Return the potential between Gaussians and what the network adds."""
        coefficients = self.outputs(normal(seen.x))
        coefficients *= self.damping * _affine(self.gain, seen.temperature)
        f = _quadratic(seen.a, seen.b, seen.eps)
        f += self._function(seen, coefficients)
        return f

    def _corrected(self, seen: "_Seen", left: Array) -> Array:
        """Return what to add to f, from the missing marginal."""
        read = np.zeros((4, (self.modes // 2) ** 2 + 1), dtype=np.float32)
        moments = self._moments(seen.bases, left)
        moments *= 100
        size = math.sqrt(float(np.square(moments).mean()) + _TINY)
        read[:, :-1] = moments / size
        read[0, -1] = math.log(size)
        x = self.corrector(seen.x + self.missing(read), seen.temperature)
        return self._function(seen, self.correction(normal(x)) * (self.damping * size))

    def _cosines(self, axes: tuple[Array, Array], width: float) -> list[Array]:
        """Return cosines of compressed coordinates, modes n for each axis, by their recurrence."""
        u = np.concatenate(axes) / width
        cosine = np.cos((u / np.sqrt(1 + (u / FAR) ** 2) + FAR) * (math.pi / (2 * FAR)))
        table = np.empty((self.modes, len(u)))
        table[0], table[1] = 1, cosine
        cosine *= 2
        for k in range(2, self.modes):
            np.multiply(cosine, table[k - 1], table[k])
            table[k] -= table[k - 2]
        return np.split(table.astype(np.float32), [len(axes[0])], 1)

    def _moments(self, bases: list[Array], weights: Array) -> Array:
        """Return the sums of weights times cosines by class, emphasised."""
        half = self.modes // 2
        table = bases[0].dot(weights).dot(bases[1].T)
        return table.reshape(half, 2, half, 2).transpose(1, 3, 0, 2).reshape(4, -1) * self.emphasis

    def _function(self, seen: "_Seen", coefficients: Array) -> Array:
        """Return the function of these coefficients at the pixels, in the units of the cost."""
        half = self.modes // 2
        table = coefficients.reshape(2, 2, half, half).transpose(2, 0, 3, 1).reshape(self.modes, self.modes)
        table *= seen.width**2
        return seen.bases[0].T.dot(table).dot(seen.bases[1])

    def _temperature(self, eps: float) -> Array:
        """Return Chebyshev polynomials of log eps."""
        low, high = map(math.log, self.temperatures)
        t = min(1.0, max(-1.0, (2 * math.log(eps) - low - high) / (high - low)))
        terms = [1.0, t]
        while len(terms) < TEMPERATURES:
            terms.append(2 * t * terms[-1] - terms[-2])
        return np.array(terms, dtype=np.float32)


@final
@dataclass(frozen=True)
class _Seen:
    """A pair of images as the network sees it."""

    a: "_Measure"
    b: "_Measure"
    eps: float
    width: float
    bases: list[Array]
    temperature: Array
    x: Array


@final
@dataclass(frozen=True)
class _Measure:
    """The mean and the covariance of an image, and its axes from the mean."""

    mean: tuple[float, float]
    centred: tuple[Array, Array]
    xx: float
    yy: float
    xy: float

    @classmethod
    def of(cls, axes: tuple[Array, Array], image: Array) -> "_Measure":
        rows, columns = image.sum(1, dtype=np.float64), image.sum(0, dtype=np.float64)
        mean = float(rows.dot(axes[0])), float(columns.dot(axes[1]))
        x, y = axes[0] - mean[0], axes[1] - mean[1]
        xy = float(x.dot(image.dot(y.astype(np.float32))))
        return cls(mean, (x, y), float(rows.dot(x * x)), float(columns.dot(y * y)), xy)


def normal(x: Array) -> Array:
    """Scale to a mean square of one."""
    flat = x.reshape(-1)
    return x * np.float32(1 / math.sqrt(float(flat.dot(flat)) / flat.size + _TINY))


def _affine(layer: tuple[Array, Array], t: Array) -> Array:
    return layer[0].dot(t) + layer[1]


def _quadratic(a: _Measure, b: _Measure, eps: float) -> Array:
    """Return |z|^2 - 2 z . (y mean - x mean) - z F z at the pixels, float32: the potential between Gaussians."""
    xx, yy, xy = between_gaussians((a.xx, a.yy, a.xy), (b.xx, b.yy, b.xy), eps)
    x, y = a.centred
    rows = x * ((1 - xx) * x - 2 * (b.mean[0] - a.mean[0]))
    columns = y * ((1 - yy) * y - 2 * (b.mean[1] - a.mean[1]))
    f = rows[:, None] + columns
    f -= np.multiply.outer(2 * xy * x, y)
    return f.astype(np.float32)
