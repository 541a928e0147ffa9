"""A model of all images on images that it was not trained on: accuracy and steps, image set by image set.

The measures of UNOT (Geuter et al., arXiv 2411.01582), the relative error of <C, P> after a Sinkhorn step and the
steps until it is below one percent, and the measures of this package. Steps inside a prediction are not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize import GaussianStart, Predictor, ZeroStart
from metaot.evaluation.protocol import error_curve
from metaot.evaluation.report import markdown, mean, p95, plain
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
    predictors: dict[str, Predictor], problem: Problem, *, data: str, newton: int, most: int = 3000
) -> ZeroShot:
    """Measure zeros, the Gaussian start and `predictors` on a flat batch of problems on a grid.

    Steps of plain Sinkhorn are counted up to `most`, steps of Newton on the first `newton` problems.
    """
    eps = problem.eps
    assert isinstance(eps, float)
    solution = solve(problem, init=GaussianStart(), tol=1e-8 if eps >= 5e-3 else 1e-6)
    reference = transport_cost(problem, solution.potentials)
    starts: dict[str, Predictor] = {"zeros": ZeroStart(), "Gaussian": GaussianStart(), **predictors}
    measured = {name: _measures(problem, start, reference, (newton, most)) for name, start in starts.items()}
    return ZeroShot(data, math.isqrt(problem.a.shape[-1]), eps, measured)


def _measures(
    problem: Problem, start: Predictor, reference: Float[Tensor, "instances"], limits: tuple[int, int]
) -> Measures:
    newton, most = limits
    guess = start.predict(problem)

    def cost_step(problem: Problem, f: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next f, and the relative error of <C, P>."""
        potentials = DualPotentials.from_f(problem, f)
        error = (transport_cost(problem, potentials) - reference[which]).abs() / reference[which]
        return c_transform(problem.T, potentials.g), error

    curve = error_curve(problem, guess.f, tol=TOLERANCES[-1], max_steps=most)
    costs = error_curve(problem, guess.f, tol=COST_SHARE, max_steps=most - 1, step=cost_step)
    _, after_a_step = cost_step(problem, c_transform(problem.T, guess.g), torch.arange(len(reference)))
    measures = {
        "L1 error": marginal_error(problem, guess),
        "cost error": costs[0],
        "cost error after a step": after_a_step,
        "steps to 1% of the cost": (costs > COST_SHARE).sum(0).double(),
        **{f"steps to {tol:g}": (curve > tol).sum(0).double() for tol in TOLERANCES},
    }
    if newton > 0:
        solution = solve(problem[:newton], init=start, solver=Newton(), tol=NEWTON_TOL)
        measures[f"Newton steps to {NEWTON_TOL:g}"] = solution.steps.double()
    return measures


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
    average, high, worst = (f"{scale * x:.3g}" for x in _three(values))
    return f"{average}{unit} ({high}, {worst})"


def _three(values: Float[Tensor, "instances"]) -> tuple[float, float, float]:
    return mean(values), p95(values), float(values.max())
