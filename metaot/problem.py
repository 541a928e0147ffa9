"""Entropic transport problems: two vectors of weights, a geometry and a temperature; always a batch."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import core
from metaot.core.method import suits_compiled_code
from metaot.geometry import Eps, Geometry
from metaot.geometry.checks import first_place, require_finite

MASS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far from one the mass of a weight vector may be."""


@final
@dataclass(frozen=True)
class Problem:
    """A batch of entropic transport problems between weights a and b.

    min <C, P> + eps KL(P | a b^T) over plans P with marginals a and b. `eps` is in the units of the cost: one
    number, or one for each instance. The geometry is brought to the dtype and device of the weights.
    Weights of zero are normal. Raises ValueError, naming the first offending entry, for weights that are NaN,
    negative, of another mass than one or in another dtype than float32 and float64, for sizes that do not fit and
    for eps that is not positive.
    """

    a: Float[Tensor, "*batch n"]
    b: Float[Tensor, "*batch m"]
    geometry: Geometry
    eps: Eps

    def __post_init__(self) -> None:
        _require_weights("a", self.a)
        _require_weights("b", self.b)
        if self.a.dtype != self.b.dtype or self.a.device != self.b.device:
            raise ValueError(
                f"a is {self.a.dtype} on {self.a.device}, b is {self.b.dtype} on {self.b.device}: "
                "bring them together"
            )
        if self.a.shape[:-1] != self.b.shape[:-1]:
            raise ValueError(
                f"a of shape {tuple(self.a.shape)} and b of {tuple(self.b.shape)} differ in their batch"
            )
        sizes = (self.a.shape[-1], self.b.shape[-1])
        if sizes != self.geometry.shape:
            raise ValueError(f"weights of sizes {sizes} do not fit the geometry of sizes {self.geometry.shape}")
        if self.geometry.batch_shape not in ((), self.batch_shape):
            raise ValueError(
                f"a batch {tuple(self.batch_shape)} of weights does not fit "
                f"a batch {self.geometry.batch_shape} of geometries"
            )
        object.__setattr__(self, "geometry", self.geometry.to(self.a))
        object.__setattr__(self, "eps", self._checked_eps())

    def _checked_eps(self) -> Eps:
        eps = self.eps
        if not isinstance(eps, Tensor):
            if not (math.isfinite(eps) and eps > 0):
                raise ValueError(f"eps must be positive and finite, got {eps}")
            return float(eps)
        if eps.shape != self.batch_shape:
            raise ValueError(
                f"eps must be a number or of the batch's shape {tuple(self.batch_shape)}, got {tuple(eps.shape)}"
            )
        bad = ~(torch.isfinite(eps) & (eps > 0))
        if bad.any():
            raise ValueError(f"eps must be positive and finite, got eps{first_place(bad, eps)}")
        return eps.to(self.a)

    @classmethod
    def trusted(cls, a: Tensor, b: Tensor, geometry: Geometry, eps: Eps) -> "Problem":
        """Make a problem of parts that were checked before, without waiting for the device."""
        problem = object.__new__(cls)
        for name, value in (("a", a), ("b", b), ("geometry", geometry), ("eps", eps)):
            object.__setattr__(problem, name, value)
        return problem

    @property
    def T(self) -> "Problem":
        """The same problem with source and target exchanged."""
        return Problem.trusted(self.b, self.a, self.geometry.T, self.eps)

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the batch; () for a single problem."""
        return self.a.shape[:-1]

    def __getitem__(self, index: object) -> "Problem":
        """Return a part of the batch; `index` is anything that indexes the batch dimensions of a tensor."""
        eps = self.eps[index] if isinstance(self.eps, Tensor) else self.eps  # type: ignore[index]
        a, b = self.a[index], self.b[index]  # type: ignore[index]
        return Problem.trusted(a, b, self.geometry[index], eps)

    def flat(self) -> "Problem":
        """Return the same problems with exactly one batch dimension."""
        n, m = self.geometry.shape
        eps = self.eps.reshape(-1) if isinstance(self.eps, Tensor) else self.eps
        return Problem.trusted(self.a.reshape(-1, n), self.b.reshape(-1, m), self.geometry.flat(), eps)

    def to(self, like: Tensor, geometry: Geometry | None = None) -> "Problem":
        """Return the problems in the dtype and on the device of `like`.

        `geometry` is their space, if it has been moved already.
        """
        if geometry is None and self.a.dtype == like.dtype and self.a.device == like.device:
            return self
        eps = self.eps.to(like) if isinstance(self.eps, Tensor) else self.eps
        return Problem.trusted(self.a.to(like), self.b.to(like), geometry or self.geometry.to(like), eps)

    @property
    def has_axes(self) -> bool:
        """Whether the atoms are those of a grid with several axes."""
        costs = self.geometry.axis_costs
        return costs is not None and len(costs) > 1

    @property
    def suits_core(self) -> bool:
        """Whether compiled code solves these problems, and sooner than torch."""
        if not (core.COMPILED and self.a.is_cpu and self.a.dtype == torch.float64):
            return False
        is_cloud = self.geometry.axis_costs is None and self.geometry.cost_name in core.POINT_COSTS
        needs_matrix = not (self.has_axes or is_cloud)
        return suits_compiled_code(self.geometry.shape, has_axes=self.has_axes, needs_matrix=needs_matrix)

    def arrays(self) -> tuple[core.Costs, np.ndarray, np.ndarray, np.ndarray]:
        """Return costs, weights and temperatures of a flat batch as the compiled core takes them."""
        a, b = self.a.detach().numpy(), self.b.detach().numpy()
        eps = self.eps.detach().numpy() if isinstance(self.eps, Tensor) else np.full(len(a), self.eps)
        return self.geometry.core_costs, a, b, eps

    def normalised(self) -> "Problem":
        """Return the problems in float64, with masses that are one to its precision.

        Between masses that differ there is no plan, and no solver reaches an error below their difference. A cost
        with a name is evaluated again in float64. A matrix stays as it is, and so does a function of the user's,
        which may work in its own dtype only; their costs are converted.
        """
        double = self.to(self.a.double(), None if self.geometry.cost_name else self.geometry)
        a, b = (weights / weights.sum(-1, keepdim=True) for weights in (double.a, double.b))
        return Problem.trusted(a, b, double.geometry, double.eps)


def _require_weights(name: str, weights: Tensor) -> None:
    require_finite(name, weights)
    if weights.ndim == 0 or weights.shape[-1] == 0:
        raise ValueError(f"{name} must have the shape (*batch, atoms), got {tuple(weights.shape)}")
    negative = weights < 0
    if negative.any():
        raise ValueError(f"{name} must not be negative, got {name}{first_place(negative, weights)}")
    mass = weights.detach().sum(-1)
    bad = (mass - 1).abs() > MASS_TOLERANCE[weights.dtype]
    if bad.any():
        raise ValueError(
            f"the weights {name} must sum to one, got sum {name}{first_place(bad, mass)}: "
            f"divide by {name}.sum(-1, keepdim=True)"
        )
