"""metaot, from each of its starts."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

import metaot
from benchmarks.discrete.check import potentials_error
from benchmarks.discrete.methods.base import OURS, Method
from benchmarks.discrete.problems import Family, Instance
from metaot import DualPotentials, OnnxModel, Problem, Solution
from metaot.amortize import AmortizedPotential, GaussianStart
from metaot.checkpoint import read_card
from metaot.onnx import OnnxSolution

CHECKPOINT = Path("checkpoints/mnist")
NEWTON_ATOMS = 1024
"""Atoms up to which `Newton()` is a method of its own: it factorises dense matrices."""


@final
@dataclass(frozen=True)
class Metaot(Method):
    """`run(problem, tol)` is timed."""

    run: Callable[[Problem, float], Solution] = field(kw_only=True)
    fits: Callable[[Family], bool] = field(kw_only=True, default=lambda family: True)

    def suits(self, family: Family) -> bool:
        return self.fits(family)

    def settings(self, target: float) -> list[Any]:
        return [target]

    def prepare(self, instance: Instance) -> Problem:
        return instance.problem

    def solve(self, inputs: Problem, setting: float) -> Solution:
        return self.run(inputs, setting)

    def error(self, instance: Instance, output: Solution) -> float:
        return largest_error(instance, output.potentials.f.numpy(), output.potentials.g.numpy())

    def steps(self, output: Solution) -> int:
        return int(output.steps.max())


@final
@dataclass(frozen=True)
class Exported(Method):
    """The exported model, which predicts and refines in onnxruntime and numpy; arrays in and out."""

    model: OnnxModel = field(kw_only=True)
    start: "ModelStart" = field(kw_only=True)

    def suits(self, family: Family) -> bool:
        low, high = self.model.eps
        return self.start.fits(family) and low <= family.eps <= high

    def settings(self, target: float) -> list[Any]:
        return [target]

    def prepare(self, instance: Instance) -> tuple[np.ndarray, np.ndarray, float]:
        return instance.problem.a.numpy(), instance.problem.b.numpy(), instance.eps

    def solve(self, inputs: tuple[np.ndarray, np.ndarray, float], setting: float) -> OnnxSolution:
        a, b, eps = inputs
        return self.model.solve(a, b, eps=eps, tol=setting, max_steps=100_000)

    def error(self, instance: Instance, output: OnnxSolution) -> float:
        return largest_error(instance, output.f, output.g)

    def steps(self, output: OnnxSolution) -> int:
        return int(output.steps.max())


def largest_error(instance: Instance, f: np.ndarray, g: np.ndarray) -> float:
    """Return the largest error of the problems of an instance, for their potentials."""
    errors = []
    for k, one in enumerate(instance.split()):
        log_u, log_v = log_scalings(one.problem, f.reshape(-1, f.shape[-1])[k], g.reshape(-1, g.shape[-1])[k])
        errors.append(potentials_error(one, log_u, log_v))
    return max(errors)


def log_scalings(problem: Problem, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f/eps + log a and g/eps + log b; finite, however small, where there is no mass."""
    eps = float(problem.eps)
    a, b = (np.maximum(w.numpy(), 1e-300) for w in (problem.a, problem.b))
    return f / eps + np.log(a), g / eps + np.log(b)


@final
@dataclass(frozen=True)
class ModelStart:
    """The model at the problem's eps, or at the nearest one that it was trained for."""

    model: AmortizedPotential

    def predict(self, problem: Problem) -> DualPotentials:
        return self.model.predict(self._near(problem))

    def warm_start(self, problem: Problem) -> torch.Tensor:
        return self.model.warm_start(self._near(problem))

    def _near(self, problem: Problem) -> Problem:
        low, high = self.model.eps
        eps = min(max(float(problem.eps), low), high)
        return problem if eps == problem.eps else replace(problem, eps=eps)

    def fits(self, family: Family) -> bool:
        """Return whether the model is for this grid."""
        return "mnist" in family.name


def decreasing(problem: Problem, tol: float) -> Solution:
    """Solve at eps 4^k, ..., 4 eps, eps, each from the potentials of the last one."""
    eps, ladder = float(problem.eps), [float(problem.eps)]
    largest = float(problem.geometry.cost_rows(slice(0, 1)).max())
    while 4 * ladder[-1] <= 0.1 * largest:
        ladder.append(4 * ladder[-1])
    start, steps = None, 0
    for high in reversed(ladder[1:]):
        solution = metaot.solve(replace(problem, eps=high), init=start, tol=max(tol, 1e-2))
        start, steps = solution.potentials, steps + solution.steps
    solution = metaot.solve(replace(problem, eps=eps), init=start, tol=tol)
    return replace(solution, steps=solution.steps + torch.as_tensor(steps))


def methods(start: ModelStart) -> list[Method]:
    def solved(init: object = None, solver: Callable[[], Any] | None = None) -> Callable[..., Solution]:
        return lambda problem, tol: metaot.solve(
            problem, init=init, solver=solver() if solver else None, tol=tol, max_steps=100_000
        )

    def small(family: Family) -> bool:
        return family.atoms <= NEWTON_ATOMS

    def other_images(family: Family) -> bool:
        return family.images and not start.fits(family)

    return [
        Metaot("metaot from the model", "metaot", OURS, run=solved(start), fits=start.fits),
        *_exported(start),
        Metaot(
            "metaot from the universal model",
            "metaot",
            OURS,
            run=solved(metaot.load("universal")),
            fits=other_images,
        ),
        Metaot("metaot, cold", "metaot", OURS, run=solved()),
        Metaot("metaot, Gaussian start", "metaot", OURS, run=solved(GaussianStart())),
        Metaot("metaot, decreasing eps", "metaot", OURS, run=decreasing),
        Metaot("metaot Newton, cold", "metaot", OURS, run=solved(solver=metaot.Newton), fits=small),
        Metaot("metaot Sinkhorn, cold", "metaot", OURS, run=solved(solver=metaot.Sinkhorn)),
    ]


def _exported(start: ModelStart) -> list[Method]:
    """Return the model as `export.py` writes it; none where the extra `export` is not installed."""
    try:
        from metaot.onnx.export import prediction_model  # noqa: PLC0415, an extra
    except ImportError as reason:
        print(f"without the exported model: {reason}")
        return []
    content = prediction_model(start.model, read_card(CHECKPOINT))
    model = OnnxModel.from_bytes(content, threads=torch.get_num_threads())
    return [Exported("metaot from the exported model", "metaot", OURS, model=model, start=start)]
