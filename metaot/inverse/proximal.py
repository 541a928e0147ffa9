"""Proximal Newton: the loss's quadratic model with the penalty as it is, and steps that lower both together.

The Hessian of an earlier point serves as long as steps with it bring the error down quickly (Lee, Sun and
Saunders, SIAM J. Optim. 2014, for inexact steps).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.core.status import Status
from metaot.inverse.fenchel_young import Observed, Point, damped_factor
from metaot.inverse.penalties import Free, Penalty
from metaot.potentials import DualPotentials

_INNER, _LOOSEST = 1e-2, 1e-3
"""The tolerance of inner solves, as a part of the error that is left; and the largest one."""

_QUICK = 0.1
"""A Hessian serves again if the last step brought the error below this part of the one before."""

_HALVINGS, _ENOUGH = 20, 1e-4
"""Most halvings of a step, and the part of the model's gain that it must bring."""

_ITERATIONS = 2000
"""Most iterations of the accelerated proximal gradient on the quadratic model."""

_SHARE = 0.1
"""The accuracy of the model's minimum, as a part of the tolerance."""


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


def minimise(observed: Observed, penalty: Penalty, start: Fit | None, tol: float, max_steps: int) -> Fit:
    """Minimise the loss and a penalty, from another minimum or from zero."""
    run = _Run(observed, penalty, tol)
    theta = torch.zeros(observed.features.shape, dtype=observed.a.dtype, device=observed.a.device)
    point = run.at(theta, None, _LOOSEST) if start is None else run.at(start.point.theta, start.point, _LOOSEST)
    model, fresh, error, steps = point, True, run.error(point), 0
    while error > tol and steps < max_steps:
        steps += 1
        following = run.step(point, model, error)
        if following is None and not fresh:
            model, fresh = point, True
            continue
        if following is None:
            break
        point, before, error = following, error, run.error(following)
        fresh = False
        if not error < _QUICK * before:
            model, fresh = point, True
    converged = error <= tol and bool(point.solution.converged)
    status = Status.of_one(converged, error) if converged or steps >= max_steps else Status.STALLED
    return Fit(point, penalty, error, steps, run.inner_steps, status)


@final
class _Run:
    """One minimisation: what it is of, and the steps of inner solves so far."""

    def __init__(self, observed: Observed, penalty: Penalty, tol: float) -> None:
        self.observed, self.penalty, self.tol, self.inner_steps = observed, penalty, tol, 0

    def error(self, point: Point) -> float:
        return self.penalty.residual(point.theta, point.gradient) / self.observed.scale

    def value(self, point: Point) -> float:
        return point.loss + float(self.penalty.value(point.theta))

    def at(self, theta: Tensor, near: Point | None, error: float, model: Point | None = None) -> Point:
        """Return a point whose gradient is right to a part of its own error."""
        start = None if near is None else near.solution.potentials
        if near is not None and model is not None:
            f, g = model.slopes
            change = (theta - near.theta).flatten()
            start = DualPotentials(
                near.solution.potentials.f + f @ change, near.solution.potentials.g + g @ change
            )
        least = _INNER * self.tol
        tol = max(least, min(_LOOSEST, _INNER * error))
        while True:
            point = Point.of(self.observed, theta, start, tol)
            self.inner_steps += int(point.solution.steps)
            found = self.error(point)
            if tol <= least or tol <= _INNER * found * 2 or not bool(point.solution.converged):
                return point
            start, tol = point.solution.potentials, max(least, _INNER * found)

    def step(self, point: Point, model: Point, error: float) -> Point | None:
        """Return the next point, along the minimum of the model; None if no step lowers the value."""
        tol = self.observed.scale * self.tol
        target = quadratic_minimum(model.hessian, point.gradient, point.theta, self.penalty, tol)
        change = target - point.theta
        here, norm = self.value(point), float(self.penalty.value(point.theta))
        slope = float((point.gradient * change).sum())
        rounding = 1e-13 * (1 + abs(here))
        length = 1.0
        for _ in range(_HALVINGS):
            theta = target if length == 1.0 else point.theta + length * change
            following = self.at(theta, point, error * error if length == 1.0 else error, model)
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
        if (
            float(moved.abs().max()) <= 0.1 * step * tol
            and float((following - ahead).abs().max()) <= 0.1 * step * tol
        ):
            return following
        if float(((ahead - following) * moved).sum()) > 0:
            momentum = 1.0
        grown = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        ahead, t, momentum = following + ((momentum - 1) / grown) * moved, following, grown
    return t
