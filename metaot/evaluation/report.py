"""The result of an evaluation: everything for each instance, as JSON and as text."""

import textwrap
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from metaot.evaluation.measures import EpsResult, Quality, StartResult, Timing, plain
from metaot.evaluation.table import eps_section


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
        """Return the tables in Markdown, for a terminal of 110 columns."""
        machine = self.machine
        head = (
            f"{self.instances} problems on {self.geometry}, seed {self.seed}; "
            f"Sinkhorn in {machine['dtype']}, error tested at every step; "
            f"torch {machine['torch']}, threads: {machine['threads']}."
        )
        sections = [eps_section(result, self.tolerances, self.batch) for result in self.results]
        if all(start.name != "Gaussian" for result in self.results for start in result.starts):
            head += " No Gaussian start: it needs coordinates and the cost |x - y|^2."
        if self.passes:
            head += f" The model's prediction contains {self.passes} Sinkhorn steps, which are not counted."
        return "\n\n".join([textwrap.fill(head, 110), *sections])

    def summary(self) -> dict[str, Any]:
        """Return what a checkpoint's card says of the model: means of steps, errors and gaps at each eps."""
        measured = {}
        for result in self.results:
            (model,) = (start for start in result.starts if start.name == "model")
            measured[f"{result.eps:g}"] = {
                "mean_steps": {f"{tol:g}": float(model.steps(tol).double().mean()) for tol in self.tolerances},
                "after_steps": [_quality_means(quality) for quality in model.quality],
            }
        return {"instances": self.instances, "seed": self.seed, "passes": self.passes, "eps": measured}

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts; a number that is not finite becomes None."""
        results = [_eps_json(result, self.tolerances) for result in self.results]
        return {**plain(replace(self, results=())), "results": results}


def _eps_json(result: EpsResult, tolerances: tuple[float, ...]) -> dict[str, Any]:
    return {
        "eps": result.eps,
        "reference": {**plain(result.reference), "converged": int(result.reference.converged.sum())},
        "starts": {start.name: _start_json(start, tolerances) for start in result.starts},
    }


def _start_json(start: StartResult, tolerances: tuple[float, ...]) -> dict[str, Any]:
    low, high = start.curve.quantile(torch.tensor([0.1, 0.9]).to(start.curve), dim=1)
    return {
        "replaced_by_zeros": int(start.replaced.sum()),
        "to_tolerance": [_tolerance_json(start, tol) for tol in tolerances],
        "time": [_timing_json(timing) for timing in start.timings],
        "after": plain(start.quality),
        "error_by_step": plain({"mean": start.curve.mean(1), "p10": low, "p90": high}),
    }


def _tolerance_json(start: StartResult, tol: float) -> dict[str, Any]:
    steps = start.steps(tol)
    return {
        "tol": tol,
        "mean_steps": float(steps.double().mean()),
        "p95_steps": float(steps.double().quantile(0.95)),
        "reached": int(start.reached(tol).sum()),
        "steps": steps.tolist(),
    }


def _timing_json(timing: Timing) -> dict[str, Any]:
    return {
        "tol": timing.tol,
        "converged": timing.converged,
        "median_seconds": float(timing.seconds.quantile(0.5)),
        "p95_seconds": float(timing.seconds.quantile(0.95)),
        "seconds_per_instance": plain(timing.seconds),
    }


def _quality_means(quality: Quality) -> dict[str, Any]:
    names = ("l1_error", "relative_dual_gap", "relative_cost_error")
    means = {name: float(f"{getattr(quality, name).mean():.4g}") for name in names}
    p95 = float(f"{quality.relative_cost_error.quantile(0.95):.4g}")
    return {"steps": quality.steps, **means, "relative_cost_error_p95": p95}
