"""`metaot.brenier.Frame` for one pair of clouds, in numpy."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

Array = np.ndarray

RELATIVE_FLOOR = 1e-4
"""The least variance in any direction, as a share of the mean one: a grey picture has a covariance of rank one."""
NARROWEST = 1e-12
"""The least mean variance, for clouds that are a point."""


@final
@dataclass(frozen=True)
class FrameAlone:
    r"""u = (x - m) U^T, v = (y - n) V^T and $\langle x - m, y - n \rangle = scale \, \langle u, v \rangle$.

    All are float64, vectors of d and matrices d d.
    """

    m: Array
    n: Array
    U: Array
    V: Array
    scale: float

    @classmethod
    def gaussian(cls, x: Array, y: Array) -> "FrameAlone":
        """Return the frame in which the linear map between the samples' Gaussians is the identity."""
        d = x.shape[-1]
        (m, A), (n, B) = _moments(x), _moments(y)
        ridge = RELATIVE_FLOOR * max(A.trace() / d, B.trace() / d, NARROWEST) * np.eye(d)
        A, B = A + ridge, B + ridge
        half, inverse = _roots(A)
        forward, backward = _roots(inverse @ _roots(half @ B @ half)[0] @ inverse)
        scale = float((forward @ A @ forward).trace()) / d
        unit = 1 / math.sqrt(scale)
        return cls(m, n, unit * forward, unit * backward, scale)

    @property
    def T(self) -> "FrameAlone":
        """The frame with source and target exchanged."""
        return FrameAlone(self.n, self.m, self.V, self.U, self.scale)

    def enter(self, x: Array) -> Array:
        """Return the coordinates of points of the source, float32."""
        return ((x - self.m) @ self.U.T).astype(np.float32)


def _moments(z: Array) -> tuple[Array, Array]:
    mean = z.mean(0, dtype=np.float64)
    centred = z - mean
    return mean, centred.T @ centred / len(z)


def _roots(S: Array) -> tuple[Array, Array]:
    """Return the square root of a positive definite matrix and the inverse of that."""
    values, vectors = np.linalg.eigh(S)
    root = np.sqrt(np.maximum(values, np.finfo(values.dtype).tiny))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
