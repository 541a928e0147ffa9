"""Measures as Markdown tables that a terminal of 110 columns can show."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from metaot.evaluation.measures import EpsResult, Quality, StartResult, Timing

MODEL = "model"
"""The start that the others are compared with."""


def eps_section(result: EpsResult, tolerances: Sequence[float], batch: int) -> str:
    """Return all tables of one temperature."""
    reference = result.reference
    lines = [
        f"### eps = {result.eps:g}",
        "",
        f"Reference: Sinkhorn to {reference.tol:g}; {int(reference.converged.sum())} of "
        f"{len(reference.converged)} converged within {reference.max_steps} steps.",
    ]
    lines += [
        f"{int(start.replaced.sum())} of {len(start.replaced)} {start.name} starts were worse than zeros: "
        "their steps start from zeros."
        for start in result.starts
        if bool(start.replaced.any())
    ]
    headers = ["start", *(f"{tol:g}" for tol in tolerances)]
    return "\n".join(
        [
            *lines,
            "\nPlain Sinkhorn steps to an L1 error of ..., mean (p95):\n",
            *markdown(headers, _steps_rows(result.starts, tolerances)),
            f"\nMilliseconds per instance of `solve`, batch {batch}, median (p95); ratios batch by batch:\n",
            *markdown(headers, _times_rows(result.starts)),
            "\nThe potentials as predicted, and after one and two Sinkhorn steps, mean (and p95):\n",
            *_quality_table(result.starts),
        ]
    )


def _steps_rows(starts: Sequence[StartResult], tolerances: Sequence[float]) -> list[list[str]]:
    model, others = _split(starts)
    ratios = []
    for tol in tolerances:
        own, *rest = (float(start.steps(tol).double().mean()) for start in (model, *others))
        ratios.append(f"{min(rest) / own:.2f}x" if own >= 0.5 else "-")
    rows = [[start.name, *(_steps_cell(start, tol) for tol in tolerances)] for start in starts]
    return [*rows, ["best other / model", *ratios]]


def _steps_cell(start: StartResult, tol: float) -> str:
    steps, reached = start.steps(tol).double(), start.reached(tol).double()
    first = "" if float(reached.mean()) == 1 else ">"
    second = "" if float(reached.mean()) >= 0.95 else ">"
    return f"{first}{float(steps.mean()):.1f} ({second}{float(steps.quantile(0.95)):.0f})"


def _times_rows(starts: Sequence[StartResult]) -> list[list[str]]:
    model, others = _split(starts)
    ratios = []
    for own, *rest in zip(model.timings, *(start.timings for start in others), strict=True):
        ratio = min(float((timing.seconds / own.seconds).quantile(0.5)) for timing in rest)
        ratios.append(f"{ratio:.2f}x")
    rows = [[start.name, *map(_time_cell, start.timings)] for start in starts]
    batches = ["batches", *(str(len(timing.seconds)) for timing in model.timings)]
    return [*rows, ["best other / model", *ratios], batches]


def _time_cell(timing: Timing) -> str:
    median, p95 = float(timing.seconds.quantile(0.5)), float(timing.seconds.quantile(0.95))
    return f"{'' if timing.converged else '>'}{1e3 * median:.3g} ({1e3 * p95:.3g})"


def _split(starts: Sequence[StartResult]) -> tuple[StartResult, list[StartResult]]:
    """Return the model and the others."""
    (model,) = (start for start in starts if start.name == MODEL)
    return model, [start for start in starts if start is not model]


def _quality_table(starts: Sequence[StartResult]) -> list[str]:
    headers = ["start", "steps", "L1 error", "dual gap", "relative gap", "error of <C, P>"]
    rows = [
        [start.name, str(quality.steps), *_quality_cells(quality)] for start in starts for quality in start.quality
    ]
    return markdown(headers, rows)


def _quality_cells(quality: Quality) -> list[str]:
    return [
        f"{float(quality.l1_error.mean()):.3g}",
        f"{float(quality.dual_gap.mean()):.3g}",
        f"{100 * float(quality.relative_dual_gap.mean()):.3g} %",
        _percent_cell(quality.relative_cost_error),
    ]


def _percent_cell(share: Float[Tensor, "instances"]) -> str:
    return f"{100 * float(share.mean()):.3g} % ({100 * float(share.quantile(0.95)):.3g} %)"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column left, the others right, all padded."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    return [line(headers), rule, *map(line, rows)]
