"""What comes in as numbers, as tensors; and errors for wrong inputs: the first offending entry and its value."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metaot.arrays import NUMBERS, ArrayLike, as_array, is_free, uneven

MASS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far from one the mass of a weight vector may be."""


class Given(NamedTuple):
    """Numbers that came in under a name, as a tensor."""

    name: str
    tensor: Tensor
    is_free: bool
    """Whether its precision is that of the others: of lists, numbers and integers."""
    is_placed: bool
    """Whether it was a tensor, whose device counts."""


def given(name: str, values: object, taken: str = NUMBERS) -> Given:
    """Read numbers that came in; errors as for `as_array`."""
    return Given(name, tensor(name, values, taken=taken), is_free(values), isinstance(values, Tensor))


def tensor(name: str, values: object, *, like: Tensor | None = None, taken: str = NUMBERS) -> Tensor:
    """Return numbers as a tensor, float32 or float64; one that has a dtype and is no integer keeps it.

    With `like`, all but tensors are brought to its dtype and device. Errors as for `as_array`.
    """
    if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
        try:
            values = torch.stack([tensor(f"{name}[{k}]", value) for k, value in enumerate(values)])
        except RuntimeError as error:
            why = uneven(name, values) or error
            raise ValueError(f"{name} must be {taken}, of one shape, dtype and device: {why}") from error
    if isinstance(values, Tensor):
        if not (values.dtype.is_floating_point or values.dtype.is_complex or values.layout != torch.strided):
            values = values.double()
        require_floating(name, values)
        return values
    found = _of_array(name, values, taken)
    return found if like is None else found.to(like)


def _of_array(name: str, values: Any, taken: str) -> Tensor:
    """Return an array as a tensor, in the same memory where torch can read it."""
    try:
        array = as_array(name, values, taken)
    except (TypeError, ValueError):
        if not hasattr(values, "__dlpack__") or isinstance(values, np.ndarray | type):
            raise
        return tensor(name, torch.from_dlpack(values))  # on another device
    if not array.flags.writeable or any(step < 0 or step % array.itemsize for step in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def together(*parts: Given) -> list[Tensor]:
    """Return tensors of one dtype and on one device.

    What is free follows the others; float32 beside float64 becomes float64. Arrays and lists go to the device of
    the tensors. Raises ValueError for tensors on several devices.
    """
    dtypes = {part.tensor.dtype for part in parts if not part.is_free}
    dtype = torch.float32 if dtypes == {torch.float32} else torch.float64
    placed = [part for part in parts if part.is_placed]
    for part in placed:
        if part.tensor.device != placed[0].tensor.device:
            raise ValueError(
                f"{placed[0].name} is on {placed[0].tensor.device}, {part.name} is on {part.tensor.device}: "
                "bring them together"
            )
    device = placed[0].tensor.device if placed else None
    return [part.tensor.to(dtype=dtype, device=device) for part in parts]


def are_alike(x: object, y: object) -> bool:
    """Return whether both are tensors of one floating dtype on one device."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return False
    return x.dtype == y.dtype and x.device == y.device and is_floating(x) and is_floating(y)


def is_floating(values: Tensor) -> bool:
    """Return whether a tensor is dense, in float32 or float64."""
    return values.dtype in (torch.float64, torch.float32) and values.layout == torch.strided


def first_place(bad: Bool[Tensor, "..."], values: Shaped[Tensor, "..."]) -> str:
    """Describe the first true entry of `bad` as "[index] = value", to follow a name."""
    index = tuple(int(i) for i in bad.nonzero()[0])
    where = ", ".join(map(str, index))
    return f"[{where}] = {values[index].item():.6g}" if index else f" = {values.item():.6g}"


def require_finite(name: str, values: Tensor) -> None:
    """Raise unless `values` is a tensor in float32 or float64 without NaN and infinities."""
    require_floating(name, values)
    if bool(values.detach().sum().isfinite()):  # quick, and finite only if all are
        return
    bad = ~torch.isfinite(values)
    if bad.any():
        raise ValueError(f"{name} must be finite, got {name}{first_place(bad, values)}")


def require_cloud(name: str, points: Tensor, dim: int | None = None) -> None:
    """Raise unless `points` are some finite points of one dimension, or of the dimension that is asked for."""
    require_finite(name, points)
    if points.ndim != 2 or 0 in points.shape or dim not in (None, points.shape[1]):
        line = f": points on a line are {name}[:, None]" if points.ndim == 1 else ""
        raise ValueError(f"{name} must have the shape (points, {dim or 'd'}), got {tuple(points.shape)}{line}")


def require_weights(name: str, weights: Tensor, shown: Tensor | None = None, *, mass_is_one: bool = True) -> None:
    """Raise unless weights, *batch n, are finite, not negative and of mass one, or of any positive mass.

    `shown` is what was given, if that was images.
    """
    if weights.numel() == 0:
        return
    require_floating(name, weights)
    still, tolerance = weights.detach(), MASS_TOLERANCE[weights.dtype]
    mass = still.sum(-1)
    off = (mass - 1).abs_()
    fits = off.amax() <= tolerance if mass_is_one else (mass.amin() > 0) & (mass.amax() < math.inf)
    if bool(still.amin() >= 0) and bool(fits):
        return
    shown = weights if shown is None else shown
    require_finite(name, shown)
    negative = shown < 0
    if negative.any():
        raise ValueError(f"{name} must not be negative, got {name}{first_place(negative, shown)}")
    if not mass_is_one:
        bad = ~((mass > 0) & (mass < math.inf))
        raise ValueError(f"{name} must have a positive, finite mass, got sum {name}{first_place(bad, mass)}")
    dims = shown.ndim - weights.ndim
    axes = "-1" if dims == 0 else str(tuple(range(-dims - 1, 0)))
    raise ValueError(
        f"{name} must sum to one, got sum {name}{first_place(off > tolerance, mass)}: "
        f"divide by {name}.sum({axes}, keepdims=True)"
    )


def require_costs(name: str, C: Tensor) -> None:
    """Raise unless C is a tensor in float32 or float64 whose entries are numbers or +inf."""
    require_floating(name, C)
    if C.numel() == 0 or bool(C.detach().amin() > -torch.inf):
        return
    bad = C.isnan() | (-torch.inf == C)
    raise ValueError(f"{name} must be finite, or +inf for a forbidden pair, got {name}{first_place(bad, C)}")


def require_floating(name: str, values: Tensor) -> None:
    """Raise unless `values` is a dense tensor in float32 or float64."""
    if values.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got a tensor of layout {values.layout}: use .to_dense()")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {values.dtype}: use .double()")


def masses(
    name: str, weights: ArrayLike | None, count: int, like: Tensor, sizes: tuple[int, ...]
) -> Float[Tensor, "*batch n"]:
    """Return weights of `count` atoms, of mass one; by default all alike.

    ValueError for another shape, which may be an image of these sizes, for what is negative, and for no mass.
    """
    w = like.new_ones(count) if weights is None else tensor(name, weights, like=like).to(like)
    if sizes and w.shape[-1:] != (count,) and w.shape[-len(sizes) :] == sizes:
        w = w.flatten(-len(sizes))
    if w.shape[-1:] != (count,):
        raise ValueError(f"{name} must have the shape (*batch, {count}), got {tuple(w.shape)}")
    require_weights(name, w, mass_is_one=False)
    return w / w.sum(-1, keepdim=True)
