"""Anderson acceleration of Sinkhorn's algorithm: past steps tell where the next one had better set out from.

A Sinkhorn step moves the potential x by its residual r(x), the logarithm of the weights over the marginal. Near
the solution r is linear, and symmetric in L2(a); of all the points between the last ones, the next step sets out
from that with the smallest residual (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 2011), as MINRES would. So
one slow mode after the other is done with, where over-relaxation keeps the rate of the slowest.
"""

import math
from typing import final

import numpy as np

from metaot.single.plan import Array

MEMORY = 10
"""Steps that are remembered. Once there are so many, every second step looks back: that is quicker, and safer."""

BEYOND = 1.3
"""How many times its residual a step moves."""

GROWTH, STALE = 2.0, 40
"""The error may grow to so many times the least one, and stay above it for so many steps; then it goes on from
where it was the least, with plain steps, under which it falls: one, or twice as many without progress."""

PROGRESS = 0.9
"""A least error that is smaller than this much of the one before is progress."""

RIDGE = 1e-12
"""Relative, on the products of the changes: these become nearly dependent."""

FARTHEST = 35.0
"""A scaling may change by the exponential of this in a step."""


def bounded(residual: Array) -> Array:
    """Return a residual of finite values."""
    return np.clip(residual, -FARTHEST, FARTHEST)


@final
class Anderson:
    """The last points that were shown: potentials, in units of eps, on atoms with these positive weights."""

    def __init__(self, weights: Array) -> None:
        self._roots = np.sqrt(weights)
        self._moves, self._changes = (np.empty((MEMORY, len(weights))) for _ in range(2))
        self._gram = np.zeros((MEMORY, MEMORY))
        self._shown, self._stale, self._least = 0, 0, math.inf
        self._plain, self._stretch, self._mark = 1, 1, math.inf

    def next(self, x: Array, residual: Array, error: float) -> Array:
        """Return the point that follows x, where the residual and the L1 error are these."""
        if not error <= GROWTH * self._least or self._stale >= STALE:
            return self.back()
        missing = self._roots * residual
        if not missing.dot(missing) < math.inf:  # there are atoms of whose mass nothing has arrived
            residual = bounded(residual)
            missing = self._roots * residual
        target = x + BEYOND * residual
        self._stale += 1
        if error <= self._least:
            self._least, self._stale, self._nearest = error, 0, (x, residual)
        if self._shown > 0:
            self._remember(target - self._target, missing - self._missing)
        self._target, self._missing = target, missing
        self._shown += 1
        known = slice(min(self._shown - 1, MEMORY))
        if self._plain > 0:
            self._plain, self._stale = self._plain - 1, 0
            return x + residual
        if self._shown > MEMORY and self._shown % 2:
            return target
        try:
            mix = np.linalg.solve(self._gram[known, known], self._changes[known].dot(missing))
        except np.linalg.LinAlgError:
            return target
        following = target - mix.dot(self._moves[known])
        return following if mix.dot(mix) < MUCH else _not_too_far(x, following, target)

    def back(self) -> Array:
        """Forget the last points but that with the least error; return where a plain step leads from there."""
        self._shown, self._stale = 0, 0
        self._stretch = 1 if self._least < PROGRESS * self._mark else 2 * self._stretch
        self._plain, self._mark = self._stretch, self._least
        return self._nearest[0] + self._nearest[1]

    def _remember(self, move: Array, change: Array) -> None:
        """Put how the last step moved the target, and changed what is missing, into the place of the oldest."""
        k = (self._shown - 1) % MEMORY
        self._changes[k], self._moves[k] = change, move
        known = slice(min(self._shown, MEMORY))
        products = self._changes[known].dot(change)
        products[k] = products[k] * (1 + RIDGE) + TINY
        self._gram[k, known] = self._gram[known, k] = products


def _not_too_far(x: Array, following: Array, target: Array) -> Array:
    """Return a point on the way from x that is not too far: where moves change nothing, they tell little."""
    step = following - x
    length = float(np.abs(step).max())
    if not length < math.inf:
        return target
    return x + step * min(1.0, FARTHEST / length) if length > 0 else following


MUCH = 100.0
"""A square of coefficients below which a step cannot be very long."""

TINY = float(np.finfo(np.float64).tiny)
"""Keeps a change of nothing at all from dividing by zero."""
