r"""Gauss-Newton steps on the semi-dual of continuous transport, with the conjugate solved for exactly.

The objective $F(w) = E \Phi_w(u) + E \bar\Phi_w(v)$ of a convex network has the gradient
$E \partial_w \Phi_w(u) - E \partial_w \Phi_w(p)$, p(v) the maximiser of the conjugate, and the curvature
$G = E J^T H^{-1} J$, in which J is the derivative of $\nabla \Phi_w(p)$ in w and H that in p; the rest of the
second derivative vanishes where the map pushes the source to the target. Damped as by Levenberg (1944) and
Marquardt (1963).
"""

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPair, Icnn, SampleProblem, maximised
from metaot.solvers.pairs import MapSolver, MapState, some, with_weights

_FIRST, _LEAST, _MOST = 1.0, 1e-7, 1e7
"""The damping at first, and its bounds."""
_EASED, _RAISED = 1 / 3, 4.0
_RIDGE = 1e-2
"""What is added to the diagonal that damping scales with, as a share of its mean."""
_TOL = 1e-4
"""The error of the maximisers, in standard deviations."""
_MOST_STEPS = 20
"""The most steps to it: where they do not do, a change of the weights was too bold."""
_ROWS, _ENOUGH = 1536, 512
"""Equations that a sample gives, one for each dimension, from which a curvature is made; and the most samples."""
_HIDDEN = (64,)
"""The hidden units of a network when there is no guess."""


@final
@dataclass(frozen=True)
class Half:
    """One network's side: where its conjugate is taken, its objective there, and how much a step is damped."""

    places: Float[Tensor, "batch m d"]
    objective: Float[Tensor, "batch"]
    damping: Float[Tensor, "batch"]

    def __getitem__(self, index: Any) -> "Half":
        return Half(self.places[index], self.objective[index], self.damping[index])


@final
@dataclass(frozen=True)
class GaussNewtonState(MapState):
    """Both networks, and the sides of phi and of psi."""

    forth: Half
    back: Half


@final
@dataclass(frozen=True)
class GaussNewton(MapSolver[GaussNewtonState]):
    """Minimise the exact dual objective of phi, and that of psi, which is the same with the measures exchanged.

    All samples are looked at in every step; for the curvature `samples` of them, others each time, where None is
    512, and fewer above three dimensions. A step that does not improve an objective is not made, and the next one
    is shorter: more steps never give a worse dual value. The work of a step grows with the square of the number of
    weights: for networks of up to a thousand.
    """

    steps: int = 25
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.samples is not None and self.samples < 2):
            raise ValueError(f"steps >= 1 and samples >= 2 are needed, got {self.steps} and {self.samples}")

    def init(self, problem: SampleProblem, guess: BrenierPair | None) -> GaussNewtonState:
        pair = self.start(problem, guess, Icnn(problem.dim, _HIDDEN))
        u, v, icnn = *_entered(problem, pair), pair.phi.icnn
        forth = _begun(icnn, pair.phi.weights, u, v, icnn.gradient(pair.psi.weights, v))
        back = _begun(icnn, pair.psi.weights, v, u, icnn.gradient(pair.phi.weights, u))
        return self.recorded(problem, GaussNewtonState(pair, self.no_history(pair), 0, forth, back))

    def step(self, problem: SampleProblem, state: GaussNewtonState) -> GaussNewtonState:
        generator = torch.Generator().manual_seed(self.seed * 2**32 + state.count)
        u, v, icnn = *_entered(problem, state.pair), state.pair.phi.icnn
        samples = self.samples or min(_ENOUGH, max(2, _ROWS // problem.dim))
        some_v, some_u = (some(z.shape[1], samples, generator).to(z.device) for z in (v, u))
        phi, forth = _improved(icnn, state.pair.phi.weights, state.forth, (u, v), some_v)
        psi, back = _improved(icnn, state.pair.psi.weights, state.back, (v, u), some_u)
        pair = with_weights(state.pair, torch.cat([phi, psi], -1))
        return self.recorded(problem, replace(state, pair=pair, forth=forth, back=back, count=state.count + 1))


def _entered(problem: SampleProblem, pair: BrenierPair) -> tuple[Tensor, Tensor]:
    frame = pair.phi.frame
    return frame.enter(problem.x), frame.T.enter(problem.y)


def _begun(icnn: Icnn, weights: Tensor, u: Tensor, v: Tensor, start: Tensor) -> Half:
    places, objective = _conjugated(icnn, weights, u, v, start)
    return Half(places, objective, torch.full_like(objective, _FIRST))


def _conjugated(icnn: Icnn, weights: Tensor, u: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximisers of the conjugate at v, and the objective; a bound above it where they are not exact.

    The networks are strongly convex with the constant `floor` at least: the conjugate is less than
    error^2 / (2 floor) above its value at a place.
    """
    best = maximised(icnn, weights, v, start, tol=_TOL, max_steps=_MOST_STEPS)
    above = (best.value + best.error.square() / (2 * icnn.floor)).double()
    return best.x, icnn.value(weights, u).double().mean(-1) + above.mean(-1)


def _improved(
    icnn: Icnn, weights: Tensor, half: Half, clouds: tuple[Tensor, Tensor], which: Tensor
) -> tuple[Tensor, Half]:
    """Try a step from each instance's weights; where it fails, they stay, and the next one is damped more."""
    u, v = clouds
    gradient = _gradient(icnn, weights, u, half.places).double()
    parts = zip(weights.split(1), half.places[:, which].split(1), strict=True)  # one by one: they fit into a cache
    G = torch.cat([_curvature(icnn, w, p) for w, p in parts]).double()
    scale = G.diagonal(dim1=-2, dim2=-1)
    ridge = half.damping[:, None] * (scale + _RIDGE * scale.mean(-1, keepdim=True))
    factor, failed = torch.linalg.cholesky_ex(G + torch.diag_embed(ridge))
    change = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    promised = 0.5 * (change * (gradient + ridge * change)).sum(-1)
    after = weights - change.to(weights)
    places, objective = _conjugated(icnn, after, u, v, half.places)
    gain = half.objective - objective
    good = (gain > 0) & (failed == 0)
    quality = gain / promised
    factors = torch.where(quality > 0.75, _EASED, torch.where(quality < 0.25, 2.0, 1.0))
    damping = (half.damping * torch.where(good, factors, _RAISED)).clamp(_LEAST, _MOST)
    new = Half(
        torch.where(good[:, None, None], places, half.places),
        torch.where(good, objective, half.objective),
        damping,
    )
    return torch.where(good[:, None], after, weights), new


def _gradient(icnn: Icnn, weights: Tensor, u: Tensor, places: Tensor) -> Tensor:
    """Return the gradient of the objective: the maximisers stay where they are, by Danskin's theorem."""
    with torch.enable_grad():
        weights = weights.detach().requires_grad_()
        objective = icnn.value(weights, u).mean(-1) - icnn.value(weights, places).mean(-1)
        return torch.autograd.grad(objective.sum(), weights)[0]


def _curvature(icnn: Icnn, weights: Tensor, places: Tensor) -> Float[Tensor, "batch count count"]:
    """Return G: the mean of J^T H^-1 J over the places."""
    batch, m, d = places.shape
    with torch.enable_grad():
        each = weights[:, None].expand(batch, m, -1).detach().clone().requires_grad_()
        slope = icnn.gradient(each, places[:, :, None])[:, :, 0]
        rows = [torch.autograd.grad(slope[..., i].sum(), each, retain_graph=i < d - 1)[0] for i in range(d)]
    _, H = icnn.gradient_and_hessian(weights, places)
    J = torch.linalg.solve_triangular(torch.linalg.cholesky(H), torch.stack(rows, -2), upper=False).flatten(1, 2)
    return J.mT @ J / m
