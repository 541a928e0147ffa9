"""Where two measures are and how wide: the coordinates in which problems that differ in that look alike.

With the cost |x - y|^2, moving a measure adds something linear to the potential, and scaling the plane by s
scales potential and eps by s^2. So a network may look at centred measures of unit width, and need learn neither.
"""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

NARROWEST = 1e-4
"""The least width, for measures on single atoms."""

Symmetric = tuple[Any, Any, Any]
"""A symmetric matrix as (xx, yy, xy): tensors, or numbers."""


@final
@dataclass(frozen=True)
class Moments:
    """The mean of a measure on the plane, and its covariance as (xx, yy, xy)."""

    mean: tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]
    covariance: tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]

    @property
    def covariance64(self) -> Symmetric:
        """The covariance in float64."""
        xx, yy, xy = self.covariance
        return xx.double(), yy.double(), xy.double()


def width(a: Moments, b: Moments) -> Float[Tensor, "batch"]:
    """Return the root of the mean variance, over both measures and both axes."""
    mean = (a.covariance[0] + a.covariance[1] + b.covariance[0] + b.covariance[1]) / 4
    return mean.clamp_min(NARROWEST**2).sqrt()


def between_gaussians(A: Symmetric, B: Symmetric, eps: Any) -> Symmetric:
    r"""Return the matrix F of the potential $|z|^2 - 2 z \cdot (\bar y - \bar x) - z^\top F z$ between Gaussians.

    As `metaot.amortize.starts.gaussian_potential`, in the plane, without eigenvalues, in float64: with
    covariances A and B and c = eps/4, $F = B^{1/2} (\sqrt{B^{1/2} A B^{1/2} + c^2} + c)^{-1} B^{1/2}$.
    """
    c = eps / 4
    R = _root(*B)
    xx, yy, xy = _sandwich(R, A)
    xx, yy, xy = _root(xx + c * c, yy + c * c, xy)
    xx, yy = xx + c, yy + c
    determinant = xx * yy - xy * xy
    return _sandwich(R, (yy / determinant, xx / determinant, -xy / determinant))


def _root(xx: Any, yy: Any, xy: Any) -> Symmetric:
    """Return the root of a positive matrix (Cayley and Hamilton)."""
    determinant = abs(xx * yy - xy * xy) ** 0.5
    trace = (xx + yy + 2 * determinant + 1e-60) ** 0.5
    return (xx + determinant) / trace, (yy + determinant) / trace, xy / trace


def _sandwich(R: Symmetric, M: Symmetric) -> Symmetric:
    """Return R M R."""
    (rx, ry, r), (mx, my, m) = R, M
    left, right = rx * mx + r * m, rx * m + r * my
    low, high = r * mx + ry * m, r * m + ry * my
    return left * rx + right * r, low * r + high * ry, left * r + right * ry
