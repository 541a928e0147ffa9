"""Error messages for wrong inputs: the first offending entry and the value found there."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor


def first_place(bad: Bool[Tensor, "..."], values: Shaped[Tensor, "..."]) -> str:
    """Describe the first true entry of `bad` as "[index] = value", to follow a name."""
    index = tuple(int(i) for i in bad.nonzero()[0])
    where = ", ".join(map(str, index))
    return f"[{where}] = {values[index].item():.6g}" if index else f" = {values.item():.6g}"


def require_finite(name: str, values: Tensor) -> None:
    """Raise unless `values` is a tensor in float32 or float64 without NaN and infinities."""
    require_floating(name, values)
    bad = ~torch.isfinite(values)
    if bad.any():
        raise ValueError(f"{name} must be finite, got {name}{first_place(bad, values)}")


def require_costs(name: str, C: Tensor) -> None:
    """Raise unless C is a tensor in float32 or float64 whose entries are numbers or +inf."""
    require_floating(name, C)
    if C.numel() == 0 or bool(C.detach().amin() > -torch.inf):
        return
    bad = C.isnan() | (-torch.inf == C)
    raise ValueError(f"{name} must be finite, or +inf for a forbidden pair, got {name}{first_place(bad, C)}")


def require_floating(name: str, values: Tensor) -> None:
    """Raise unless `values` is a tensor in float32 or float64."""
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(values).__name__}: use torch.as_tensor")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {values.dtype}: use .double()")
