"""Compiled Sinkhorn steps, and Newton's of torch: for problems whose marginals have a price."""

from typing import Any, final

import numpy as np
import torch

from metaot import core
from metaot.core.method import Array, BackEnd, Index, Limits, Result
from metaot.problem import Problem
from metaot.solvers.in_torch import InTorch


@final
class HandOver(BackEnd):
    """Compiled steps of a flat batch of problems; what they do not solve is handed over to torch for Newton's."""

    slowness = 7
    """Torch takes so much longer for Newton's steps than compiled code for Sinkhorn's."""

    def __init__(self, compiled: core.Compiled, problem: Problem) -> None:
        self._compiled, self._problem = compiled, problem
        self.sizes, self.axis_points, self.lowest_eps = compiled.sizes, compiled.axis_points, compiled.lowest_eps
        self.dimension = compiled.dimension

    @property
    def cost_range(self) -> float:
        return self._compiled.cost_range

    def sinkhorn(self, index: Index, f: Array | None, limits: Limits, **ways: Any) -> Result:
        return self._compiled.sinkhorn(index, f, limits, **ways)

    @property
    def details(self) -> tuple[dict[int, float], ...]:
        return self._compiled.details

    def newton(self, index: Index, f: Array | None, limits: Limits, *, warmer: float = 1.0) -> Result:
        start = None if f is None else torch.from_numpy(f)
        found = InTorch(self._problem).newton(index, start, limits, warmer=warmer)
        return Result(*(values.numpy() for values in found))

    def symmetric(self, f: Array | None, limits: Limits, *, on_support: bool = False) -> Result:
        return self._compiled.symmetric(f, limits, on_support=on_support)

    def no_result(self) -> Result:
        return self._compiled.no_result()

    def numbers(self, values: Array) -> np.ndarray:
        return self._compiled.numbers(values)
