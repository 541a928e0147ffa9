"""Pictures of continuous models: dual values against steps (figure 7), a sheet of recoloured pairs (figure 6)."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from metaot.amortize.maps import AmortizedMap
from metaot.evaluation.map_report import MapReport
from metaot.tools.recolor import recoloured_pairs

try:
    from matplotlib.figure import Figure
except ImportError as missing:
    raise ImportError("pictures need matplotlib: pip install 'metaot[plot]'") from missing

COLOURS = {"from scratch": "#6b6b6b", "model": "#0072b2", "model, Gauss-Newton": "#d55e00"}


def draw_curves(report: MapReport, path: Path) -> None:
    """Draw normalised dual values against steps: the mean and a 10-90 % band."""
    figure = Figure(figsize=(7, 4), dpi=140, layout="constrained")
    axes = figure.subplots()
    for curve in report.curves:
        values = report.normalised(curve.values)
        low, high = values.quantile(torch.tensor([0.1, 0.9]).to(values), dim=0)
        colour = COLOURS[curve.name]
        steps = report.steps[: values.shape[1]]
        axes.fill_between(steps, low.numpy(), high.numpy(), color=colour, alpha=0.12, linewidth=0)
        axes.plot(steps, values.mean(0).numpy(), color=colour, marker="o", ms=3, label=curve.name)
    linear = float(report.normalised(report.linear).mean())
    axes.axhline(linear, color="#e69f00", linestyle="--", linewidth=1, label="linear (Bures)")
    axes.set_xscale("symlog", linthresh=5)
    axes.set_xlim(0, report.steps[-1])
    axes.set_ylim(min(0.5, linear - 0.1), 1.01)
    axes.set_xlabel("steps")
    axes.set_ylabel("dual value, normalised")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def draw_sheet(predictor: AmortizedMap, images: UInt8[Tensor, "count side side 3"], path: Path) -> None:
    """Draw pairs of images, each in its own palette and in the predicted one of the other; two pairs a row."""
    pictures = recoloured_pairs(predictor, images)
    pairs = len(pictures)
    columns, rows = 8, -(-pairs // 2)
    figure = Figure(figsize=(10, 1.3 * rows + 0.3), dpi=140)
    grid = figure.subplots(rows, columns, squeeze=False)
    titles = ("source", "target", "source recoloured", "target recoloured")
    for k, axes in enumerate(grid.flat):
        axes.set_axis_off()
        instance = k // 4
        if instance < pairs:
            axes.imshow(pictures[instance, k % 4].numpy())
        if k < columns:
            axes.set_title(titles[k % 4], fontsize=7)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / figure.get_figheight(), 0.03, 0.03)
    figure.savefig(path)
