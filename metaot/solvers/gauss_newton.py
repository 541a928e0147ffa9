r"""Gauss-Newton steps on the semi-dual of continuous transport, with the conjugate solved for exactly.

The objective $F(w) = E \Phi_w(u) + E \bar\Phi_w(v)$ of a convex network has the gradient
$E \partial_w \Phi_w(u) - E \partial_w \Phi_w(p)$, p(v) the maximiser of the conjugate, and the curvature
$G = E J^T H^{-1} J$, in which J is the derivative of $\nabla \Phi_w(p)$ in w and H that in p; the rest of the
second derivative vanishes if the map pushes the source to the target. Damped as by Levenberg (1944) and
Marquardt (1963).
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPair, Icnn, SampleProblem
from metaot.brenier.conjugate import maximised
from metaot.solvers.maps import MapSolver, MapState, with_weights

_FIRST, _LEAST, _MOST, _LOWERED, _RAISED = 1.0, 1e-7, 1e7, 1 / 3, 4.0
"""The first damping, its bounds, and its factors after a good step and after one that failed."""
_RIDGE = 1e-2
"""A share of the diagonal's mean, which is added to the diagonal that damping scales with."""
_TOL, _MOST_STEPS = 1e-4, 20
"""The error of the maximisers, in standard deviations, and the most Newton steps to one: if they do not suffice,
the change of the weights was too large."""
_ROWS, _MOST_SAMPLES = 1536, 512
"""Rows of the Jacobian in a curvature, one for each dimension of a sample; and the most samples."""
_HIDDEN = (64,)
"""The hidden units of a network when there is no guess."""


@final
@dataclass(frozen=True)
class Half:
    """One network's half of the problem: the maximisers are those of its conjugate."""

    weights: Float[Tensor, "batch count"]
    maximisers: Float[Tensor, "batch m d"]
    objective: Float[Tensor, "batch"]
    damping: Float[Tensor, "batch"]


@final
@dataclass(frozen=True)
class GaussNewtonState(MapState):
    """Both networks, and the halves of phi and of psi."""

    forth: Half
    back: Half


@final
@dataclass(frozen=True)
class GaussNewton(MapSolver[GaussNewtonState]):
    """Minimise the exact dual objective of phi, and of psi the same with the measures exchanged.

    Each step evaluates the objective on all samples, and makes the curvature from `samples` of them, drawn anew;
    None is 512, and fewer above three dimensions. A step that does not lower an objective is discarded, and the
    next one is damped more: more steps never give a worse dual value. The work of a step grows with the square of
    the number of weights: for networks of up to a thousand. Raises ValueError for a start without ridges, such as
    `BuresStart` predicts: no step changes it.
    """

    steps: int = 25
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.samples is not None and self.samples < 2):
            raise ValueError(f"steps >= 1 and samples >= 2 are needed, got {self.steps} and {self.samples}")

    def init(self, problem: SampleProblem, guess: BrenierPair | None) -> GaussNewtonState:
        halves = () if guess is None else (guess.phi, guess.psi)
        if any(bool(half.icnn.is_quadratic(half.weights).any()) for half in halves):
            raise ValueError(
                "init is a linear map, without weights to tune: leave init out, and use GaussNewton(linear=True), "
                "which starts new networks near the linear map"
            )
        pair, history = self.start(problem, guess, Icnn(problem.dim, _HIDDEN))
        u, v, icnn = *_entered(problem, pair), pair.phi.icnn
        forth = _half(icnn, pair.phi.weights, u, v, icnn.gradient(pair.psi.weights, v))
        back = _half(icnn, pair.psi.weights, v, u, icnn.gradient(pair.phi.weights, u))
        return self.recorded(problem, GaussNewtonState(pair, history, 0, forth, back))

    def step(self, problem: SampleProblem, state: GaussNewtonState) -> GaussNewtonState:
        u, v, icnn = *_entered(problem, state.pair), state.pair.phi.icnn
        samples = self.samples or min(_MOST_SAMPLES, max(2, _ROWS // problem.dim))
        in_v, in_u = self.drawn(state.count, samples, (v, u))
        forth, back = _improved(icnn, state.forth, u, v, in_v), _improved(icnn, state.back, v, u, in_u)
        pair = with_weights(state.pair, torch.cat([forth.weights, back.weights], -1))
        return self.recorded(problem, replace(state, pair=pair, forth=forth, back=back, count=state.count + 1))


def _entered(problem: SampleProblem, pair: BrenierPair) -> tuple[Tensor, Tensor]:
    frame = pair.phi.frame
    return frame.enter(problem.x), frame.T.enter(problem.y)


def _half(icnn: Icnn, weights: Tensor, u: Tensor, v: Tensor, start: Tensor) -> Half:
    """Find the maximisers of the conjugate at v, and an upper bound of the objective.

    The bound is exact if the maximisers are: the networks are strongly convex with a constant of at least `floor`,
    so that the conjugate is at most error^2 / (2 floor) above its value at an approximate maximiser.
    """
    best = maximised(icnn, weights, v, start, tol=_TOL, max_steps=_MOST_STEPS)
    above = (best.value + best.error.square() / (2 * icnn.floor)).double()
    objective = icnn.value(weights, u).double().mean(-1) + above.mean(-1)
    return Half(weights, best.x, objective, torch.full_like(objective, _FIRST))


def _improved(icnn: Icnn, half: Half, u: Tensor, v: Tensor, which: Tensor) -> Half:
    """Make a step from each instance's weights, or raise the damping where the step fails."""
    gradient = _gradient(icnn, half.weights, u, half.maximisers).double()
    # one by one, to fit into a cache
    parts = zip(half.weights.split(1), half.maximisers[:, which].split(1), strict=True)
    G = torch.cat([_curvature(icnn, w, p) for w, p in parts]).double()
    scale = G.diagonal(dim1=-2, dim2=-1)
    ridge = half.damping[:, None] * (scale + _RIDGE * scale.mean(-1, keepdim=True))
    factor, failed = torch.linalg.cholesky_ex(G + torch.diag_embed(ridge))
    change = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    promised = 0.5 * (change * (gradient + ridge * change)).sum(-1)
    after = _half(icnn, half.weights - change.to(half.weights), u, v, half.maximisers)
    gain = half.objective - after.objective
    good = (gain > 0) & (failed == 0)
    quality = gain / promised
    factors = torch.where(quality > 0.75, _LOWERED, torch.where(quality < 0.25, 2.0, 1.0))
    damping = (half.damping * torch.where(good, factors, _RAISED)).clamp(_LEAST, _MOST)
    weights = torch.where(good[:, None], after.weights, half.weights)
    maximisers = torch.where(good[:, None, None], after.maximisers, half.maximisers)
    return Half(weights, maximisers, torch.where(good, after.objective, half.objective), damping)


def _gradient(icnn: Icnn, weights: Tensor, u: Tensor, maximisers: Tensor) -> Tensor:
    """Return the gradient of the objective: the maximisers count as constants, by Danskin's theorem."""
    with torch.enable_grad():
        weights = weights.detach().requires_grad_()
        objective = icnn.value(weights, u).mean(-1) - icnn.value(weights, maximisers).mean(-1)
        return torch.autograd.grad(objective.sum(), weights)[0]


def _curvature(icnn: Icnn, weights: Tensor, maximisers: Tensor) -> Float[Tensor, "batch count count"]:
    """Return G, the mean of J^T H^-1 J over the maximisers."""
    batch, m, d = maximisers.shape
    with torch.enable_grad():
        each = weights[:, None].expand(batch, m, -1).detach().clone().requires_grad_()
        slope = icnn.gradient(each, maximisers[:, :, None])[:, :, 0]
        rows = [torch.autograd.grad(slope[..., i].sum(), each, retain_graph=i < d - 1)[0] for i in range(d)]
    _, H = icnn.gradient_and_hessian(weights, maximisers)
    J = torch.linalg.solve_triangular(torch.linalg.cholesky(H), torch.stack(rows, -2), upper=False).flatten(1, 2)
    return J.mT @ J / m
