"""The rule of `metaot.single.anderson` for many problems, as long as none has to go back."""

import math
from typing import final

import numpy as np

from metaot.single.anderson import BEYOND, FARTHEST, GROWTH, MEMORY, MUCH, RIDGE, STALE, TINY
from metaot.single.plan import Array


@final
class Path:
    """The last points of each problem, on atoms with these weights."""

    def __init__(self, weights: Array) -> None:
        count, n = weights.shape
        self._roots = np.sqrt(weights)
        self._moves, self._changes = np.empty((2, count, MEMORY, n))
        self._gram = np.zeros((count, MEMORY, MEMORY))
        self._last: Array | None = None
        """The last targets, and what was missing before them."""
        self._nearest = np.zeros_like(weights)
        self._least, self._since = np.full(count, math.inf), np.zeros(count, dtype=np.int64)
        self._far = np.zeros(count, dtype=bool)
        self._shown = 0

    def part(self, which: Array, width: int) -> "Path":
        """Return that of some problems, of so many atoms at most."""
        part = object.__new__(Path)
        part._roots = self._roots[which, :width]
        part._moves, part._changes = self._moves[which, :, :width], self._changes[which, :, :width]
        part._last = None if self._last is None else self._last[:, which, :width]
        part._nearest = self._nearest[which, :width]
        part._gram, part._least, part._since = self._gram[which], self._least[which], self._since[which]
        part._far, part._shown = self._far[which], self._shown
        return part

    def strayed(self, x: Array, error: Array) -> Array:
        """Take notice of the errors of points; tell which problems go back, if alone."""
        nearer = error <= self._least
        self._least = np.where(nearer, error, self._least)
        self._since = np.where(nearer, 0, self._since + 1)
        self._nearest = x if nearer.all() else np.where(nearer[:, None], x, self._nearest)
        return ~(error <= GROWTH * self._least) | (self._since >= STALE) | self._far

    def nearest(self, which: Array) -> Array:
        """Return the potentials of some problems whose errors were the least."""
        return self._nearest[which]

    def next(self, x: Array, residual: Array) -> Array:
        """Return the points that follow x, where the residuals are these."""
        now = np.empty((2, *x.shape))
        target, missing = now[0], now[1]
        np.multiply(self._roots, residual, missing)
        if not missing.reshape(-1).dot(missing.reshape(-1)) < math.inf:  # of some mass nothing has arrived
            self._far |= ~(np.square(missing).sum(1) < math.inf)
            residual = np.where(self._far[:, None], 0.0, residual)
            np.multiply(self._roots, residual, missing)
        np.multiply(residual, BEYOND, target)
        target += x
        if self._last is None:
            self._last, self._shown = now, 1
            return x + residual
        products = self._remember(now - self._last, missing)
        self._last, self._shown = now, self._shown + 1
        if self._shown > MEMORY and self._shown % 2:
            return target
        known = slice(min(self._shown - 1, MEMORY))
        try:
            mix = np.linalg.solve(self._gram[:, known, known], products)
        except np.linalg.LinAlgError:
            return target
        following = target - np.matmul(mix.mT, self._moves[:, known])[:, 0]
        if not (np.square(mix).sum(1) < MUCH).all():
            self._far |= ~(np.abs(following - x).max(1) < FARTHEST)
        return following

    def _remember(self, last: Array, missing: Array) -> Array:
        """Put how the last step moved the target, and changed what is missing, into the place of the oldest.

        Return the products of all changes with what is missing.
        """
        k = (self._shown - 1) % MEMORY
        self._moves[:, k], self._changes[:, k] = last
        known = slice(min(self._shown, MEMORY))
        both = np.empty((len(missing), 2, missing.shape[1]))
        both[:, 0], both[:, 1] = last[1], missing
        products = np.matmul(self._changes[:, known], both.mT)
        own = products[:, :, 0]
        own[:, k] = own[:, k] * (1 + RIDGE) + TINY
        self._gram[:, k, known] = self._gram[:, known, k] = own
        return products[:, :, 1:]
