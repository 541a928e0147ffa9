"""Barycenters of clouds on points that move: Cuturi and Doucet (arXiv 1310.4375), with Sinkhorn divergences.

The gradient of sum_k w_k S_eps(mu, nu_k) at an atom x_i of mu is 2 a_i (sum_k w_k (T(x_i) - T_k(x_i))), where T_k
is the mean of the plan to nu_k, and T that of the plan to mu itself (Feydy et al., arXiv 1810.08278). A step goes
to x - T(x) + sum_k w_k T_k(x): without entropy that is the mean of the maps, as in Lloyd's algorithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike, as_count, as_positive, require_limits, wrong
from metaot.core.status import Status
from metaot.geometry import Points
from metaot.geometry.checks import Given, given, require_finite, require_weights, together
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Solution, solve

_PLANS, _NEAR = 1e-6, 0.1
"""The L1 error of the plans, and the part of a step's movement to which it is reduced before."""

_HALF, _LONGER, _SHORTER = 0.5, 1.2, 0.5
"""The part of a step of log masses; how its bound grows while steps go on in one direction, and shrinks when they
turn."""

_SHARE = 0.05
"""eps, unless it is given, in units of the mean cost between points of all clouds."""

Clouds = Sequence[ArrayLike | tuple[ArrayLike, ArrayLike]]
"""Clouds of m_k d, of equal weights; or pairs of a cloud and its weights."""


@final
@dataclass(frozen=True)
class FreeBarycenter:
    """Support points and weights of a barycenter, and the plans to the clouds.

    `error` is how far the last step moved the mass in the mean, in units of its standard deviation, and where
    weights are learned the L1 change of the weights too. `solution` holds the plans from the barycenter, one for
    each cloud, padded to the largest by atoms without mass.
    """

    points: Float[Tensor, "n d"]
    measure: Float[Tensor, "n"]
    error: float
    converged: bool
    steps: int
    solution: Solution
    max_steps: int

    @cached_property
    def status(self) -> Status:
        """How it ended."""
        return Status.of_one(self.converged, self.error)

    @property
    def potentials(self) -> DualPotentials:
        """The potentials of the plans, f on the barycenter and g on the clouds: k n and k m."""
        return self.solution.potentials

    def __repr__(self) -> str:
        words = "converged" if self.converged else f"not converged ({self.status.name})"
        return f"FreeBarycenter of {len(self.points)} points: {words}, error {self.error:.1g}, {self.steps} steps"


@torch.no_grad()
def free_barycenter(
    clouds: Clouds,
    weights: ArrayLike,
    n: int | None = None,
    *,
    eps: float | None = None,
    init: ArrayLike | FreeBarycenter | None = None,
    measure: ArrayLike | None = None,
    learn_measure: bool = False,
    tol: float = 1e-3,
    max_steps: int = 200,
) -> FreeBarycenter:
    """Return n points with the least weighted mean of Sinkhorn divergences to k clouds; cost |x - y|^2.

    Each cloud is m_k d, or a pair (points, masses). `weights` are k, not negative, with a sum of one. `measure`
    are the n masses of the barycenter, equal by default; with `learn_measure` they move too. `init` are n d points
    to start from, or an earlier barycenter; by default n points of the cloud with the largest weight, spread
    evenly over its order. `eps` is in the units of the cost; by default a twentieth of the mean cost between any
    two points of all clouds, by their masses and `weights`.

    The minimum is a local one, as of every method with free points. The plans start from those of the step before.
    Stops when a step moves the mass by less than `tol` standard deviations in the mean, or after `max_steps`
    steps, which is a result. Calculated in float64, which points and masses have too.

    Raises ValueError for weights or masses that are negative or do not sum to one, for points that are not finite,
    and for clouds without points or of different dimensions; TypeError for what holds no numbers.

        free_barycenter([x, (y, masses)], [0.5, 0.5], n=100).points  # n d
    """
    limit, most = require_limits(tol, max_steps)
    targets = _Targets.of(clouds, weights)
    temperature = as_positive("eps", _SHARE * targets.mean_cost if eps is None else eps)
    x, a = _start(targets, n, init, measure)
    old = init if isinstance(init, FreeBarycenter) and len(init.potentials.f) == len(targets.weights) else None
    f: Any = None if old is None or old.potentials.f.shape[-1] != len(x) else old.solution
    h: Any = None
    masses, error, steps, plans = _Masses(a, torch.zeros_like(a)), float("inf"), 0, _PLANS
    spread = float((targets.masses[..., None] * (targets.y - targets.mean).square()).sum((-2, -1)).mean().sqrt())
    while True:
        a = masses.a
        to_clouds = solve(targets.problem(x, a, temperature), init=f, tol=plans)
        itself = solve(Problem.trusted(a, a, Points(x, x), temperature), init=h, tol=plans)
        f, h = to_clouds, itself
        moved = torch.einsum("k,knd->nd", targets.weights, to_clouds.transport()) - itself.transport()
        error = float((a * moved.norm(dim=-1)).sum()) / max(spread, 1e-300)
        following = masses.moved(targets, to_clouds, itself, temperature) if learn_measure else masses
        error += float((following.a - a).abs().sum())
        if not error > limit or steps >= most:
            break
        x, masses, steps = x + moved, following, steps + 1
        plans = max(_PLANS * 0.1, min(1e-3, _NEAR * error))
    return FreeBarycenter(x, a, error, error <= limit, steps, to_clouds, most)


@final
@dataclass(frozen=True)
class _Masses:
    """Masses that move by mirror descent; steps are bounded, because between points far apart the slope jumps."""

    a: Float[Tensor, "n"]
    last: Float[Tensor, "n"]
    bound: float = 1.0

    def moved(self, targets: "_Targets", to_clouds: Solution, itself: Solution, eps: float) -> "_Masses":
        """Go against the gradient sum_k w_k f_k - h."""
        own = 0.5 * (itself.potentials.f + itself.potentials.g)
        slope = torch.einsum("k,kn->n", targets.weights, to_clouds.potentials.f) - own
        step = -_HALF * (slope - (self.a * slope).sum()) / eps
        turned = float((self.a * step * self.last).sum()) < 0
        bound = min(1.0, self.bound * (_SHORTER if turned else _LONGER))
        masses = self.a * step.clamp(-bound, bound).exp()
        return _Masses(masses / masses.sum(), step, bound)


@final
@dataclass(frozen=True)
class _Targets:
    """Clouds as one batch, padded by atoms without mass."""

    y: Float[Tensor, "k m d"]
    masses: Float[Tensor, "k m"]
    weights: Float[Tensor, "k"]

    @property
    def mean(self) -> Float[Tensor, "k 1 d"]:
        return (self.masses[..., None] * self.y).sum(-2, keepdim=True)

    @property
    def mean_cost(self) -> float:
        """The mean of |x - y|^2 between two points of the mixture, twice its variance; one if all are equal."""
        masses = (self.weights[:, None] * self.masses)[..., None]
        cost = 2 * float((masses * (self.y - (masses * self.y).sum((0, 1))).square()).sum())
        return cost if cost > 0 else 1.0

    def problem(self, x: Float[Tensor, "n d"], a: Float[Tensor, "n"], eps: float) -> Problem:
        k = len(self.y)
        geometry = Points(x.expand(k, *x.shape).contiguous(), self.y)
        return Problem.trusted(a.expand(k, -1).contiguous(), self.masses, geometry, eps)

    @classmethod
    def of(cls, clouds: object, weights: ArrayLike) -> "_Targets":
        """Read clouds and weights; errors name the first thing that is wrong."""
        if getattr(clouds, "ndim", 0) == 3:
            clouds = list(clouds)  # type: ignore[call-overload]
        if not isinstance(clouds, Sequence) or isinstance(clouds, str) or len(clouds) == 0:
            raise wrong("clouds", "a list of clouds, each m d or a pair (points, masses)", clouds)
        parts = [_checked("weights", weights, len(clouds))]
        for k, cloud in enumerate(clouds):
            paired = isinstance(cloud, tuple) and len(cloud) == 2
            points = given(f"clouds[{k}]", cloud[0] if paired else cloud)
            _require_cloud(points, None if k == 0 else parts[1].tensor.shape[-1])
            size = len(points.tensor)
            parts += [points, _checked(f"clouds[{k}][1]", cloud[1] if paired else [1 / size] * size, size)]
        shares, *rest = (part.double() for part in together(*parts))
        most = max(len(points) for points in rest[::2])
        y, b = shares.new_zeros(len(clouds), most, rest[0].shape[-1]), shares.new_zeros(len(clouds), most)
        for k, (points, masses) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
            y[k, : len(points)], y[k, len(points) :] = points, points[-1:]
            b[k, : len(points)] = masses / masses.sum()
        return cls(y, b, shares / shares.sum())


def _require_cloud(points: Given, d: int | None) -> None:
    """Raise unless points are m d, and finite."""
    shape = tuple(points.tensor.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{points.name} must have the shape (points, d), got {shape}")
    if d not in (None, shape[1]):
        raise ValueError(
            f"clouds must have one dimension d, got {d} for clouds[0] and {shape[1]} for {points.name}"
        )
    require_finite(points.name, points.tensor)


def _checked(name: str, values: object, count: int) -> Given:
    """Return values that are not negative and sum to one."""
    part = given(name, values)
    if part.tensor.shape != (count,):
        raise ValueError(f"{name} must be {count} numbers, got the shape {tuple(part.tensor.shape)}")
    require_weights(name, part.tensor)
    return part


def _start(
    targets: _Targets, n: object, init: object, measure: ArrayLike | None
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
    """Return the points and masses to start from."""
    like = targets.y
    if isinstance(init, FreeBarycenter):
        x, a = init.points.to(like), init.measure.to(like)
    else:
        x = _spread(targets, as_count("n", n)) if init is None else given("init", init).tensor.to(like)
        a = None
    count = len(x) if n is None and x.ndim else n
    if x.shape != (count, like.shape[-1]) or len(x) == 0:
        wanted = f"({'n' if n is None else n}, {like.shape[-1]})"
        raise ValueError(f"init must be points of the shape {wanted}, got {tuple(x.shape)}")
    require_finite("init", x)
    a = torch.full_like(x[:, 0], 1 / len(x)) if a is None else a
    if measure is None:
        return x, a
    masses = _checked("measure", measure, len(x)).tensor.to(like)
    return x, masses / masses.sum()


def _spread(targets: _Targets, n: int) -> Float[Tensor, "n d"]:
    """Return n points of the cloud with the largest weight, at the mean of all clouds."""
    if n < 1:
        raise ValueError(f"n must be at least one, got {n}")
    k = int(targets.weights.argmax())
    atoms = targets.masses[k].nonzero()[:, 0]
    chosen = atoms[torch.linspace(0, len(atoms) - 1, n, device=atoms.device).round().long()]
    shift = torch.einsum("k,kd->d", targets.weights, targets.mean[:, 0]) - targets.mean[k, 0]
    x = targets.y[k, chosen] + shift
    if n <= len(atoms):
        return x
    jitter = torch.sin(torch.arange(x.numel(), device=x.device, dtype=x.dtype)).reshape(x.shape)
    return x + 1e-3 * (x.std(0) if n > 1 else 1.0) * jitter  # points that are equal would stay so
