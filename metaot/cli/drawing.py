"""Pictures of one solution: images that move, points that are matched, a plan."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metaot
from metaot.folders import write_atomically
from metaot.measures import Measure
from metaot.tools import displacement_interpolation, shipments

try:
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
except ImportError as missing:
    raise ImportError("pictures need matplotlib: pip install 'metaot[plot]'") from missing

DPI = 140
BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#6b6b6b"
_FRAMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_PAIRS = 2**21
"""Pairs of atoms with mass up to which images are moved as they are: more take long, and are not seen."""
_LINES = 4000
"""At most so many lines between points are drawn."""
_LEAST = 0.08
"""Lines of less than this share of the heaviest one are left out."""


def title(solution: metaot.Solution) -> str:
    eps = solution.problem.eps
    return f"cost {float(solution.cost()):.4g}, eps {float(eps):.3g}"


def draw_images(solution: metaot.Solution, measures: tuple[Measure, Measure], path: Path, *, dark: bool) -> None:
    """Draw McCann's interpolation from the source to the target, in the colours of the pictures."""
    problem, sizes = _coarse(solution.problem)
    coarse = metaot.solve(problem, tol=1e-4)
    height = 1.9 * sizes[0] / sizes[1] + 0.75
    figure = Figure(figsize=(1.9 * len(_FRAMES) + 0.2, min(max(height, 1.6), 8.0)), dpi=DPI, layout="constrained")
    light = measures[0].is_picture and not dark
    names = {_FRAMES[0]: measures[0].name, _FRAMES[-1]: measures[1].name}
    for axes, t in zip(figure.subplots(1, len(_FRAMES)), _FRAMES, strict=True):
        image = displacement_interpolation(problem, coarse.potentials, t).reshape(sizes).numpy()
        highest = float(np.quantile(image, 0.995)) or float(image.max())
        axes.imshow(image, cmap="gray" if light else "Greys", vmin=0, vmax=highest)
        axes.set_title(f"t = {t:.1f}", fontsize=9, pad=3)
        axes.set_xlabel(_short(names.get(t, "")), fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color="#d0d0d0", linewidth=0.5)
    figure.suptitle(f"mass on its way from source to target: {title(solution)}", fontsize=10)
    _save(figure, path)


def _coarse(problem: metaot.Problem) -> tuple[metaot.Problem, tuple[int, int]]:
    """Return a problem of images with few pairs of atoms: the masses of square blocks at their centres."""
    grid = problem.geometry
    assert isinstance(grid, metaot.Grid)
    block, weights = 0, [problem.a, problem.b]
    while not block or math.prod(int((w > 0).sum()) for w in weights) > _PAIRS:
        block += 1
        weights = [w.reshape(grid.sizes) for w in (problem.a, problem.b)]
        for axis in range(2):
            weights = [torch.stack([part.sum(axis) for part in w.split(block, axis)], axis) for w in weights]
    axes = [torch.stack([part.mean() for part in axis.split(block)]) for axis in grid.axes]
    a, b = (w.flatten() for w in weights)
    return metaot.Problem(a, b, metaot.Grid(*axes, cost=grid.cost), problem.eps), (len(axes[0]), len(axes[1]))


def draw_points(solution: metaot.Solution, measures: tuple[Measure, Measure], path: Path) -> None:
    """Draw both clouds, and a line for each pair between which mass moves, the stronger the more."""
    (x, y), labels = _flat(measures)
    a, b = (np.asarray(w) for w in (solution.problem.a, solution.problem.b))
    heaviest = float(min(a.max(), b.max()))
    moved = shipments(solution, least=_LEAST * heaviest / max(1.0, np.sqrt(max(len(a), len(b)) / 100)))
    order = slice(None, _LINES)
    start, end, mass = (values[order].numpy() for values in (moved.supplier, moved.customer, moved.quantity))
    figure = Figure(figsize=(7.2, 6.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    if len(mass):
        lines = LineCollection(list(np.stack([x[start], y[end]], 1)), colors=GREY, linewidths=0.7, zorder=1)
        lines.set_alpha(list((mass / mass.max()).clip(0.04, 1) * 0.8))
        axes.add_collection(lines)
    for points, weights, colour, marker, role, measure in (
        (x, a, BLUE, "o", "source", measures[0]),
        (y, b, VERMILION, "s", "target", measures[1]),
    ):
        size = 26 * min(1.0, 200 / len(points)) ** 0.5 * (weights / weights.max()).clip(0.1)
        label = f"{role}: {_short(measure.name)} ({len(points)})"
        axes.scatter(*points.T, s=size, c=colour, marker=marker, linewidths=0, label=label, zorder=2)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.set_title(f"lines: where mass moves, the darker the more\n{title(solution)}", fontsize=10)
    legend = axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2)
    for handle in legend.legend_handles:
        handle.set_sizes([28])  # type: ignore[union-attr]
    _save(figure, path)


def _flat(measures: tuple[Measure, Measure]) -> tuple[tuple[Any, Any], tuple[str, str]]:
    """Return two coordinates of all points: their own, degrees on the sphere, or along the principal axes."""
    x, y = (measure.points for measure in measures)
    assert x is not None
    assert y is not None
    names = measures[0].axes
    if x.shape[1] == 2:
        return (x, y), (names[0], names[1]) if names else ("first coordinate", "second coordinate")
    if len(names) == 2:  # they were degrees
        degrees = [
            np.rad2deg(np.stack([np.arctan2(p[:, 1], p[:, 0]), np.arcsin(p[:, 2].clip(-1, 1))], 1)) for p in (x, y)
        ]
        return (degrees[0], degrees[1]), ("degrees east", "degrees north")
    if x.shape[1] == 1:
        above = 0.3 * float(np.ptp(np.concatenate([x, y]))) or 1.0
        rows = [np.concatenate([p, np.full_like(p, height)], 1) for p, height in ((x, 0.0), (y, above))]
        return (rows[0], rows[1]), (names[0] if names else "coordinate", "source below, target above")
    both = np.concatenate([x, y])
    centre = both.mean(0)
    axes = np.linalg.svd(both - centre, full_matrices=False)[2][:2]
    return ((x - centre) @ axes.T, (y - centre) @ axes.T), ("first principal axis", "second principal axis")


def draw_plan(solution: metaot.Solution, names: tuple[str, str], path: Path) -> None:
    """Draw the plan as a map, with the weights of the source on the left and of the target above."""
    plan = solution.plan().numpy()
    a, b = plan.sum(1), plan.sum(0)
    figure = Figure(figsize=(6.4, 6.4), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 4), height_ratios=(1, 4))
    main = figure.add_subplot(grid[1, 1])
    left, top = figure.add_subplot(grid[1, 0], sharey=main), figure.add_subplot(grid[0, 1], sharex=main)
    highest = float(np.quantile(plan[plan > 1e-6 * plan.max()], 0.99))
    main.imshow(plan, cmap="Greys", vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
    main.set(xlabel=f"target: {_short(names[1])}", ylim=(len(a) - 0.5, -0.5), xlim=(-0.5, len(b) - 0.5))
    left.fill_betweenx(np.arange(len(a)), a, step="mid", color=BLUE, alpha=0.8, linewidth=0)
    left.set(ylabel=f"source: {_short(names[0])}", xticks=[])
    left.invert_xaxis()
    top.fill_between(np.arange(len(b)), b, step="mid", color=VERMILION, alpha=0.8, linewidth=0)
    top.set(yticks=[])
    main.tick_params(labelleft=False)
    top.tick_params(labelbottom=False)
    for axes in (left, top):
        axes.spines[:].set_visible(False)
    figure.suptitle(f"the plan, the darker the more mass: {title(solution)}", fontsize=10)
    _save(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:16]}...{name[-9:]}"


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.lower().removeprefix(".")
    write_atomically(path, lambda partial: figure.savefig(partial, format=kind))
