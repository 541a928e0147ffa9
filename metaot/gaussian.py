r"""The linear optimal map between two clouds of samples, for numpy arrays and torch tensors alike.

With means m, n and covariances A, B, the Gaussian (Bures) map is $y = n + M (x - m)$,
$M = A^{-1/2} (A^{1/2} B A^{1/2})^{1/2} A^{-1/2}$.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

Roots = Callable[[Any], tuple[Any, Any]]
"""S -> (S^1/2, S^-1/2), of positive definite matrices."""

NARROWEST = 1e-12
"""The least mean variance of a cloud: all of its points may coincide."""
_RELATIVE_FLOOR = 1e-4
"""The least variance in any direction, as a share of the mean one: a grey picture has a covariance of rank one."""


def gaussian_frame(x: Any, y: Any, eye: Any, roots: Roots) -> tuple[Any, Any, Any, Any, Any]:
    """Return m, n, U, V and scale of the frame in which the linear map from x to y is the identity.

    x is *batch n d and y *batch m d, float64; `eye` is a unit matrix of that kind. See `metaot.brenier.Frame`.
    """
    (m, A), (n, B) = moments(x), moments(y)
    floor = _RELATIVE_FLOOR * mean_variance(A, eye).clip(mean_variance(B, eye)).clip(NARROWEST)
    ridge = floor[..., None, None] * eye
    A, B = A + ridge, B + ridge
    half, inverse = roots(A)
    forward, backward = roots(inverse @ roots(half @ B @ half)[0] @ inverse)
    scale = mean_variance(forward @ A @ forward, eye)
    unit = (scale**-0.5)[..., None, None]
    return m, n, unit * forward, unit * backward, scale


def moments(z: Any) -> tuple[Any, Any]:
    """Return the mean and the covariance of samples, *batch n d."""
    mean = z.mean(-2)
    centred = z - mean[..., None, :]
    return mean, centred.swapaxes(-1, -2) @ centred / z.shape[-2]


def mean_variance(S: Any, eye: Any) -> Any:
    """Return the mean of a covariance's diagonal."""
    return (S * eye).sum((-2, -1)) / len(eye)


def symmetric_roots(S: Any, eigh: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return the square root of a positive definite matrix and its inverse, float64, from eigenvalues."""
    values, vectors = eigh(S)
    root = (values.clip(np.finfo(np.float64).tiny) ** 0.5)[..., None, :]
    transposed = vectors.swapaxes(-1, -2)
    return (vectors * root) @ transposed, (vectors / root) @ transposed


class ArrayMaps(NamedTuple):
    """A map of points, k d, and its inverse."""

    push: Callable[[np.ndarray], np.ndarray]
    pull: Callable[[np.ndarray], np.ndarray]


def linear_maps(x: np.ndarray, y: np.ndarray) -> ArrayMaps:
    """Return the linear map between the Gaussians of samples x, n d, and y, m d, and its inverse; float32."""
    roots = partial(symmetric_roots, eigh=np.linalg.eigh)
    clouds = x.astype(np.float64), y.astype(np.float64)
    m, n, U, V, scale = gaussian_frame(*clouds, np.eye(x.shape[-1]), roots)
    m, n, M, N = (z.astype(np.float32) for z in (m, n, scale * U @ U, scale * V @ V))
    return ArrayMaps(lambda x: (x - m) @ M + n, lambda y: (y - n) @ N + m)
