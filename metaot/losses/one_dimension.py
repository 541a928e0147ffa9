"""The Wasserstein distance between measures on a line or on a circle, exact, with derivatives by one sort."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from metaot.arrays import ArrayLike, as_positive
from metaot.losses.circle import on_the_circle
from metaot.losses.measures import Measures, measures, on_the_simplex, require_power
from metaot.losses.quantiles import Rule, Wanted, row_distances, whole_masses

_BLOCK = 2**19
"""Entries of both measures that are sorted at a time: what a processor keeps at hand."""


def wasserstein_1d(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    period: float | int | None = None,
) -> Float[Tensor, "*batch"]:
    """Return W_p, the p-th root of min sum_ij P_ij |x_i - y_j|^p, between measures on a line.

    Exact, by sorting: no entropy, no iteration. Atoms are x, *batch n, and y, *batch m, in any order; batches
    are broadcast. Weights a and b sum to one, with zeros if need be; they are shared, n, or one row for each
    instance. Without them all atoms of a measure weigh the same. p is any number from 1 on.

    With `period`, say 1.0 or `2 * math.pi`, points are on a circle of that length, |x - y| is the shorter way
    around, and the best cut of the circle is found exactly.

    Derivatives are the first ones, in points and weights: in a the derivative is f - <f, a>, where f is the dual
    potential of W_p; an atom without mass has one, too. At distance zero they are zero. Where W_p has a kink (for
    weights, if masses of x end where masses of y end; for p = 1, at equal points) it is one subgradient.

    Tensors, arrays and lists; float32 stays float32. Raises ValueError for NaN, negative weights, weights that do
    not sum to one, sizes that do not fit, p < 1 and a period that is not positive.

        metaot.losses.wasserstein_1d([0.0, 1.0], [3.0, 1.0])  # sqrt((1 + 4) / 2)
    """
    power, length = require_power(p), None if period is None else as_positive("period", period)
    parts = measures(x, y, a, b, dims=1)
    is_line = length is None
    if length is not None:
        parts, is_line = _on_a_circle(parts, length)
    rule = Rule(power) if length is None or is_line else Rule(power, on_the_circle(length))
    found: Tensor = _Distances.apply(rule, *parts)  # type: ignore[assignment]
    return found


class _Distances(torch.autograd.Function):
    """Distances of all rows of a batch; their derivatives are made beside them."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, *parts: Any) -> Tensor:
        wanted = Wanted(*ctx.needs_input_grad[1:])
        rows: list[Any] = [None if part is None else part.reshape(-1, part.shape[-1]) for part in parts]
        x, y, a, b = rows
        found = x.new_empty(len(x))
        slopes: list[Any] = [
            torch.empty_like(part) if want else None for part, want in zip(rows, wanted, strict=True)
        ]
        step = max(1, _BLOCK // (x.shape[-1] + y.shape[-1]))
        for start in range(0, len(x), step):
            here = slice(start, start + step)
            masses = None if a is None else (whole_masses(a[here]), whole_masses(b[here]))
            found[here], made = row_distances(x[here].clone(), y[here].clone(), masses, rule, wanted)
            for whole, part in zip(slopes, made, strict=True):
                if whole is not None:
                    whole[here] = part
        for k in (2, 3):
            if slopes[k] is not None:
                slopes[k] = on_the_simplex(slopes[k], rows[k])
        shaped = zip(slopes, parts, strict=True)
        ctx.save_for_backward(*(None if slope is None else slope.reshape(part.shape) for slope, part in shaped))
        return found.reshape(parts[0].shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, *(None if slope is None else v[..., None] * slope for slope in ctx.saved_tensors)


def _on_a_circle(parts: Measures, period: float) -> tuple[Measures, bool]:
    """Return points turned into [0, period], and whether all are on half of the circle, which is a line.

    Turned they begin near zero, where a period that is much larger than their distances rounds nothing.
    """
    rows = [points.detach() for points in (parts.x, parts.y)]
    low = torch.minimum(*(points.amin(-1, keepdim=True) for points in rows))
    is_arc = all(bool((points - low <= period / 2).all()) for points in rows)
    x, y = (
        points - low - ((row - low) / period).floor() * period for points, row in zip(parts[:2], rows, strict=True)
    )
    return parts._replace(x=x, y=y), is_arc
