"""The two pictures of Meta OT (arXiv 2206.05262): convergence, and interpolations of images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.evaluation.measures import EpsResult
from metaot.evaluation.report import Report
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.tools import displacement_interpolation

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as missing:
    raise ImportError("pictures need matplotlib: pip install 'metaot[plot]'") from missing

WIDTH, DPI = 10.0, 140
"""Inches and dots per inch: 1400 pixels."""

COLOURS = {"zeros": "#6b6b6b", "Gaussian": "#e69f00", "model": "#0072b2"}
"""Okabe and Ito's palette, safe for colour-blind readers, in print too."""

TIMES = 7
"""Columns of an interpolation, from t = 0 to t = 1."""


def draw_convergence(report: Report, path: Path) -> None:
    """Draw the L1 marginal error against Sinkhorn steps, a panel for each eps: mean and 10-90 % band."""
    panels = len(report.results)
    floor = 10 * min(report.tolerances)  # below it, instances begin to be done and to keep their errors
    figure = Figure(figsize=(WIDTH, 3.7), dpi=DPI, layout="constrained")
    row = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axes, result in zip(row, report.results, strict=True):
        _convergence_panel(axes, result, floor)
    row[0].set_ylabel("L1 marginal error")
    title = f"mean and 10-90 % band\nof {report.instances} problems"
    row[0].legend(title=title, alignment="left", frameon=False, loc="upper right", fontsize=9, title_fontsize=9)
    _save(figure, path)


def _convergence_panel(axes: Axes, result: EpsResult, floor: float) -> None:
    longest = 0
    for start in result.starts:
        curve = start.curve.cpu()
        mean = curve.mean(1)
        low, high = curve.quantile(torch.tensor([0.1, 0.9]).to(curve), dim=1)
        steps, colour = range(len(curve)), COLOURS[start.name]
        axes.fill_between(steps, low.numpy(), high.numpy(), color=colour, alpha=0.10, linewidth=0)
        for edge in (low, high):
            axes.plot(steps, edge.numpy(), color=colour, alpha=0.5, linewidth=0.6)
        axes.plot(steps, mean.numpy(), color=colour, linewidth=2.2, label=start.name)
        longest = max(longest, int((mean > floor).sum()))
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.set_xlim(0, max(longest, 1))
    axes.set_xlabel("Sinkhorn steps")
    axes.set_title(f"eps = {result.eps:g}", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_interpolations(
    problem: Problem,
    exact: DualPotentials,
    predicted: DualPotentials,
    sizes: tuple[int, int],
    path: Path,
) -> None:
    """Draw McCann's interpolation of each pair: by the exact plan on the left, as predicted on the right."""
    flat = problem.flat()
    rows, times = len(flat.a), [k / (TIMES - 1) for k in range(TIMES)]
    images = [_frames(problem, potentials, times, sizes) for potentials in (exact, predicted)]
    side, header = WIDTH / (2 * TIMES + 0.5), 0.45
    figure = Figure(figsize=(WIDTH, rows * side * sizes[0] / sizes[1] + header), dpi=DPI)
    bottom, top = 0.004, 1 - header / figure.get_figheight()
    titles = ("exact solution", "prediction of the model")
    for half, (frames, title) in enumerate(zip(images, titles, strict=True)):
        left = 0.002 if half == 0 else 0.5 + 0.25 / (2 * TIMES + 0.5)
        right = left + TIMES / (2 * TIMES + 0.5) - 0.002
        grid = figure.add_gridspec(
            rows, TIMES, left=left, right=right, bottom=bottom, top=top, wspace=0.04, hspace=0.04
        )
        for r in range(rows):
            for c in range(TIMES):
                axes = figure.add_subplot(grid[r, c])
                _draw_image(axes, frames[c][r], f"t = {times[c]:.2g}" if r == 0 else "")
        figure.text((left + right) / 2, 0.99, title, ha="center", va="top", fontsize=11)
    _save(figure, path)


def _frames(
    problem: Problem, potentials: DualPotentials, times: Sequence[float], sizes: tuple[int, int]
) -> list[Float[Tensor, "pairs height width"]]:
    return [displacement_interpolation(problem, potentials, t).reshape(-1, *sizes).detach().cpu() for t in times]


def _draw_image(axes: Axes, image: Float[Tensor, "height width"], title: str) -> None:
    axes.imshow(image.numpy(), cmap="Greys", vmin=0, vmax=float(image.quantile(0.995)), aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, pad=3)
    for spine in axes.spines.values():
        spine.set(color="#d0d0d0", linewidth=0.5)


def _save(figure: Figure, path: Path) -> None:
    """Write the picture whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, format="png")
    partial.replace(path)
