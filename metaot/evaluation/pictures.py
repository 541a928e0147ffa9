"""The pictures of Meta OT (arXiv 2206.05262): convergence, interpolations, dual values, recoloured images."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.amortize.maps import AmortizedMap
from metaot.evaluation.maps import MapReport
from metaot.evaluation.report import Report, band
from metaot.folders import write_atomically
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.tools import displacement_interpolation
from metaot.tools.places import places_sheet
from metaot.tools.recolor import recoloured_sheet

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import imsave
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as missing:
    raise ImportError("pictures need matplotlib: pip install 'metaot[plot]'") from missing

WIDTH, DPI = 10.0, 140
"""Inches and dots per inch: 1400 pixels."""

GREY, ORANGE, BLUE, VERMILION = "#6b6b6b", "#e69f00", "#0072b2", "#d55e00"
"""Of Okabe and Ito's palette, safe for colour-blind readers, in print too."""
COLOURS = {
    "zeros": GREY, "Gaussian": ORANGE, "model": BLUE, "from scratch": GREY, "model, Gauss-Newton": VERMILION
}  # fmt: skip

TIMES = 7
"""Columns of an interpolation, from t = 0 to t = 1."""


def draw_convergence(report: Report, path: Path) -> None:
    """Draw the L1 marginal error against Sinkhorn steps, a panel for each eps: mean and 10-90 % band."""
    floor = 10 * min(report.tolerances)  # below it, instances begin to be done and to keep their errors
    figure = Figure(figsize=(WIDTH, 3.7), dpi=DPI, layout="constrained")
    row = figure.subplots(1, len(report.results), sharey=True, squeeze=False)[0]
    for axes, result in zip(row, report.results, strict=True):
        longest = 1
        for start in result.starts:
            _draw_band(axes, range(len(start.curve)), start.curve.mT.cpu(), start.name)
            longest = max(longest, int((start.curve.mean(1) > floor).sum()))
        axes.set(yscale="log", xlim=(0, longest), xlabel="Sinkhorn steps", title=f"eps = {result.eps:g}")
        axes.set_ylim(bottom=floor)
    row[0].set_ylabel("L1 marginal error")
    row[0].legend(title=f"mean and 10-90 % band\nof {report.instances} problems", frameon=False)
    _save(figure, path)


def _draw_band(axes: Axes, steps: Sequence[int], curves: Float[Tensor, "instances steps"], name: str) -> None:
    low, high = band(curves)
    axes.fill_between(steps, low.numpy(), high.numpy(), color=COLOURS[name], alpha=0.12, linewidth=0)
    axes.plot(steps, curves.mean(0).numpy(), color=COLOURS[name], linewidth=2, label=name)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_interpolations(
    problem: Problem, exact: DualPotentials, predicted: DualPotentials, sizes: tuple[int, int], path: Path
) -> None:
    """Draw McCann's interpolation of each pair: by the exact plan on the left, as predicted on the right."""
    rows, times = problem.batch_shape.numel(), [k / (TIMES - 1) for k in range(TIMES)]
    height = 0.4 + rows * WIDTH / (2 * TIMES + 0.5) * sizes[0] / sizes[1]
    narrow = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0.02, hspace=0.0)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=narrow)
    sides = (("exact solution", exact), ("prediction of the model", predicted))
    for half, (title, potentials) in zip(figure.subfigures(1, 2, squeeze=False)[0], sides, strict=True):
        half.suptitle(title, fontsize=11)
        for column, t in zip(half.subplots(rows, TIMES, squeeze=False).T, times, strict=True):
            images = displacement_interpolation(problem, potentials, t).reshape(-1, *sizes).cpu()
            column[0].set_title(f"t = {t:.2g}", fontsize=8, pad=3)
            for axes, image in zip(column, images, strict=True):
                axes.imshow(image.numpy(), cmap="Greys", vmin=0, vmax=float(image.quantile(0.995)), aspect="auto")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(color="#d0d0d0", linewidth=0.5)
    _save(figure, path)


def draw_places(problem: Problem, exact: DualPotentials, predicted: DualPotentials, path: Path) -> None:
    """Draw a row for each problem on any space: predicted, exact, and their difference."""
    sheet = places_sheet(problem, exact, predicted)
    write_atomically(path, lambda partial: imsave(partial, sheet, format="png"))


def draw_curves(report: MapReport, path: Path) -> None:
    """Draw normalised dual values against steps: the mean and a 10-90 % band."""
    figure = Figure(figsize=(7, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for curve in report.curves:
        values = report.normalised(curve.values)
        _draw_band(axes, report.steps[: values.shape[1]], values, curve.name)
    linear = float(report.normalised(report.linear).mean())
    axes.axhline(linear, color=ORANGE, linestyle="--", linewidth=1, label="linear (Bures)")
    axes.set_xscale("symlog", linthresh=5)
    axes.set(xlim=(0, report.steps[-1]), ylim=(min(0.5, linear - 0.1), 1.01))
    axes.set(xlabel="steps", ylabel="dual value, normalised")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_sheet(predictor: AmortizedMap, images: UInt8[Tensor, "count side side 3"], path: Path) -> None:
    """Draw a row for each pair of images: source, target, source recoloured, target recoloured."""
    sheet = recoloured_sheet(predictor, images).numpy()
    write_atomically(path, lambda partial: imsave(partial, sheet, format="png"))


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda partial: figure.savefig(partial, format="png"))
