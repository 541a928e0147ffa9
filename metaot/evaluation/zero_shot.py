"""A model of all images on images that it was not trained on: accuracy and steps, image set by image set.

The measures of UNOT (Geuter et al., arXiv 2411.01582): the relative error of <C, P> after a Sinkhorn step, and the
steps until it is below one percent; and those of this package. The steps inside a prediction are not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize import GaussianStart, Predictor, ZeroStart
from metaot.evaluation.measures import plain
from metaot.evaluation.protocol import error_curve
from metaot.evaluation.table import markdown
from metaot.potentials import DualPotentials, c_transform, marginal_error, transport_cost
from metaot.problem import Problem
from metaot.solvers import Newton, solve

COST_SHARE = 0.01
"""Steps are counted until <C, P> is right to this share."""
TOLERANCES = (1e-2, 1e-3)
NEWTON_TOL = 1e-6

Measures = dict[str, Float[Tensor, "instances"]]


@final
@dataclass(frozen=True)
class ZeroShot:
    """What was measured of each start on one image set, at one resolution and temperature."""

    data: str
    side: int
    eps: float
    starts: dict[str, Measures]

    def to_json(self) -> dict[str, Any]:
        """Return every instance's numbers."""
        return plain(self)

    def summary(self) -> dict[str, dict[str, list[float]]]:
        """Return mean, 95th percentile and worst of each measure of each start."""
        return {
            start: {name: [float(f"{x:.4g}") for x in _three(values)] for name, values in measures.items()}
            for start, measures in self.starts.items()
        }


@torch.no_grad()
def zero_shot(
    predictors: dict[str, Predictor],
    problem: Problem,
    *,
    data: str,
    newton: int,
    most: int = 3000,
) -> ZeroShot:
    """Measure zeros, the Gaussian start and these predictors on a flat batch of problems on a grid.

    Sinkhorn's steps are those of the plain algorithm, and counted up to `most`. Newton's are counted on the first
    `newton` problems; not at all for 0.
    """
    eps = problem.eps
    assert isinstance(eps, float)
    solution = solve(problem, init=GaussianStart(), tol=1e-8 if eps >= 5e-3 else 1e-6)
    reference = transport_cost(problem, solution.potentials)
    starts: dict[str, Predictor] = {"zeros": ZeroStart(), "Gaussian": GaussianStart(), **predictors}
    side = math.isqrt(problem.a.shape[-1])
    measured = {name: _measures(problem, start, reference, (newton, most)) for name, start in starts.items()}
    return ZeroShot(data, side, eps, measured)


def _measures(
    problem: Problem, start: Predictor, reference: Float[Tensor, "instances"], limits: tuple[int, int]
) -> Measures:
    newton, most = limits
    guess = start.predict(problem)
    stepped = DualPotentials.from_f(problem, c_transform(problem.T, guess.g))
    curve = error_curve(problem, guess.f, tol=TOLERANCES[-1], max_steps=most)
    measures = {
        "L1 error": marginal_error(problem, guess),
        "cost error": _cost_error(problem, guess, reference),
        "cost error after a step": _cost_error(problem, stepped, reference),
        "steps to 1% of the cost": _steps_to_cost(problem, guess, reference, most),
        **{f"steps to {tol:g}": (curve > tol).sum(0).double() for tol in TOLERANCES},
    }
    if newton > 0:
        solution = solve(problem[:newton], init=start, solver=Newton(), tol=NEWTON_TOL)
        measures[f"Newton steps to {NEWTON_TOL:g}"] = solution.steps.double()
    return measures


def _cost_error(
    problem: Problem, potentials: DualPotentials, reference: Float[Tensor, "instances"]
) -> Float[Tensor, "instances"]:
    return (transport_cost(problem, potentials) - reference).abs() / reference


def _steps_to_cost(
    problem: Problem, potentials: DualPotentials, reference: Float[Tensor, "instances"], most: int
) -> Float[Tensor, "instances"]:
    """Return after how many steps the error of the cost is small for the first time."""
    steps = torch.zeros_like(reference)
    alive = torch.arange(len(reference))
    for _ in range(most):
        alive_now = _cost_error(problem, potentials, reference) > COST_SHARE
        problem, potentials = problem[alive_now], potentials[alive_now]
        reference, alive = reference[alive_now], alive[alive_now]
        if len(alive) == 0:
            break
        steps[alive] += 1
        potentials = DualPotentials.from_f(problem, c_transform(problem.T, potentials.g))
    return steps


def table(results: Sequence[ZeroShot]) -> str:
    """Return one row for each start on each image set: mean (p95, worst)."""
    names = list(next(iter(results[0].starts.values())))
    rows = [
        [f"{result.data} {result.side} x {result.side}", f"{result.eps:g}", start, *map(_cell, measures.items())]
        for result in results
        for start, measures in result.starts.items()
    ]
    return "\n".join(markdown(["images", "eps", "start", *names], rows))


def _cell(measure: tuple[str, Float[Tensor, "instances"]]) -> str:
    name, values = measure
    scale, unit = (100, " %") if name.startswith("cost") else (1, "")
    mean, p95, worst = (f"{scale * x:.3g}" for x in _three(values))
    return f"{mean}{unit} ({p95}, {worst})"


def _three(values: Float[Tensor, "instances"]) -> tuple[float, float, float]:
    return float(values.mean()), float(values.quantile(0.95)), float(values.max())
