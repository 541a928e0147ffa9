"""The result of an evaluation: what was measured of each start, instance by instance; as JSON and as tables."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.solvers.refine import DOUBTFUL

WIDTH = 110
"""Columns of the terminal that the tables are for."""


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

    `l1_error` is the error of both marginals, `dual_gap` the reference's dual value minus theirs, in the units of
    the cost; the relative gap and the relative error of <C, P> are shares of the reference.
    """

    steps: int
    l1_error: Float[Tensor, "instances"]
    dual_gap: Float[Tensor, "instances"]
    relative_dual_gap: Float[Tensor, "instances"]
    relative_cost_error: Float[Tensor, "instances"]


@final
@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds for one instance to reach `tol`, batch by batch; the start's time counts."""

    tol: float
    seconds: Float[Tensor, "batches"]
    converged: bool


@final
@dataclass(frozen=True)
class StartResult:
    """All that was measured of one start.

    `curve` is that of `error_curve`; `replaced` marks predictions that `solve` would replace by zeros.
    """

    name: str
    curve: Float[Tensor, "steps instances"]
    replaced: Bool[Tensor, "instances"]
    quality: tuple[Quality, ...]
    timings: tuple[Timing, ...]

    def reached(self, tol: float) -> Bool[Tensor, "instances"]:
        """Return which instances reached this error."""
        return (self.curve <= tol).any(0)

    def steps(self, tol: float) -> Int[Tensor, "instances"]:
        """Return the number of steps to this error; if it was not reached, of all steps."""
        first = (self.curve <= tol).to(torch.int64).argmax(0)
        return torch.where(self.reached(tol), first, len(self.curve) - 1)


@final
@dataclass(frozen=True)
class EpsResult:
    """All starts at one temperature; the model's is the last."""

    eps: float
    reference: Reference
    starts: tuple[StartResult, ...]


@final
@dataclass(frozen=True)
class Report:
    """What was measured, at each temperature, and how."""

    machine: dict[str, str | int]
    geometry: str
    passes: int
    instances: int
    batch: int
    seed: int
    max_steps: int
    tolerances: tuple[float, ...]
    results: tuple[EpsResult, ...]

    def table(self) -> str:
        """Return the tables in Markdown."""
        machine = self.machine
        head = (
            f"{self.instances} problems on {self.geometry}, seed {self.seed}; "
            f"Sinkhorn in {machine['dtype']}, error tested at every step; "
            f"torch {machine['torch']}, threads: {machine['threads']}."
        )
        if all(start.name != "Gaussian" for result in self.results for start in result.starts):
            head += " No Gaussian start: it needs coordinates and the cost |x - y|^2."
        if self.passes:
            head += f" The model's prediction contains {self.passes} Sinkhorn steps, which are not counted."
        sections = [_section(result, self.tolerances, self.batch) for result in self.results]
        return "\n\n".join([textwrap.fill(head, WIDTH), *sections])

    def summary(self) -> dict[str, Any]:
        """Return what a checkpoint's card says of the model: means of steps, errors and gaps at each eps."""
        measured = {}
        for result in self.results:
            model = result.starts[-1]
            measured[f"{result.eps:g}"] = {
                "mean_steps": {f"{tol:g}": mean(model.steps(tol)) for tol in self.tolerances},
                "after_steps": [_quality_means(quality) for quality in model.quality],
            }
        return {"instances": self.instances, "seed": self.seed, "passes": self.passes, "eps": measured}

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts; a number that is not finite becomes None."""
        results = [_eps_json(result, self.tolerances) for result in self.results]
        return {**plain(replace(self, results=())), "results": results}


def _eps_json(result: EpsResult, tolerances: Sequence[float]) -> dict[str, Any]:
    return {
        "eps": result.eps,
        "reference": {**plain(result.reference), "converged": int(result.reference.converged.sum())},
        "starts": {start.name: _start_json(start, tolerances) for start in result.starts},
    }


def _start_json(start: StartResult, tolerances: Sequence[float]) -> dict[str, Any]:
    low, high = band(start.curve.mT)
    steps = {tol: start.steps(tol) for tol in tolerances}
    return {
        "replaced_by_zeros": int(start.replaced.sum()),
        "to_tolerance": [
            {
                "tol": tol,
                "mean_steps": mean(found),
                "p95_steps": p95(found),
                "reached": int(start.reached(tol).sum()),
                "steps": found.tolist(),
            }
            for tol, found in steps.items()
        ],
        "time": [
            {
                "tol": timing.tol,
                "converged": timing.converged,
                "median_seconds": median(timing.seconds),
                "p95_seconds": p95(timing.seconds),
                "seconds_per_instance": plain(timing.seconds),
            }
            for timing in start.timings
        ],
        "after": plain(start.quality),
        "error_by_step": plain({"mean": start.curve.mean(1), "p10": low, "p90": high}),
    }


def _quality_means(quality: Quality) -> dict[str, Any]:
    names = ("l1_error", "relative_dual_gap", "relative_cost_error")
    figures = {name: mean(getattr(quality, name)) for name in names}
    figures["relative_cost_error_p95"] = p95(quality.relative_cost_error)
    return {"steps": quality.steps, **{name: float(f"{figure:.4g}") for name, figure in figures.items()}}


def _section(result: EpsResult, tolerances: Sequence[float], batch: int) -> str:
    """Return all tables of one temperature."""
    starts, reference = result.starts, result.reference
    replaced = [_replacement(start, starts[0]) for start in starts if bool(start.replaced.any())]
    headers = ["start", *(f"{tol:g}" for tol in tolerances)]
    steps = [[start.name, *(_steps_cell(start, tol) for tol in tolerances)] for start in starts]
    times = [[start.name, *map(_time_cell, start.timings)] for start in starts]
    batches = ["batches", *(str(len(timing.seconds)) for timing in starts[-1].timings)]
    quality = [[start.name, str(q.steps), *_quality_cells(q)] for start in starts for q in start.quality]
    return "\n".join(
        [
            f"### eps = {result.eps:g}",
            "",
            f"Reference: Sinkhorn to {reference.tol:g}; {int(reference.converged.sum())} of "
            f"{len(reference.converged)} converged within {reference.max_steps} steps.",
            *replaced,
            "\nPlain Sinkhorn steps to an L1 error of ..., mean (p95):\n",
            *markdown(headers, [*steps, ["best other / model", *_step_ratios(starts, tolerances)]]),
            f"\nMilliseconds per instance of `solve`, batch {batch}, median (p95); ratios batch by batch:\n",
            *markdown(headers, [*times, ["best other / model", *_time_ratios(starts)], batches]),
            "\nThe potentials as predicted, and after one and two Sinkhorn steps, mean (and p95):\n",
            *markdown(["start", "steps", "L1 error", "dual gap", "relative gap", "error of <C, P>"], quality),
        ]
    )


def _replacement(start: StartResult, zeros: StartResult) -> str:
    """Say how many starts were replaced by zeros, and by which rule of `solve`."""
    first, of_zeros, replaced = start.quality[0], zeros.quality[0], start.replaced
    below = int((replaced & ~(first.dual_gap <= of_zeros.dual_gap)).sum())
    far, count = int(replaced.sum()) - below, len(replaced)
    reasons = [
        f"{number} {words}"
        for number, words in (
            (below, "had a lower dual value than zeros"),
            (far, f"had an L1 error above {DOUBTFUL:g} and were not far ahead of the first two steps from zeros"),
        )
        if number
    ]
    text = (
        f"In {below + far} of {count} problems the start {start.name!r} was not clearly better than zeros and was "
        f"replaced by zeros, as `solve` does: {'; '.join(reasons)}. Their steps are counted from zeros."
    )
    if start.name == "model" and 2 * (below + far) > count:
        text += (
            " The model is of little use here: train it for longer, on problems like these, or refine its "
            "predictions more (--passes)."
        )
    return textwrap.fill(text, WIDTH)


def _step_ratios(starts: Sequence[StartResult], tolerances: Sequence[float]) -> list[str]:
    ratios = []
    for tol in tolerances:
        *others, model = (mean(start.steps(tol)) for start in starts)
        ratios.append(f"{min(others) / model:.2f}x" if model >= 0.5 else "-")
    return ratios


def _time_ratios(starts: Sequence[StartResult]) -> list[str]:
    ratios = []
    for *others, model in zip(*(start.timings for start in starts), strict=True):
        ratios.append(f"{min(median(timing.seconds / model.seconds) for timing in others):.2f}x")
    return ratios


def _steps_cell(start: StartResult, tol: float) -> str:
    steps, reached = start.steps(tol), mean(start.reached(tol))
    return f"{'>' if reached < 1 else ''}{mean(steps):.1f} ({'>' if reached < 0.95 else ''}{p95(steps):.0f})"


def _time_cell(timing: Timing) -> str:
    return f"{'' if timing.converged else '>'}{1e3 * median(timing.seconds):.3g} ({1e3 * p95(timing.seconds):.3g})"


def _quality_cells(quality: Quality) -> list[str]:
    return [
        f"{mean(quality.l1_error):.3g}",
        f"{mean(quality.dual_gap):.3g}",
        f"{100 * mean(quality.relative_dual_gap):.3g} %",
        f"{100 * mean(quality.relative_cost_error):.3g} % ({100 * p95(quality.relative_cost_error):.3g} %)",
    ]


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column left, the others right, all padded."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    return [line(headers), rule, *map(line, rows)]


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
