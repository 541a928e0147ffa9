"""Proximal Newton: the loss's quadratic model with the penalty as it is, and steps that lower both together.

After a step that brought the error down quickly the model is updated by what the step has shown; after a slow one
the Hessian is computed anew (Lee, Sun and Saunders, SIAM J. Optim. 2014, for inexact proximal Newton and BFGS).
A step is one of theta and of the potential f together: f moves as its derivatives say, and by the Sinkhorn step
that the last problem has not made. Further ones follow only where the error of theta asks for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.core.status import Status
from metaot.inverse.fenchel_young import Model, Observed, Point, damped_factor
from metaot.inverse.penalties import Free, Penalty

_LOOSEST, _LOOSE, _LAST = 0.1, 0.05, 0.01
"""The largest tolerance of transport problems on the way; and what it is of the error of theta: on the way, where
derivatives of the potential correct the gradient, and in the end, of the tolerance."""

_QUICK, _HALF = 0.1, 0.5
"""A step is quick if it brings the error below this part of the one before, and ahead if below that, or if the
value falls."""

_HALVINGS, _ENOUGH = 20, 1e-4
"""Most halvings of a step, and the part of the model's gain that the value must fall by."""

_FAR, _FAR_FROM = 20.0, 0.01
"""Steps that change differences of costs by more than this, in units of eps, are shortened before they start; and
the error from which on there may be such steps."""

_ROUNDING = 1e-13
"""Digits of the loss that are lost."""

_ITERATIONS, _SHARE, _PART = 2000, 0.1, 1e-3
"""Most iterations on the quadratic model, and its accuracy, as a part of the tolerance and of the error."""


@final
@dataclass(frozen=True)
class Fit:
    """Where the minimisation ended, after how many steps of its own and of Sinkhorn's in all problems."""

    point: Point
    model: Model | None
    error: float
    steps: int
    inner_steps: int
    status: Status


def minimise(observed: Observed, penalty: Penalty, start: Fit | None, tol: float, max_steps: int) -> Fit:
    """Minimise the loss and a penalty, from another minimum or from zero."""
    run = _Run(observed, penalty, tol)
    point, model = (run.first(), None) if start is None else (start.point, start.model)
    error, steps, stale, failed = run.error(point, model), 0, False, False
    while True:
        if error <= tol:
            point = run.settled(point, _LAST * tol)
            error = run.error(point, None)
        if error <= tol or steps >= max_steps:
            break
        if model is None or stale:
            model, stale = point.rough_model(model), False
        following, now = run.step(point, model, error)
        if following is None and failed:
            break
        if following is None:
            point, failed, stale = run.settled(point, _LAST * tol), True, True
            continue
        steps += 1
        model, stale, failed = model.after(point, following), now >= _QUICK * error, False
        point, error = following, now
    converged = error <= tol and point.marginal_error <= _LAST * tol
    status = Status.of_one(converged, error) if converged or steps >= max_steps else Status.STALLED
    return Fit(point, model, error, steps, run.inner_steps, status)


@final
class _Run:
    """One minimisation: what it is of, and Sinkhorn's steps so far."""

    def __init__(self, observed: Observed, penalty: Penalty, tol: float) -> None:
        self.observed, self.penalty, self.tol, self.inner_steps = observed, penalty, tol, 0

    def first(self) -> Point:
        """Return the point of zero costs, whose plan is that of independent points if it is balanced."""
        a = self.observed.a
        theta = torch.zeros(self.observed.features.shape, dtype=a.dtype, device=a.device)
        return self.at(theta, torch.zeros_like(a), None, 1.0)

    def settled(self, point: Point, tol: float) -> Point:
        following = point.settled(tol)
        self.inner_steps += following.steps - point.steps
        return following

    def error(self, point: Point, model: Model | None) -> float:
        return self.penalty.residual(point.theta, point.slope(model)) / self.observed.scale

    def value(self, point: Point) -> float:
        return point.loss + float(self.penalty.value(point.theta))

    def at(self, theta: Tensor, f: Tensor, g: Tensor | None, error: float) -> Point:
        """Return a point whose marginals are right to a part of an error of theta."""
        point = Point.of(self.observed, theta, f, g)
        return self.settled(point, max(_LAST * self.tol, min(_LOOSEST, _LOOSE * error)))

    def step(self, point: Point, model: Model, error: float) -> tuple[Point | None, float]:
        """Return the next point, along the minimum of the model, and its error; None if no step is one ahead."""
        gradient = point.slope(model)
        tol = self.observed.scale * max(_SHARE * self.tol, _PART * error)
        target = quadratic_minimum(model.H, gradient, point.theta, self.penalty, tol)
        change = target - point.theta
        here, norm = self.value(point), float(self.penalty.value(point.theta))
        slope, f = float((gradient * change).sum()), change.flatten() @ model.f
        rounding, length = _ROUNDING * (1 + abs(here)), self.first_length(change, error)
        for _ in range(_HALVINGS):
            theta = target if length == 1.0 else point.theta + length * change
            following = self.at(theta, point.ahead(model) + length * f, point.g, length * error)
            now = self.error(following, model)
            gain = length * slope + float(self.penalty.value(theta)) - norm
            if now <= _HALF * error or self.value(following) <= here + _ENOUGH * gain + rounding:
                return following, now
            length /= 2
        return None, error

    def first_length(self, change: Tensor, error: float) -> float:
        """Return which part of a step to try first: less than all of it far from the end only."""
        if error < _FAR_FROM:
            return 1.0
        C = self.observed.features.cost(change) / self.observed.eps
        return _FAR / max(_FAR, float(C.max() - C.min()))


def quadratic_minimum(
    H: Float[Tensor, "K K"], gradient: Tensor, theta: Tensor, penalty: Penalty, tol: float
) -> Tensor:
    """Return the argmin of <gradient, t - theta> + (t - theta)^T H (t - theta)/2 plus the penalty of t."""
    if isinstance(penalty, Free):
        basis = penalty.tangent(theta)
        step = torch.cholesky_solve(basis.mT @ gradient.reshape(-1, 1), damped_factor(basis.mT @ H @ basis))
        return theta - (basis @ step).reshape(theta.shape)
    step = 1 / float(torch.linalg.matrix_norm(H, 2))

    def slope(ahead: Tensor) -> Tensor:
        return gradient + (H @ (ahead - theta).flatten()).reshape(theta.shape)

    return accelerated(slope, theta, penalty, step, tol=tol, most=_ITERATIONS)[0]


def accelerated(
    slope: Callable[[Tensor], Tensor], start: Tensor, penalty: Penalty, step: float, *, tol: float, most: int
) -> tuple[Tensor, int]:
    """Minimise a smooth function of gradient `slope` and a penalty, and return how many steps that took.

    By an accelerated proximal gradient that restarts where the slope asks for it (O'Donoghue and Candes, 2015). It
    stops where it moves by less than `tol` for each unit of `step`, or after the `most` steps.
    """
    t = ahead = start
    momentum = 1.0
    for count in range(1, most + 1):
        following = penalty.prox(ahead - step * slope(ahead), step)
        moved = following - t
        if max(float(moved.abs().max()), float((following - ahead).abs().max())) <= step * tol:
            return following, count
        if float(((ahead - following) * moved).sum()) > 0:
            momentum = 1.0
        grown = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        ahead, t, momentum = following + ((momentum - 1) / grown) * moved, following, grown
    return t, most
