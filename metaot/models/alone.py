"""Networks at a temperature for one problem on a CPU, in numpy: the evaluators of the models without a batch.

Outside a hot loop a call into torch costs several times one into numpy, and as much as the arithmetic of a whole
layer. The arrays are views of the tensors of an evaluator, which makes its own twin by `alone`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import final

import numpy as np
from torch import Tensor

from metaot.single import AxesKernel, step_on_grid_each

try:
    from metaot.models import _forward
except ImportError:  # installed where there was no compiler
    _forward = None

Array = np.ndarray
Alone = Callable[[Array, Array], Iterator[Array]]
"""A model at a temperature for one problem: vectors (a, b) -> stages, all float32, which nobody else holds,
each computed when it is asked for."""

TINY = 1e-300
"""Sums of a Sinkhorn step are kept above it."""


_A = np.array([[12.477027], [-9.8450217], [-39.585156]], dtype=np.float32)
_B = np.array([[76.205937], [940.40453], [270.10662]], dtype=np.float32)
_C = np.float32(-3.6112315e-9)


def gelu(x: Array) -> Array:
    r"""Return x Phi(x) of a vector, with the normal distribution function.

    log(Phi(x) / Phi(-x)) is x p(x^2), and p, fitted to that for |x| < 5.6, a product of three positive quadratics:
    right to 7e-8 and to rounding, with half of the calls of 7.1.26 in Abramowitz and Stegun, which is no better.
    """
    factors = x * x + _A
    factors *= factors
    factors += _B
    y = _C * x
    for factor in factors:
        y *= factor
    np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def array(tensor: Tensor) -> Array:
    """Return a view of a tensor."""
    return tensor.detach().numpy()


def first(tensor: Tensor) -> Array:
    """Return a view of the only instance in a batch."""
    return array(tensor)[0]


def layer(weights: Sequence[Tensor]) -> tuple[Array, Array]:
    """Return views of the weight and the bias of a linear map or a norm."""
    weight, bias = weights
    return array(weight), array(bias)


@cache
def _ones(n: int) -> Array:
    return np.ones(n, dtype=np.float32)


def normal(x: Array, scale: Array, shift: Array) -> Array:
    """Return the layer norm."""
    n = x.size
    x = x - x.dot(_ones(n)) / n
    x *= 1 / math.sqrt(x.dot(x) / n + 1e-5)
    x *= scale
    x += shift
    return x


def affine(x: Array, weight: Array, bias: Array) -> Array:
    """Return W x + bias."""
    y = weight.dot(x)
    y += bias
    return y


@final
@dataclass(frozen=True)
class AxesAlone:
    """One matrix for each axis, that of the last axis first."""

    matrices: list[Array]

    @property
    def sizes(self) -> Array:
        """The sizes of what is multiplied."""
        return np.array([matrix.shape[1] for matrix in reversed(self.matrices)], dtype=np.int64)

    @property
    def flat(self) -> Array:
        """The transposed matrices, one behind the other, that of the first axis first."""
        return np.concatenate([matrix.T.reshape(-1) for matrix in reversed(self.matrices)])

    def __call__(self, values: Array) -> Array:
        """Multiply along all axes; dimensions before them become the last, and the answer has two."""
        for matrix in self.matrices:
            values = matrix.dot(values.reshape(-1, matrix.shape[1]).T)
        return values


@final
@dataclass(frozen=True)
class BlockAlone:
    """A `ModulatedBlock`."""

    scale: Array
    shift: Array
    inner: tuple[Array, Array]
    outer: tuple[Array, Array]

    @property
    def arrays(self) -> tuple[Array, ...]:
        return self.scale, self.shift, *self.inner, *self.outer

    def __call__(self, x: Array) -> Array:
        inner = affine(normal(x, self.scale, self.shift), *self.inner)
        half = inner.size // 2
        gated = gelu(inner[:half])
        gated *= inner[half:]
        y = affine(gated, *self.outer)
        y += x
        return y


@final
@dataclass(frozen=True)
class DecoderAlone:
    """A norm, a linear layer, and a function on the grid of cosine coefficients."""

    norm: tuple[Array, Array]
    outputs: tuple[Array, Array]
    gain: Array
    synthesis: AxesAlone

    @property
    def arrays(self) -> tuple[Array, ...]:
        return *self.norm, *self.outputs, self.gain, self.synthesis.flat

    @property
    def modes(self) -> int:
        """Frequencies for each axis."""
        return self.synthesis.matrices[0].shape[1]

    def __call__(self, x: Array, size: float = 1.0) -> Array:
        """Return `size` times the function."""
        coefficients = affine(normal(x, *self.norm), *self.outputs)
        coefficients *= self.gain if size == 1 else self.gain * size
        return self.synthesis(coefficients).reshape(-1)


@final
@dataclass(frozen=True)
class SpectralAlone:
    """A `SpectralPotential`."""

    analysis: AxesAlone
    inputs: tuple[Array, Array]
    blocks: list[BlockAlone]
    decode: DecoderAlone

    def __call__(self, a: Array, b: Array) -> Iterator[Array]:
        yield self.both(a, b)[1]

    def both(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Return the features of a problem and the potential that they stand for."""
        if _forward is None:
            with np.errstate(all="ignore"):
                x = self._encode(a, b)
                return x, self.decode(x)
        x, f = np.empty(len(self.inputs[1]), dtype=np.float32), np.empty(len(a), dtype=np.float32)
        moments = self.analysis.matrices[0].shape[0]
        _forward.first(moments, self.decode.modes, (*self._arrays, a, b, x, f))
        return x, f

    @cached_property
    def _arrays(self) -> tuple[Array, ...]:
        blocks = [array for block in self.blocks for array in block.arrays]
        arrays = self.analysis.flat, *self.inputs, *blocks, *self.decode.arrays
        return self.analysis.sizes, *map(np.ascontiguousarray, arrays)

    def _encode(self, a: Array, b: Array) -> Array:
        moments = self.analysis(np.concatenate((a, b)))
        x = affine(moments.reshape(-1, 2).T.reshape(-1), *self.inputs)
        for block in self.blocks:
            x = block(x)
        return x


@final
@dataclass(frozen=True)
class RefinedAlone:
    """A `RefinedPotential`."""

    first: SpectralAlone
    passes: int
    step: "StepAlone"
    correction: "CorrectionAlone"

    def __call__(self, a: Array, b: Array) -> Iterator[Array]:
        x, f = self.first.both(a, b)
        yield f
        a, b = a.astype(np.float64), b.astype(np.float64)
        for _ in range(self.passes):
            with np.errstate(all="ignore"):
                f, missing = self.step(f, a, b)
                self.correction(f, x, missing)
            yield f


@final
@dataclass(frozen=True)
class CorrectionAlone:
    """A `Correction`."""

    analysis: AxesAlone
    inputs: tuple[Array, Array]
    scale: Array
    block: BlockAlone
    decode: DecoderAlone

    def __call__(self, f: Array, x: Array, missing: Array) -> None:
        """Add to f what features of the problem and the missing marginal tell."""
        if _forward is None:
            f += self._added(x, missing)
        else:
            _forward.correct(self.decode.modes, (*self._arrays, x, missing, f))

    @cached_property
    def _arrays(self) -> tuple[Array, ...]:
        arrays = self.analysis.flat, *self.inputs, self.scale, *self.block.arrays, *self.decode.arrays
        return self.analysis.sizes, *map(np.ascontiguousarray, arrays)

    def _added(self, x: Array, missing: Array) -> Array:
        moments = self.analysis(missing).reshape(-1)[1:]
        size = math.sqrt(1e4 * float(moments.dot(moments)) / moments.size + 1e-6)
        moments *= 100 / size
        y = affine(moments, *self.inputs)
        y *= self.scale
        y += x
        return self.decode(self.block(y), size)


@final
class StepAlone:
    """A `GridStep`: with plain products where these are right, else row by row."""

    def __init__(self, sizes: list[int], eps: float, kernels: list[Array], kernel: AxesKernel) -> None:
        self.sizes, self.eps, self.kernels, self.kernel = sizes, eps, kernels, kernel

    def __call__(self, f: Array, a: Array, b: Array) -> tuple[Array, Array]:
        """Return the next f and the marginal that the plan of f misses, float32."""
        start = f.astype(np.float64)
        start /= self.eps
        found = step_on_grid_each(self.kernel, a[None], b[None], start[None])
        after, missing = self._by_rows(start, a, b) if len(found.lost) else (found.f[0], found.missing[0])
        after *= self.eps
        return after.astype(np.float32), missing.astype(np.float32)

    def _by_rows(self, start: Array, a: Array, b: Array) -> tuple[Array, Array]:
        start, a, b = start.reshape(self.sizes), a.reshape(self.sizes), b.reshape(self.sizes)
        top = start.max(-1, keepdims=True)
        sums, top = self._transform(a * np.exp(start - top), top)
        lowest = sums.min(-1, keepdims=True)
        sums, top = self._transform(b * (lowest / sums), -(top + np.log(lowest)))
        after = -(top + np.log(sums))
        missing = a - a * np.exp(np.minimum(start - after, 600))
        return after.reshape(-1), missing.reshape(-1)

    def _transform(self, weights: Array, top: Array) -> tuple[Array, Array]:
        """Return sums and highest so that log sum_i w_i exp(top_i - C_ij/eps) = highest + log sums_j."""
        last = len(self.sizes) - 1
        sums = weights @ self.kernels[last]
        for axis in range(last - 1, -1, -1):
            highest = top.max(axis, keepdims=True)
            sums = self._along(sums * np.exp(top - highest), axis)
            top = highest
        return np.maximum(sums, TINY), top

    def _along(self, values: Array, axis: int) -> Array:
        before, size = math.prod(self.sizes[:axis]), self.sizes[axis]
        return (self.kernels[axis] @ values.reshape(before, size, -1)).reshape(self.sizes)


@final
@dataclass(frozen=True)
class PerceptronAlone:
    """A `PotentialMLP`."""

    t: Array
    scales: tuple[Array, Array]
    hidden: list[tuple[Array, Array]]
    last: tuple[Array, Array]

    def __call__(self, a: Array, b: Array) -> Iterator[Array]:
        with np.errstate(all="ignore"):
            x = np.concatenate((a * self.scales[0], b * self.scales[1], self.t))
            for weights in self.hidden:
                x = affine(x, *weights)
                np.maximum(x, 0, out=x)
            f = affine(x, *self.last)
        yield f
