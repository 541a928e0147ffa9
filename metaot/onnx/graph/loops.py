"""Sinkhorn until an error is reached, as a loop in the graph: with scalings, or in the log domain.

Plain steps, so that counts mean what papers mean. A batch goes on until all its instances have arrived; `steps`
are those that each one needed.
"""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from metaot.single.start import GOOD


@final
class Limits(NamedTuple):
    """When to stop: the L1 error that is wanted, and the most steps; numbers in tensors."""

    tol: Tensor
    max_steps: Tensor


Refined = tuple[Tensor, Tensor, Tensor, Tensor]
"""f, g, the L1 error of their plan and the steps to it."""


def by_scalings(times: Callable[[Tensor], Tensor], u: Tensor, a: Tensor, b: Tensor, limits: Limits) -> Refined:
    """Refine a scaling u, or ones where these are better; K is symmetric.

    Return the last scaling, K^T (a u), the error and the steps.
    """

    def looked_at(u: Tensor) -> tuple[Tensor, ...]:
        columns = times(a * u)
        rows = times(b / columns)
        return u, columns, rows, _error(a, a * u, rows)

    def compared(u: Tensor, columns: Tensor, rows: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        gain = _sum(b, times(a).log() - columns.log()) + _sum(a, u.log())
        return looked_at(torch.where(_taken(error, gain, u), u, 1.0))

    first = looked_at(u)
    u, columns, rows, error = torch.cond(_stays(first[-1], limits), _kept, compared, first)

    def step(*state: Tensor) -> tuple[Tensor, ...]:
        k, _, _, rows, error, steps = state
        u = 1 / rows
        w = a * u
        columns = times(w)
        rows = times(b / columns)
        return k + 1, u, columns, rows, _error(a, w, rows), steps + (error > limits.tol)

    _, u, columns, _, error, steps = _while(limits, step, (u, columns, rows, error))
    return u, columns, error, steps


def by_logs(
    best_g: Callable[[Tensor], Tensor],
    best_f: Callable[[Tensor], Tensor],
    f: Tensor,
    problem: tuple[Tensor, Tensor, Tensor],
    limits: Limits,
) -> Refined:
    """Refine a potential f, or zeros where these are better, by maximising in g and in f by turns.

    The problem is (a, b, eps).
    """
    a, b, eps = problem

    def looked_at(f: Tensor) -> tuple[Tensor, ...]:
        g = best_g(f)
        following = best_f(g)
        return f + 0.0, g, following, _error(a, a, _growth(f, following, eps))

    def compared(f: Tensor, g: Tensor, following: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        zeros = torch.zeros_like(f)
        gain = _sum(b, g - best_g(zeros)) + _sum(a, f)
        return looked_at(torch.where(_taken(error, gain, f), f, zeros))

    first = looked_at(f)
    f, g, following, error = torch.cond(_stays(first[-1], limits), _kept, compared, first)

    def step(*state: Tensor) -> tuple[Tensor, ...]:
        k, _, _, following, error, steps = state
        g = best_g(following)
        after = best_f(g)
        now = _error(a, a, _growth(following, after, eps))
        return k + 1, following.clone(), g, after, now, steps + (error > limits.tol)

    _, f, g, _, error, steps = _while(limits, step, (f, g, following, error))
    return f, g, error, steps


def _while(
    limits: Limits, step: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Step while an error, the last of the state, is too large; a counter comes before it, steps behind it."""

    def goes_on(*state: Tensor) -> Tensor:
        return torch.logical_and((state[-2] > limits.tol).any(), state[0] < limits.max_steps)

    steps = torch.zeros_like(state[-1], dtype=torch.int64)
    return torch.while_loop(goes_on, step, (torch.zeros_like(limits.max_steps), *state, steps))


def _stays(error: Tensor, limits: Limits) -> Tensor:
    """Tell whether no start is compared with zeros: all are good, or the bare prediction is asked for."""
    return torch.logical_or((error <= GOOD).all(), limits.max_steps == 0)


def _kept(*state: Tensor) -> tuple[Tensor, ...]:
    return tuple(value.clone() for value in state)


def _taken(error: Tensor, gain: Tensor, like: Tensor) -> Tensor:
    """Tell which starts are good, or have a higher dual value than zeros; not those that are NaN."""
    return torch.logical_or(error <= GOOD, gain >= 0).reshape(-1, *[1] * (like.ndim - 1))


def _sum(weights: Tensor, values: Tensor) -> Tensor:
    return (weights * values).flatten(1).sum(1)


def _growth(f: Tensor, following: Tensor, eps: Tensor) -> Tensor:
    return ((f - following) / eps).clamp_max(600).exp()


def _error(a: Tensor, w: Tensor, rows: Tensor) -> Tensor:
    return (w * rows - a).abs().flatten(1).sum(1)
