"""What comes in as two measures: points and weights, checked, as tensors of one batch."""

import math
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike, as_number
from metaot.geometry.checks import Given, given, require_finite, require_weights, together


@final
class Measures(NamedTuple):
    """Points and weights of two batches of measures; no weights where all atoms of a measure weigh the same."""

    x: Float[Tensor, "..."]
    y: Float[Tensor, "..."]
    a: Float[Tensor, "*batch n"] | None
    b: Float[Tensor, "*batch m"] | None


def measures(x: ArrayLike, y: ArrayLike, a: ArrayLike | None, b: ArrayLike | None, *, dims: int) -> Measures:
    """Return measures whose points have `dims` axes beside those of the batch.

    Weights that are all equal and have no derivative count as none. Raises ValueError, naming the first offending
    entry, for points and weights that are not finite, for weights that are negative or do not sum to one, and for
    sizes that do not fit; TypeError for what holds no numbers.
    """
    parts = [
        given(name, value)
        for name, value in zip("xyab", (x, y, a, b), strict=True)
        if value is not None or name in "xy"
    ]
    for part in parts:
        _require_part(part, dims)
    checked = dict(zip((part.name for part in parts), together(*parts), strict=True))
    if dims == 2 and checked["x"].shape[-1] != checked["y"].shape[-1]:
        shapes = (tuple(checked[name].shape) for name in "xy")
        raise ValueError("clouds x of {} and y of {} do not fit: same d".format(*shapes))
    for name, points in (("a", "x"), ("b", "y")):
        shape, n = tuple(checked[points].shape), checked[points].shape[-dims]
        found = checked[name].shape[-1] if name in checked else n
        if found != n:
            raise ValueError(f"{found} weights {name} do not fit {n} atoms {points} of shape {shape}")
    if all(name not in checked or _are_equal(checked[name]) for name in "ab"):
        checked = {name: checked[name] for name in "xy"}
    else:
        for name, points in (("a", "x"), ("b", "y")):
            n = checked[points].shape[-dims]
            checked.setdefault(name, checked[points].new_full((n,), 1 / n))
    batch = _common_batch(checked, dims)
    whole = {name: part.expand(*batch, *part.shape[-_own(name, dims) :]) for name, part in checked.items()}
    return Measures(whole["x"], whole["y"], whole.get("a"), whole.get("b"))


def require_power(p: object) -> float:
    """Return p as a number; ValueError unless it is finite and at least one."""
    power = as_number("p", p)
    if not 1 <= power < math.inf:
        raise ValueError(f"p must be a finite number of at least 1, got {power:g}")
    return power


def on_the_simplex(
    slope: Float[Tensor, "*batch n"], weights: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n"]:
    """Return the derivative of a value at weights/sum(weights), from one that knows no constant."""
    mass = weights.sum(-1, keepdim=True)
    return (slope - (slope * weights).sum(-1, keepdim=True) / mass) / mass


def _require_part(part: Given, dims: int) -> None:
    """Raise unless points and weights have a shape and are finite, and weights are those of a measure."""
    name, values = part.name, part.tensor
    own = _own(name, dims)
    if values.ndim < own or 0 in values.shape[values.ndim - own :]:
        shape = "(*batch, atoms, d)" if own == 2 else "(*batch, atoms)"
        line = f": points on a line are {name}[:, None]" if own == 2 and values.ndim == 1 else ""
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(values.shape)}{line}")
    (require_finite if name in "xy" else require_weights)(name, values)


def _are_equal(weights: Tensor) -> bool:
    return not weights.requires_grad and bool((weights == weights[..., :1]).all())


def _common_batch(parts: dict[str, Tensor], dims: int) -> torch.Size:
    batches = {name: part.shape[: part.ndim - _own(name, dims)] for name, part in parts.items()}
    try:
        return torch.Size(np.broadcast_shapes(*batches.values()))  # torch's own imports sympy
    except ValueError as error:
        words = ", ".join(f"{name} {tuple(batch)}" for name, batch in batches.items())
        raise ValueError(f"batches do not fit each other: {words}") from error


def _own(name: str, dims: int) -> int:
    """Return the axes of points or of weights beside those of the batch."""
    return dims if name in "xy" else 1
