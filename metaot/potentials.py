"""Dual potentials of entropic transport, and what follows from them in closed form.

The Kullback-Leibler convention: P_ij = a_i b_j exp((f_i + g_j - C_ij)/eps). Potentials are finite where a
or b is zero, and f -> f + t, g -> g - t changes nothing. Equations (6) and (8) of Meta OT (arXiv 2206.05262).
"""

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from metaot import core
from metaot.arrays import ArrayLike, wrong
from metaot.core.method import MOST_ENTRIES
from metaot.geometry.base import expand_eps, in_units_of, reachable
from metaot.geometry.checks import given, tensor, together
from metaot.problem import Problem, as_vectors, require_problem

_TAKEN = "a potential (a tensor, an array or a list)"


@final
@dataclass(frozen=True, init=False)
class DualPotentials:
    """Potentials f on the source and g on the target, in the units of the cost: tensors, arrays or lists."""

    f: Float[Tensor, "*batch n"]
    g: Float[Tensor, "*batch m"]

    def __init__(self, f: ArrayLike, g: ArrayLike) -> None:
        if not (isinstance(f, Tensor) and isinstance(g, Tensor)):
            f, g = together(given("f", f, _TAKEN), given("g", g, _TAKEN))
        vars(self).update(f=f, g=g)

    @classmethod
    def from_f(cls, problem: Problem, f: ArrayLike) -> "DualPotentials":
        """Complete f by the best g for it."""
        f = as_potential("f", f, require_problem(problem).a, problem.geometry.sizes)
        return cls(f, c_transform(problem, f))

    @property
    def T(self) -> "DualPotentials":
        """The same potentials for the problem with source and target exchanged."""
        return DualPotentials(self.g, self.f)

    def __getitem__(self, index: object) -> "DualPotentials":
        return DualPotentials(self.f[index], self.g[index])  # type: ignore[index]

    def __repr__(self) -> str:
        f, g = self.f, self.g
        words = f"f of {tuple(f.shape)} and g of {tuple(g.shape)}"
        return f"DualPotentials({words}, {str(f.dtype).removeprefix('torch.')} on {f.device})"


@runtime_checkable
class HasPotentials(Protocol):
    """A solution."""

    @property
    def potentials(self) -> DualPotentials:
        """The potentials that it found."""
        ...


PotentialsLike = DualPotentials | HasPotentials | tuple[ArrayLike, ArrayLike]
"""Potentials as they are taken: as such, of a solution, or a pair (f, g)."""


def as_potentials(problem: Problem, values: object, name: str = "potentials") -> DualPotentials:
    """Return potentials of a problem: as they are, of a solution, or of a pair (f, g) of tensors, arrays or lists.

    TypeError for everything else; ValueError for sizes that are not those of the problem.
    """
    found = getattr(values, "potentials", values)
    if isinstance(found, list | tuple) and len(found) == 2:
        found = DualPotentials(*found)
    if not isinstance(found, DualPotentials):
        raise wrong(name, "DualPotentials, a pair (f, g) or a Solution", values)
    sizes = problem.geometry.sizes
    f = as_potential(f"{name}.f", found.f, problem.a, sizes)
    g = as_potential(f"{name}.g", found.g, problem.b, sizes)
    return found if f is found.f and g is found.g else DualPotentials(f, g)


def as_potential(name: str, values: object, weights: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return a potential as *batch n; ValueError unless it has the shape of the weights, or their images'."""
    if not isinstance(values, Tensor):
        values = tensor(name, values, like=weights, taken=_TAKEN)
    if values.shape == weights.shape:
        return values
    found = as_vectors(values, weights.shape[-1], sizes)
    if found.shape != weights.shape:
        raise ValueError(
            f"{name} has the shape {tuple(values.shape)}, the problem's weights {tuple(weights.shape)}"
        )
    return found


def c_transform(problem: Problem, f: ArrayLike) -> Float[Tensor, "*batch m"]:
    r"""Return the best g for f, $g_j = -\epsilon \log \sum_i a_i \exp((f_i - C_{ij})/\epsilon)$ (equation 8).

    The target marginal of (f, g) is then exact. Where it has a price, the best g is that one times
    $\rho/(\rho + \epsilon)$ (`KL`), or cut to $[-\rho, \rho]$ (`TV`). `c_transform(problem.T, g)` is the best f
    for g. An atom that forbidden pairs separate from all mass has g = 0 if it has no mass itself, and g = +inf if
    it has: there is no plan then. Differentiable in f and in a, also where a is zero; the geometry and eps are
    constants to it.
    """
    f = as_potential("f", f, require_problem(problem).a, problem.geometry.sizes)
    return problem.marginals.target.best(exact_transform(problem, f), problem.eps)


def exact_transform(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
    """Return the g that makes the target marginal of (f, g) the weights: the best one where it must be."""
    return _CTransform.apply(f, problem.a, problem)  # type: ignore[no-any-return]


class _CTransform(torch.autograd.Function):
    """The c-transform; its derivative is a softmin with the incoming gradient, for each sign apart."""

    @staticmethod
    def forward(ctx: FunctionCtx, f: Tensor, a: Tensor, problem: Problem) -> Tensor:
        g = problem.geometry.T.softmin(f + expand_eps(problem.eps, f) * a.log(), problem.eps)
        ctx.save_for_backward(f, a, torch.where(g == torch.inf, -torch.inf, g))
        ctx.problem = problem  # type: ignore[attr-defined]
        return reachable(g, problem.b)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override], the decorator makes ctx positional
        ctx: FunctionCtx, v: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        f, a, g = ctx.saved_tensors  # type: ignore[attr-defined]
        geometry, eps = ctx.problem.geometry, ctx.problem.eps  # type: ignore[attr-defined]
        scale = expand_eps(eps, f)
        gradient_f, gradient_a = torch.zeros_like(f), torch.zeros_like(a)
        for sign, part in ((1, v.clamp_min(0)), (-1, v.neg().clamp_min(0))):
            if sign == -1 and not bool(part.any()):
                continue
            exponent = (f - geometry.softmin(g + scale * part.log(), eps)) / scale
            gradient_f -= sign * tilted(a, exponent)
            gradient_a -= sign * scale * _capped(exponent).exp()
        return gradient_f, gradient_a, None


@torch.no_grad()
def sinkhorn_step(
    problem: Problem, f: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"], Float[Tensor, "batch"]]:
    """Return f after a Sinkhorn step, and for f with its best g the missing marginal a - P 1 and the dual value.

    Where the source's marginal has a price, what is missing is that of the marginal which f asks for.

    The problems have one batch dimension; results are float64, without derivatives. Compiled code makes steps on
    grids, and with a matrix that all problems share.
    """
    problem = problem.to(problem.a.detach().double())
    f = f.detach().to(problem.a)
    costs = _along_axes(problem)
    if costs is not None:
        found = core.sinkhorn_step(costs, *problem.arrays()[1:], f.numpy(), threads=torch.get_num_threads())
        following, missing, value = map(torch.from_numpy, found)
        return following, missing, value
    S, source, target = exact_transform(problem, f), problem.marginals.source, problem.marginals.target
    g = target.best(S, problem.eps)
    best = exact_transform(problem.T, g)
    missing = source.missing(problem.a, f, tilted(problem.a, (f - best) / expand_eps(problem.eps, f)))
    value = (source.worth(f) * problem.a).sum(-1) + (target.worth(g) * problem.b).sum(-1)
    mass = tilted(problem.b, (g - S) / expand_eps(problem.eps, g)).sum(-1)
    return source.best(best, problem.eps), missing, value - problem.eps * (mass - reference_mass(problem))


def reference_mass(problem: Problem) -> Float[Tensor, "*batch"] | float:
    """Return the mass of a b^T: one between balanced sides."""
    return 1.0 if problem.is_balanced else problem.a.sum(-1) * problem.b.sum(-1)


def _along_axes(problem: Problem) -> core.Costs | None:
    """Return the costs of a grid, or a matrix as one axis, if compiled code makes steps with them."""
    if not (problem.suits_core and problem.is_balanced):
        return None
    geometry = problem.geometry
    if problem.has_axes:
        return geometry.core_costs
    if geometry.batch_shape or math.prod(geometry.shape) > MOST_ENTRIES:
        return None
    return core.Costs.of_axis(geometry.cost_rows(slice(None)).detach().numpy())


def centred(weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Subtract the mean under the weights: a constant means nothing, and a huge one costs digits."""
    return f - (f * weights).sum(-1, keepdim=True)


def tilted(weights: Float[Tensor, "*batch n"], exponent: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Return w exp(x); where w is zero, it is zero and its derivatives are finite, however large x is."""
    return weights * torch.where(weights > 0, exponent, _capped(exponent)).exp()


def _capped(exponent: Tensor) -> Tensor:
    """Return an exponent cut off where the exponential overflows."""
    return exponent.clamp_max(math.log(torch.finfo(exponent.dtype).max) - 1)


def source_marginal(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch n"]:
    """Return P 1."""
    best = exact_transform(problem.T, potentials.g)
    return tilted(problem.a, (potentials.f - best) / expand_eps(problem.eps, best))


def target_marginal(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch m"]:
    """Return P^T 1."""
    return source_marginal(problem.T, potentials.T)


def marginal_error(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    r"""Return the L1 error of both marginals, ||P 1 - a||_1 + ||P^T 1 - b||_1, as the problem's dtype has it.

    Where a marginal has a price, it is compared with what its potential asks for: with $a e^{-f/\rho}$ for `KL`;
    with a for `TV`, where mass that is missing counts $(\rho - f)/\epsilon$ times, and mass in excess
    $(\rho + f)/\epsilon$ times, but no more than once.
    The error of a problem that is not balanced is relative to the mass of the plan.
    """
    source = source_marginal(problem, potentials)
    error = side_error(problem, potentials.f, source)
    error = error + side_error(problem.T, potentials.g, target_marginal(problem, potentials))
    return relative_error(problem, error, source.sum(-1))


def side_error(
    problem: Problem, f: Float[Tensor, "*batch n"], marginal: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """Return how far the source's marginal is from what f asks for, all in all."""
    side = problem.marginals.in_units_of(problem.eps).source
    return side.error(problem.a, in_units_of(problem.eps, f), marginal).sum(-1)


def relative_error(
    problem: Problem, error: Float[Tensor, "*batch"], mass: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Return an error relative to the plan's mass, which is one if the problem is balanced."""
    return error if problem.is_balanced else error / mass.clamp_min(torch.finfo(mass.dtype).tiny)


def duality_gap(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    r"""Return how far the plan is from optimal at most: its primal value less the dual one.

    With marginals that have a price, $\sum_i a_i \phi(P_i/a_i) + a_i \phi^*(-f_i) + f_i P_i$ and the same for the
    target; of a balanced side, whose plan has no finite value unless it is exact, only f (P - a).
    """
    return _side_gap(problem, potentials) + _side_gap(problem.T, potentials.T)


def _side_gap(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    side, f, marginal = problem.marginals.source, potentials.f, source_marginal(problem, potentials)
    return (side.price(problem.a, marginal) - problem.a * side.worth(f) + f * marginal).sum(-1)


def exact_marginal_error(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return `marginal_error` of the same potentials and costs, evaluated in float64 for masses that are one.

    In float32 the plan is known to about 1e-7 |C|/eps, and so is an error that is measured there.
    """
    exact = problem.normalised()
    return marginal_error(exact, DualPotentials(potentials.f.to(exact.a), potentials.g.to(exact.b)))


def marginal_price(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"] | float:
    """Return what the marginals of the plan cost where they have a price; zero if the problem is balanced."""
    if problem.is_balanced:
        return 0.0
    sides = (problem, source_marginal(problem, potentials)), (problem.T, target_marginal(problem, potentials))
    prices = [side.marginals.source.price(side.a, marginal).sum(-1) for side, marginal in sides]
    return prices[0] + prices[1]


def plan(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch n m"]:
    """Return P, batch x n x m numbers."""
    rows = slice(None)
    return plan_rows(problem, potentials, rows, problem.geometry.cost_rows(rows))


def plan_rows(
    problem: Problem, potentials: DualPotentials, rows: slice | Int[Tensor, "k"], C: Float[Tensor, "..."]
) -> Float[Tensor, "*batch k m"]:
    """Return rows of P; C is the same rows of the cost."""
    a, f, C = problem.a[..., rows, None], potentials.f[..., rows, None], C.to(problem.a)
    exponent = (f + potentials.g[..., None, :] - C) / expand_eps(problem.eps, C, 2)
    return tilted(a * problem.b[..., None, :], exponent)


def transport_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <C, P>, without making P."""
    return (source_marginal(problem, potentials) * mean_costs(problem, potentials.g)).sum(-1)


def mean_costs(problem: Problem, g: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
    """Return the mean of the cost under each row of the plan."""
    return problem.geometry.expected_cost(log_weights(problem.T, g), problem.eps)


def barycentric_map(
    problem: Problem, potentials: DualPotentials, values: Float[Tensor, "*#batch m k"]
) -> Float[Tensor, "*batch n k"]:
    """Return for each source atom the mean of the target's `values` under its row of the plan.

    With the target's coordinates as values this is the barycentric projection; it is defined on source
    atoms without mass too.
    """
    return problem.geometry.mean(log_weights(problem.T, potentials.g), values, problem.eps)


def log_weights(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Return f + eps log a: what a softmin over the source takes; -inf for an atom without mass."""
    return f + expand_eps(problem.eps, f) * problem.a.log()
