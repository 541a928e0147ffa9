"""Gromov-Wasserstein: plans between spaces that share nothing, by what they do to distances within each space.

One linear problem after another (Peyre, Cuturi and Solomon, ICML 2016; `metaot.maps.distortion`), each solved from
the potentials of the one before. The distortion has many local minima: several starts are compared by one linear
problem each at a high eps, between some of the atoms if there are many, and the best go on.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike, as_count, as_number, require_limits
from metaot.core.status import Status
from metaot.geometry import Geometry
from metaot.geometry.checks import require_finite, tensor
from metaot.maps.descent import Descent, part_of, permutation, rounded
from metaot.maps.distortion import CloudDistortion
from metaot.maps.spaces import Spaces
from metaot.potentials import DualPotentials
from metaot.solvers import Solution, solve

_FEW = 512
"""Atoms of each side between which starts are compared."""

_LOOK, _LOOSELY = 0.2, 0.1
"""The eps at which starts are compared, as a part of the distortion's scale, and the L1 error of plans there."""

_WARM, _COOLER, _COLD = 0.1, 3.0, 1e-3
"""The first eps on the way, the ratio of two, and the last one before a plan is rounded."""

_BEFORE = 0.03
"""The eps of the one linear problem before permutations, where starts come without potentials."""

_KEPT, _APART, _CLOSE = 2, 1e-3, 0.2
"""The most starts that go on; how far their values are, relatively, above the one before at least, and above the
best at most."""

_ROUNDS = 10
"""The most linear problems of one eps on the way."""

_LOOSE = 0.02
"""The last change of moments before a plan is rounded."""


@final
@dataclass(frozen=True)
class GromovWasserstein:
    """A plan between two spaces, and its distortion.

    `value` is the distortion sum (D_ik - E_jl)^2 P_ij P_kl of the plan, without entropy; with features, alpha
    times it and 1 - alpha times their cost. `values` are those of all starts, the user's last; of those that were
    left behind, where they stopped, or what they were compared by: a bound with entropy at a high eps, between
    some of the atoms.

    `error` is how much the last linear problem changed the moments of the plan, relative to these; without
    entropy, zero once its solution is the permutation that it was made from. `steps` are the linear problems of
    the best start, `inner_steps` the Sinkhorn steps of all.
    """

    value: Float[Tensor, ""]
    values: Float[Tensor, "starts"]
    error: float
    converged: bool
    steps: int
    inner_steps: int
    max_steps: int
    potentials: DualPotentials
    """Those of the last linear problem, whose cost is the slope of the distortion."""
    solution: Solution | None = None
    """The last linear problem; None of a permutation."""
    assignment: Int[Tensor, "n"] | None = None
    """Without entropy, between as many atoms of equal weights: the target's atom of each atom of the source."""
    rounded: Float[Tensor, "n m"] | None = None

    @cached_property
    def status(self) -> Status:
        """How it ended."""
        return Status.of_one(self.converged, self.error)

    def plan(self) -> Float[Tensor, "n m"]:
        """Return the plan, n x m numbers."""
        if self.rounded is not None:
            return self.rounded
        if self.assignment is not None:
            return permutation(self.assignment, self.value)
        assert self.solution is not None
        return self.solution.plan()

    def transport(self, values: ArrayLike) -> Float[Tensor, "n k"]:
        """Return the mean of the target's `values`, m k, under each row of the plan."""
        v = tensor("values", values, like=self.value).to(self.value)
        m = len(self.potentials.g)
        if v.ndim != 2 or len(v) != m:
            raise ValueError(f"values must have the shape ({m}, k), got {tuple(v.shape)}")
        if self.assignment is not None:
            return v[self.assignment]
        P = self.plan()
        return (P @ v) / P.sum(-1, keepdim=True).clamp_min(torch.finfo(P.dtype).tiny)

    def __repr__(self) -> str:
        n, m = len(self.potentials.f), len(self.potentials.g)
        words = "converged" if self.converged else f"not converged ({self.status.name})"
        return (
            f"GromovWasserstein({n} x {m}, value {float(self.value):.6g}: {words}, {self.steps} linear problems)"
        )


@torch.no_grad()
def gromov_wasserstein(
    x: ArrayLike | Geometry,
    y: ArrayLike | Geometry,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: float = 0.0,
    features: ArrayLike | Geometry | None = None,
    alpha: float | None = None,
    init: Any = None,
    starts: int = 9,
    generator: torch.Generator | None = None,
    tol: float = 1e-6,
    max_steps: int = 200,
) -> GromovWasserstein:
    """Return a plan between two spaces that changes distances little: a local minimum, the best of several starts.

    min sum_ijkl (D_ik - E_jl)^2 P_ij P_kl + eps KL(P | a b^T) over plans P with marginals a and b, by default
    equal weights. `x` and `y` are clouds, n d and m e, whose distances are squared; or a geometry on one support
    each, such as `Points(x, cost="euclidean")`, or `Dense(D)` for a matrix of distances. Between clouds with
    squared distances, and with inner products (`cost="dot"`), no n x n matrix is made.

    `eps` is in the units of the distortion: `0.05 * X.std_cost() * Y.std_cost()` for geometries X and Y says how
    much. Zero, the default, follows the plan down to no entropy: to a permutation between as many atoms of equal
    weights, else to a plan at a small eps, rounded to its marginals. `value` never has entropy in it.

    `features` are costs between the atoms of x and y, as a matrix or a geometry such as `Points(s, t)`, with the
    share 1 - `alpha` beside the share `alpha` (0.5) of the distortion. `starts` are compared: plans of Gaussians,
    which align the longest axes with all signs, then random ones, by `generator`; where permutations are sought,
    the last one is the plan of independent atoms. `init` is one more start: a
    plan, n m, or an earlier result.

    Stops when a linear problem changes the moments by at most `tol`, relatively, or after `max_steps` linear
    problems. Raises ValueError for matrices that are not symmetric, and for what does not fit.
    """
    limit, most = require_limits(tol, max_steps)
    temperature, count = as_number("eps", eps), as_count("starts", starts)
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"eps must be zero, for no entropy, or positive and finite, got {temperature}")
    if count < 0 or (count == 0 and init is None):
        raise ValueError(f"starts must be at least one, or zero beside an init, got {count}")
    spaces = Spaces.of((x, y), (a, b), features, alpha)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    hardens = temperature == 0 and spaces.may_be_permuted
    plain = hardens and count > 1
    parts, values, places, inner_steps = _compared(spaces, count - plain, generator)
    plans = [spaces.a[:, None] * spaces.b] if plain else []
    if init is not None:
        plans.append(_as_plan(init, spaces))
    for P in plans:
        given = spaces.distortion.of_plans(P[None])
        parts, places = [*parts, Descent(spaces.distortion, given.M)], [*places, len(values)]
        values = torch.cat([values, given.value])
    ends: list[GromovWasserstein] = []
    for part in parts:
        least = min((float(end.value) for end in ends), default=float("inf"))
        if hardens:
            ends.append(_hardened(part, most, least))
        else:
            for warm in _levels(spaces.scale, temperature):
                part.settle(warm, _ROUNDS)
            ends.append(_ended(part, temperature, limit, most))
    values[places] = torch.stack([end.value for end in ends])
    best = min(ends, key=lambda end: float(end.value))
    return replace(best, values=values, inner_steps=inner_steps + sum(end.inner_steps for end in ends))


def _compared(
    spaces: Spaces, count: int, generator: torch.Generator
) -> tuple[list[Descent], Float[Tensor, "starts"], list[int], int]:
    """Compare starts by one linear problem each, between some of the atoms.

    Return those that are kept, values of all, which are kept, and Sinkhorn steps.
    """
    clouds = spaces if spaces.are_clouds else spaces.embedded()
    if count == 0:
        return [], spaces.a.new_zeros(0), [], 0
    rows, columns = (_some(weights, generator) for weights in (spaces.a, spaces.b))
    all_of_them = (len(rows), len(columns)) == spaces.shape
    few = (clouds if all_of_them else clouds.part(rows, columns)).distortion
    assert isinstance(few, CloudDistortion)
    M, eps = clouds.starts(count, generator), _LOOK * clouds.scale
    problem, added = few.linear_problem(M, eps)
    solution = solve(problem, tol=_LOOSELY)
    values, f = few.bound(M, solution), solution.potentials.f - added
    places = _apart(values)[:_KEPT]
    inner_steps = int(solution.steps.sum())
    if not spaces.are_clouds:
        values = values + (spaces.distortion.constant - clouds.distortion.constant)
    parts = []
    for k in places:
        part = Descent(clouds.distortion, M[k : k + 1], f[k : k + 1] if all_of_them else None)
        if not (all_of_them and spaces.are_clouds):
            part.settle(_BEFORE * clouds.scale, 1)
        if not spaces.are_clouds:
            assert part.solution is not None
            inner_steps += part.inner_steps
            part = Descent(spaces.distortion, spaces.distortion.of_plans(part.solution.plan()).M)
        parts.append(part)
    return parts, values, places, inner_steps


def _hardened(descent: Descent, max_steps: int, bar: float) -> GromovWasserstein:
    """Take one start to a permutation, or as far as it may come below `bar`."""
    order, potentials = descent.harden(max_steps, bar)
    return _result(descent, max_steps, 0.0, potentials=potentials, assignment=order)


def _ended(descent: Descent, eps: float, tol: float, max_steps: int) -> GromovWasserstein:
    """Take one start to its end with entropy, or to a plan that is rounded."""
    if eps > 0:
        descent.converge(eps, tol, max_steps)
    assert descent.solution is not None
    solution, P = part_of(descent.solution, 0), None
    if eps == 0:
        P = rounded(solution.plan(), descent.distortion.a, descent.distortion.b)
        descent.moments = descent.distortion.of_plans(P[None])
    last = tol if eps > 0 else _LOOSE
    return _result(descent, max_steps, last, potentials=solution.potentials, solution=solution, rounded=P)


def _result(descent: Descent, max_steps: int, tol: float, **found: Any) -> GromovWasserstein:
    change = float(descent.change)
    return GromovWasserstein(
        value=descent.moments.value[0],
        values=descent.moments.value,
        error=change,
        converged=change <= tol,
        steps=descent.steps,
        inner_steps=descent.inner_steps,
        max_steps=max_steps,
        **found,
    )


def _some(weights: Float[Tensor, "n"], generator: torch.Generator) -> Int[Tensor, "k"]:
    """Return which atoms take part in a comparison of starts: some of those with mass."""
    atoms = weights.nonzero()[:, 0]
    if len(atoms) <= _FEW:
        return atoms
    return atoms[torch.randperm(len(atoms), generator=generator)[:_FEW].to(atoms.device)]


def _apart(values: Float[Tensor, "starts"]) -> list[int]:
    """Return the starts with the lowest values, of those that are alike one."""
    found, order = values.tolist(), values.argsort().tolist()
    chosen = order[:1]
    for k in order[1:]:
        size = abs(found[k])
        if found[k] - found[chosen[-1]] > _APART * size and found[k] - found[chosen[0]] < _CLOSE * size:
            chosen.append(k)
    return chosen


def _levels(scale: float, eps: float) -> list[float]:
    """Return the eps on the way to the last one, falling; at least one."""
    last = eps if eps > 0 else scale * _COLD
    levels, warm = [], _WARM * scale
    while warm > last * 1.5:
        levels.append(warm)
        warm /= _COOLER
    return [*levels, last]


def _as_plan(init: object, spaces: Spaces) -> Float[Tensor, "n m"]:
    """Return a plan to start from."""
    P = init.plan() if isinstance(init, GromovWasserstein) else tensor("init", init, like=spaces.a)
    P = P.to(spaces.a)
    if tuple(P.shape) != spaces.shape:
        raise ValueError(f"init must be a plan of the shape {spaces.shape}, got {tuple(P.shape)}")
    require_finite("init", P)
    if bool((P < 0).any()) or not float(P.sum()) > 0:
        raise ValueError("init must be a plan: no entry below zero, and a positive mass")
    return rounded(P / P.sum(), spaces.a, spaces.b)
