"""Words for what is wrong with an input: the first offending place and the value found there."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor


def first_place(bad: Bool[Tensor, "..."], values: Shaped[Tensor, "..."]) -> str:
    """Describe the first true entry of `bad` as "[index] = value", to stand right behind a name."""
    index = tuple(int(i) for i in bad.nonzero()[0])
    place = ", ".join(map(str, index))
    return f"[{place}] = {values[index].item():.6g}" if index else f" = {values.item():.6g}"


def require_finite(name: str, values: Tensor) -> None:
    """Raise unless `values` is a floating-point tensor without NaN and infinities."""
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(values).__name__}: use torch.as_tensor")
    if not values.is_floating_point():
        raise ValueError(f"{name} must be float32 or float64, got {values.dtype}: use .double()")
    bad = ~torch.isfinite(values)
    if bad.any():
        raise ValueError(f"{name} must be finite, got {name}{first_place(bad, values)}")
