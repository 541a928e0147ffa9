"""What is measured of each start, instance by instance, and all of it as JSON values."""

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True)
class Reference:
    """The converged solutions that the others are compared with: dual values and <C, P>."""

    tol: float
    max_steps: int
    dual_value: Float[Tensor, "instances"]
    cost: Float[Tensor, "instances"]
    converged: Bool[Tensor, "instances"]


@final
@dataclass(frozen=True)
class Quality:
    """How good the potentials are after a number of Sinkhorn steps.

    `l1_error` is that of both marginals, `dual_gap` the dual value that is missing, in the units of the cost; the
    relative gap and the relative error of <C, P> are shares of the reference.
    """

    steps: int
    l1_error: Float[Tensor, "instances"]
    dual_gap: Float[Tensor, "instances"]
    relative_dual_gap: Float[Tensor, "instances"]
    relative_cost_error: Float[Tensor, "instances"]


@final
@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds for one instance to come to `tol`, batch by batch; the start's time counts."""

    tol: float
    seconds: Float[Tensor, "batches"]
    converged: bool


@final
@dataclass(frozen=True)
class StartResult:
    """All that was measured of one start.

    `curve` holds the error before the first step and after each one; an instance that is below every
    tolerance keeps its last error. `replaced` marks predictions that were worse than zeros.
    """

    name: str
    curve: Float[Tensor, "steps instances"]
    replaced: Bool[Tensor, "instances"]
    quality: tuple[Quality, ...]
    timings: tuple[Timing, ...]

    def reached(self, tol: float) -> Bool[Tensor, "instances"]:
        """Return which instances came to this error."""
        return (self.curve <= tol).any(0)

    def steps(self, tol: float) -> Int[Tensor, "instances"]:
        """Return the number of steps to this error; all that were made where it was not reached."""
        first = (self.curve <= tol).to(torch.int64).argmax(0)
        return torch.where(self.reached(tol), first, len(self.curve) - 1)


@final
@dataclass(frozen=True)
class EpsResult:
    """All starts at one temperature; the model's is the last."""

    eps: float
    reference: Reference
    starts: tuple[StartResult, ...]


def mean(values: Tensor) -> float:
    return float(values.double().mean())


def median(values: Tensor) -> float:
    return float(values.double().quantile(0.5))


def p95(values: Tensor) -> float:
    return float(values.double().quantile(0.95))


def band(curves: Float[Tensor, "instances steps"]) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    """Return the 10 % and the 90 % quantile of the instances at each step."""
    low, high = curves.quantile(torch.tensor([0.1, 0.9]).to(curves), dim=0)
    return low, high


def plain(value: Any) -> Any:
    """Return a measurement as numbers, strings, lists and dicts.

    Numbers of tensors have six significant digits; one that is not finite becomes None.
    """
    if isinstance(value, Tensor):
        return plain(value.tolist()) if value.is_floating_point() else value.tolist()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return value
