"""Proximal Newton: the loss's quadratic model with the penalty as it is, and steps that lower both together.

After a step that brought the error down quickly the model is updated by what the step has shown; after a slow one
the Hessian is computed anew (Lee, Sun and Saunders, SIAM J. Optim. 2014, for inexact proximal Newton and BFGS).
Transport problems start where the derivatives of the potentials lead from the last ones, and are solved as
accurately as the error of theta asks for.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.core.status import Status
from metaot.inverse.fenchel_young import Model, Observed, Point, damped_factor
from metaot.inverse.penalties import Free, Penalty
from metaot.potentials import DualPotentials

_INNER, _LOOSEST = 1e-2, 1e-3
"""The tolerance of transport problems, as a part of the error that is left; and the largest one."""

_QUICK = 0.1
"""A step is quick if it brings the error below this part of the one before."""

_HALVINGS, _ENOUGH = 20, 1e-4
"""Most halvings of a step, and the part of the model's gain that it must bring."""

_ROUNDING = 1e-13
"""Digits of the loss that are lost."""

_ITERATIONS, _SHARE = 2000, 0.1
"""Most iterations on the quadratic model, and the accuracy of its minimum as a part of the tolerance."""


@final
@dataclass(frozen=True)
class Fit:
    """Where the minimisation ended, after how many steps of its own and of all transport problems."""

    point: Point
    penalty: Penalty
    error: float
    steps: int
    inner_steps: int
    status: Status
    model: Model | None


def minimise(observed: Observed, penalty: Penalty, start: Fit | None, tol: float, max_steps: int) -> Fit:
    """Minimise the loss and a penalty, from another minimum or from zero."""
    run = _Run(observed, penalty, tol)
    if start is None:
        theta = torch.zeros(observed.features.shape, dtype=observed.a.dtype, device=observed.a.device)
        point, model = run.at(theta, None, 1.0), None
    else:
        point, model = run.at(start.point.theta, start.point.solution.potentials, 1.0), start.model
    error, steps, fresh = run.error(point), 0, False
    while error > tol and steps < max_steps:
        if model is None:
            model, fresh = point.rough_model(), True
        following = run.step(point, model, error)
        if following is None:
            if fresh:
                break
            model = None
            continue
        steps += 1
        before, error = error, run.error(following)
        model = model.after(point, following) if error < _QUICK * before else None
        point, fresh = following, False
    converged = error <= tol and bool(point.solution.converged)
    status = Status.of_one(converged, error) if converged or steps >= max_steps else Status.STALLED
    return Fit(point, penalty, error, steps, run.inner_steps, status, model)


@final
class _Run:
    """One minimisation: what it is of, and the steps of inner solves so far."""

    def __init__(self, observed: Observed, penalty: Penalty, tol: float) -> None:
        self.observed, self.penalty, self.tol, self.inner_steps = observed, penalty, tol, 0

    def error(self, point: Point) -> float:
        return self.penalty.residual(point.theta, point.gradient) / self.observed.scale

    def value(self, point: Point) -> float:
        return point.loss + float(self.penalty.value(point.theta))

    def at(self, theta: Tensor, start: DualPotentials | None, expected: float) -> Point:
        """Return a point whose gradient is right to a part of its own error, which is expected to be this."""
        least = _INNER * self.tol
        tol = max(least, min(_LOOSEST, _INNER * expected))
        while True:
            point = Point.of(self.observed, theta, start, tol)
            self.inner_steps += int(point.solution.steps)
            found = self.error(point)
            if tol <= max(least, 2 * _INNER * found) or not bool(point.solution.converged):
                return point
            start, tol = point.solution.potentials, max(least, _INNER * found)

    def step(self, point: Point, model: Model, error: float) -> Point | None:
        """Return the next point, along the minimum of the model; None if no step lowers the value."""
        tol = self.observed.scale * self.tol
        target = quadratic_minimum(model.H, point.gradient, point.theta, self.penalty, tol)
        change = target - point.theta
        here, norm = self.value(point), float(self.penalty.value(point.theta))
        slope = float((point.gradient * change).sum())
        rounding = _ROUNDING * (1 + abs(here))
        old, length = point.solution.potentials, 1.0
        f, g = (slope @ change.flatten() for slope in (model.f, model.g))
        for _ in range(_HALVINGS):
            theta = target if length == 1.0 else point.theta + length * change
            following = self.at(theta, DualPotentials(old.f + length * f, old.g + length * g), error * error)
            gain = length * slope + float(self.penalty.value(theta)) - norm
            if self.value(following) <= here + _ENOUGH * gain + rounding:
                return following
            length /= 2
        return None


def quadratic_minimum(
    H: Float[Tensor, "K K"], gradient: Tensor, theta: Tensor, penalty: Penalty, tol: float
) -> Tensor:
    """Return the argmin of the model <gradient, t - theta> + (t - theta)^T H (t - theta)/2 plus the penalty of t.

    By an accelerated proximal gradient that restarts where the slope asks for it (O'Donoghue and Candes, 2015).
    """
    if isinstance(penalty, Free):
        return theta - torch.cholesky_solve(gradient.reshape(-1, 1), damped_factor(H)).reshape(theta.shape)
    step = 1 / float(torch.linalg.matrix_norm(H, 2))
    t = ahead = theta
    momentum = 1.0
    for _ in range(_ITERATIONS):
        slope = gradient + (H @ (ahead - theta).flatten()).reshape(theta.shape)
        following = penalty.prox(ahead - step * slope, step)
        moved = following - t
        if max(float(moved.abs().max()), float((following - ahead).abs().max())) <= _SHARE * step * tol:
            return following
        if float(((ahead - following) * moved).sum()) > 0:
            momentum = 1.0
        grown = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        ahead, t, momentum = following + ((momentum - 1) / grown) * moved, following, grown
    return t
