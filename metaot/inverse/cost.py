"""Learn the cost behind observed pairs (inverse optimal transport)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike, as_positive, require_limits, wrong
from metaot.geometry.checks import (
    given,
    masses,
    require_cloud,
    require_costs,
    require_finite,
    require_weights,
    tensor,
    together,
)
from metaot.inverse.estimate import CostEstimate
from metaot.inverse.features import Bilinear, Features, listed
from metaot.inverse.fenchel_young import Observed
from metaot.inverse.penalties import Free, Penalty
from metaot.inverse.proximal import minimise
from metaot.marginals import Marginal, Marginals, as_marginals
from metaot.potentials import DualPotentials

Sides = Marginal | tuple[Marginal | None, Marginal | None] | Marginals | None

_CONSTANT = 1e-10
"""A feature whose deviation is below this part of the largest one is constant, or depends on the others."""


def learn_cost(
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: float,
    penalty: Penalty | None = None,
    features: Sequence[object] | None = None,
    marginals: Sides = None,
    weights: ArrayLike | None = None,
    populations: tuple[ArrayLike, ArrayLike] | None = None,
    mass: float = 1.0,
    tol: float = 1e-8,
    max_steps: int = 100,
) -> CostEstimate:
    """Learn a cost from pairs: x_i, n d, was seen with y_i, n e.

    The cost is sum_k theta_k c_k, where by default c_k are all products of a coordinate of x and one of y, so that
    it is x^T theta y with a matrix theta, d e; or `features` are functions of tensors (x, y) that return a matrix,
    as `Points` takes them, or matrices n n. The estimate minimises the Fenchel-Young loss, <c, P^> less the value
    of entropic transport between the observed x and the observed y at `eps`, plus a `penalty`: `L1(lam)` for few
    parameters that are not zero, `Nuclear(lam)` for a low rank.

    A cost is low where pairs are frequent: of a surplus x^T A y, as economists write it, A is -theta. Only
    theta/eps is known. What functions of x alone and of y alone add to a cost changes no balanced plan, and is not
    learned.

    `weights`, n, are those of the pairs; by default all alike. `marginals` are those of `Problem`: where they have
    a price, the plan of the cost need not have the observed marginals. Then `populations` may be samples of all x
    and of all y, paired or not, of mass one each, in which pairs have the `mass`; by default they are the x and y
    of the pairs. Features of x alone, or of y alone, are learned then too (arXiv 2505.07124).

    It stops where the optimality condition of the penalised problem holds to `tol`, in units of the largest
    standard deviation of a feature, or after `max_steps` steps: not converging is a result. All is computed in
    float64.

    Raises ValueError for pairs of different lengths, for what is not finite, for an eps that is not positive, for
    features that are constant but for functions of x and of y, and without a penalty for fewer pairs than
    parameters and for features that depend on each other.
    """
    settings = {"features": features, "marginals": marginals, "weights": weights, "populations": populations}
    return cost_path(x, y, [penalty], eps=eps, mass=mass, tol=tol, max_steps=max_steps, **settings)[0]


def learn_cost_from_plan(
    plan: ArrayLike,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    eps: float,
    penalty: Penalty | None = None,
    features: Sequence[object] | None = None,
    marginals: Sides = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    base: ArrayLike | None = None,
    tol: float = 1e-8,
    max_steps: int = 100,
) -> CostEstimate:
    """Learn a cost from a plan, n m: how often a point of x, n d, was seen with a point of y, m e.

    The plan may be counts: a mass above one is the number of pairs. Features that are matrices need no points. `a`
    and `b` are the weights of the points where `marginals` have a price, in units of the plan; else they are the
    plan's marginals. `base`, n m, is a known part of the cost, to which features are added; +inf forbids a pair.
    All other arguments are those of `learn_cost`.
    """
    observed = _of_plan(plan, (x, y), (a, b), eps=eps, features=features, marginals=marginals)
    if base is not None:
        observed = replace(observed, base=_known_part(base, observed))
    return _path(observed, [penalty], tol, max_steps)[0]


def cost_path(
    x: ArrayLike,
    y: ArrayLike,
    penalties: Sequence[Penalty | None],
    *,
    eps: float,
    features: Sequence[object] | None = None,
    marginals: Sides = None,
    weights: ArrayLike | None = None,
    populations: tuple[ArrayLike, ArrayLike] | None = None,
    mass: float = 1.0,
    tol: float = 1e-8,
    max_steps: int = 100,
) -> tuple[CostEstimate, ...]:
    """Learn a cost for each of several penalties, each from the last one: quickest from the largest lam down.

    All other arguments are those of `learn_cost`.
    """
    x, y = _clouds(x, y)
    if len(x) != len(y):
        raise ValueError(
            f"pairs need as many x as y, got {len(x)} and {len(y)}: x[k] belongs to y[k]; a plan between points "
            "of different numbers goes to learn_cost_from_plan"
        )
    w = masses("weights", weights, len(x), x, ())
    count = float(len(x)) if weights is None else float(1 / w.square().sum())
    index, sides = torch.arange(len(x), device=x.device), as_marginals(marginals)
    i, j, a, b = index, index, w, w
    if populations is not None:
        w = as_positive("mass", mass) * w
        (x, a), (y, b) = _among(populations, (x, y), sides)
        i, j = len(x) - len(w) + index, len(y) - len(w) + index
    known = _features(features, (x, y), (a, b), sides)
    means = known.at(i, j).mT @ w
    observed = _observed(known, (i, j, w), (a, b), eps=eps, sides=sides, means=means, count=count)
    return _path(observed, penalties, tol, max_steps)


@torch.no_grad()
def _path(
    observed: Observed, penalties: Sequence[Penalty | None], tol: float, max_steps: int
) -> tuple[CostEstimate, ...]:
    """Return the estimate for each penalty, each from the one before."""
    tol, max_steps = require_limits(tol, max_steps)
    _require_penalties(observed, penalties)
    found, last = [], None
    for penalty in penalties:
        last = minimise(observed, penalty or Free(), last, tol, max_steps)
        theta, potentials = last.point.theta, DualPotentials(last.point.f, last.point.g)
        how = (last.error, last.steps, last.inner_steps, last.status)
        found.append(CostEstimate(theta, penalty, *how, observed, potentials))
    return tuple(found)


def _require_penalties(observed: Observed, penalties: Sequence[object]) -> None:
    """Raise TypeError or ValueError for what is no penalty, or not one of these features."""
    for penalty in penalties:
        if not isinstance(penalty, Penalty | None):
            raise wrong("penalty", "None, metaot.inverse.L1(lam) or metaot.inverse.Nuclear(lam)", penalty)
        if penalty is not None and penalty.of_matrices and len(observed.features.shape) != 2:
            raise ValueError(
                f"{type(penalty).__name__} is a penalty of matrices, got features with {observed.features.count} "
                "parameters: leave features out, so that theta is the matrix of x^T theta y, or take L1(lam)"
            )
    _require_identified(observed, penalised=None not in penalties)


def _among(populations: Any, clouds: tuple[Tensor, Tensor], sides: Marginals) -> list[tuple[Tensor, Tensor]]:
    """Return the points of both populations, followed by those of pairs, which have no weight, and the weights."""
    if sides.source.is_exact or sides.target.is_exact:
        raise ValueError(
            "populations need marginals with a price, such as metaot.KL(rho): else all are in pairs, got "
            f"({sides.source}, {sides.target})"
        )
    if not isinstance(populations, tuple | list) or len(populations) != 2:
        raise wrong("populations", "a pair (X, Y) of clouds, N d and M e", populations)
    found = []
    for name, whole, paired in zip("XY", _clouds(*populations), clouds, strict=True):
        if whole.shape[1] != paired.shape[1]:
            sizes = f"{paired.shape[1]} coordinates, got {whole.shape[1]}"
            raise ValueError(f"{name} of populations must have points of {sizes}")
        weights = torch.cat([whole.new_full((len(whole),), 1 / len(whole)), paired.new_zeros(len(paired))])
        found.append((torch.cat([whole.to(paired), paired]), weights))
    return found


def _of_plan(
    plan: Any,
    clouds: tuple[Any, Any],
    weights: tuple[Any, Any],
    *,
    eps: float,
    features: Any,
    marginals: Sides,
) -> Observed:
    """Return a plan or counts as an observation."""
    P = tensor("plan", plan, taken="a plan or counts (a tensor, an array or nested lists), n m").double()
    if P.ndim != 2 or P.numel() == 0:
        raise ValueError(f"plan must have the shape (n, m), got {tuple(P.shape)}")
    require_finite("plan", P)
    require_weights("plan", P.flatten(), P, mass_is_one=False)
    sides, mass = as_marginals(marginals), float(P.sum())
    count = mass if mass > 1 + 1e-6 else None
    if sides.are_exact:
        P = P / mass
    of_plan = (P.sum(1), P.sum(0))
    a, b = (
        own if w is None else tensor(name, w, like=P).to(P)
        for name, w, own in zip("ab", weights, of_plan, strict=True)
    )
    points = None if clouds[0] is None or clouds[1] is None else _clouds(*clouds)
    sizes = None if points is None else (len(points[0]), len(points[1]))
    for what, size in (("points", sizes), ("weights", (a.numel(), b.numel()))):
        if size not in (None, tuple(P.shape)):
            raise ValueError(f"a plan of shape {tuple(P.shape)} is between as many points, got {size} {what}")
    known = _features(features, points, (a, b), sides, like=P)
    i, j = P.nonzero(as_tuple=True)
    return _observed(
        known,
        (i, j, P[i, j]),
        (a, b),
        eps=eps,
        sides=sides,
        means=known.means(P, torch.ones_like(P[:, 0]), torch.ones_like(P[0])),
        count=count,
    )


def _known_part(base: Any, observed: Observed) -> Float[Tensor, "n m"]:
    """Return a known part of the cost; ValueError for another shape, NaN, and a forbidden pair that was seen."""
    C = tensor("base", base, like=observed.a).to(observed.a)
    if tuple(C.shape) != observed.features.points:
        raise ValueError(f"base must have the shape {observed.features.points} of the plan, got {tuple(C.shape)}")
    require_costs("base", C)
    seen = C[observed.i, observed.j].isinf().nonzero()
    if len(seen):
        i, j = int(observed.i[seen[0, 0]]), int(observed.j[seen[0, 0]])
        raise ValueError(f"base forbids a pair that was observed, base[{i}, {j}] = inf")
    return C


def _clouds(x: Any, y: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m e"]]:
    """Return points in float64; ValueError for what is no cloud."""
    found = [cloud.detach().double() for cloud in together(given("x", x), given("y", y))]
    for name, cloud in zip("xy", found, strict=True):
        require_cloud(name, cloud)
    return found[0], found[1]


def _features(
    features: Any,
    clouds: tuple[Tensor, Tensor] | None,
    weights: tuple[Tensor, Tensor],
    sides: Marginals,
    like: Tensor | None = None,
) -> Features:
    """Return the features that were asked for; products are of centred points where that changes no plan."""
    if features is not None:
        points = (len(weights[0]), len(weights[1]))
        return listed(features, points, clouds, weights[0] if like is None else like)
    if clouds is None:
        raise ValueError("without x and y there are no products x_k y_l: give points, or features as matrices")
    centres = [
        w / w.sum() @ cloud if sides.are_exact else torch.zeros_like(cloud[0])
        for w, cloud in zip(weights, clouds, strict=True)
    ]
    return Bilinear(*clouds, (centres[0], centres[1]))


def _observed(
    features: Features,
    pairs: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    *,
    eps: float,
    sides: Marginals,
    means: Tensor,
    count: float | None,
) -> Observed:
    if not sides.are_smooth:
        raise ValueError("marginals with the price TV have no Hessian: take None or metaot.KL(rho)")
    a, b = weights
    spread = features.spread(a / a.sum(), b / b.sum(), projected=sides.are_exact)
    eps = as_positive("eps", eps)
    return Observed(features, *pairs, a, b, eps, sides.to(a), means, spread, count)


def _require_identified(observed: Observed, *, penalised: bool) -> None:
    """Raise ValueError for features that no data can tell, and for too few pairs or dependent features alone."""
    features, spread = observed.features, observed.spread
    deviations = spread.diagonal().clamp_min(0).sqrt()
    size = features.sizes(observed.a / observed.a.sum(), observed.b / observed.b.sum())
    flat = (deviations <= _CONSTANT**0.5 * size.clamp_min(torch.finfo(size.dtype).tiny)).nonzero()[:, 0].tolist()
    if flat:
        names = ", ".join(features.name(k) for k in flat[:5]) + (", ..." if len(flat) > 5 else "")
        raise ValueError(
            f"{names} cannot be learned: a feature that is constant, but for functions of x alone and of y alone, "
            "changes no plan; leave it out"
        )
    if penalised:
        return
    known = len(observed.weights)
    if known < features.count:
        raise ValueError(
            f"{known} pairs do not tell {features.count} parameters: give more pairs, or a penalty such as L1(lam)"
        )
    correlation = spread / (deviations[:, None] * deviations)
    values, vectors = torch.linalg.eigh(correlation)
    if float(values[0]) < _CONSTANT * features.count:
        involved = (vectors[:, 0].abs() > 1e-3).nonzero()[:, 0].tolist()
        names = ", ".join(features.name(k) for k in involved[:5]) + (", ..." if len(involved) > 5 else "")
        raise ValueError(f"{names} depend on each other: leave one out, or give a penalty such as L1(lam)")
