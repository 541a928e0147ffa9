"""The result of an evaluation: everything for each instance, as JSON and as text."""

import textwrap
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.evaluation.measures import EpsResult, Quality, StartResult, Timing
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
        """Return what a checkpoint's card tells of the model: means of steps, errors and gaps at each eps."""
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
        return {
            "machine": self.machine,
            "geometry": self.geometry,
            "passes": self.passes,
            "instances": self.instances,
            "batch": self.batch,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "tolerances": list(self.tolerances),
            "results": [_eps_json(result, self.tolerances) for result in self.results],
        }


def _eps_json(result: EpsResult, tolerances: tuple[float, ...]) -> dict[str, Any]:
    reference = result.reference
    return {
        "eps": result.eps,
        "reference": {
            "tol": reference.tol,
            "max_steps": reference.max_steps,
            "converged": int(reference.converged.sum()),
            "dual_value": numbers(reference.value),
            "cost": numbers(reference.cost),
        },
        "starts": {start.name: _start_json(start, tolerances) for start in result.starts},
    }


def _start_json(start: StartResult, tolerances: tuple[float, ...]) -> dict[str, Any]:
    low, high = start.curve.quantile(torch.tensor([0.1, 0.9]).to(start.curve), dim=1)
    return {
        "replaced_by_zeros": int(start.replaced.sum()),
        "to_tolerance": [_tolerance_json(start, tol) for tol in tolerances],
        "time": [_timing_json(timing) for timing in start.timings],
        "after": [_quality_json(quality) for quality in start.quality],
        "error_by_step": {
            "mean": numbers(start.curve.mean(1)),
            "p10": numbers(low),
            "p90": numbers(high),
        },
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
        "seconds_per_instance": numbers(timing.seconds),
    }


def _quality_means(quality: Quality) -> dict[str, Any]:
    return {
        "steps": quality.steps,
        "l1_error": float(f"{quality.error.mean():.4g}"),
        "relative_dual_gap": float(f"{quality.relative_gap.mean():.4g}"),
        "relative_cost_error": float(f"{quality.cost_error.mean():.4g}"),
        "relative_cost_error_p95": float(f"{quality.cost_error.quantile(0.95):.4g}"),
    }


def _quality_json(quality: Quality) -> dict[str, Any]:
    return {
        "steps": quality.steps,
        "l1_error": numbers(quality.error),
        "dual_gap": numbers(quality.gap),
        "relative_dual_gap": numbers(quality.relative_gap),
        "relative_cost_error": numbers(quality.cost_error),
    }


def numbers(values: Float[Tensor, "k"]) -> list[float | None]:
    """Return six significant digits of each, None for what is not finite."""
    finite = values.isfinite().tolist()
    return [float(f"{v:.6g}") if ok else None for v, ok in zip(values.tolist(), finite, strict=True)]
