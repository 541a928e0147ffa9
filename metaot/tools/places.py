"""Pictures of problems on any space: places with potentials as colours, and what is sent as lines.

Places are drawn by their coordinates; those on the sphere on a map; of a cost matrix alone the plan is drawn.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.geometry import Geometry
from metaot.geometry.costs import degrees
from metaot.potentials import DualPotentials, centred, marginal_error, plan
from metaot.problem import Problem

_LINES = 400
"""The most shipments that are drawn, the largest ones."""
_DOTS = 3000
"""The most customers that are drawn, those with the largest weights."""
_INCHES, _DPI = 4.2, 100
"""The side of a panel."""


@torch.no_grad()
def places_sheet(
    problem: Problem, exact: DualPotentials, guess: DualPotentials
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture with a row for each problem of a flat batch: predicted, exact, and their difference.

    Squares are sources and dots targets, with areas like their weights; the colour of a source is its potential;
    lines are the largest entries of the plan. ImportError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415, an extra
        from matplotlib.figure import Figure  # noqa: PLC0415, the same
    except ImportError as missing:
        raise ImportError("pictures need matplotlib: pip install 'metaot[plot]'") from missing
    like = torch.zeros((), dtype=torch.float64)
    problem = problem.to(like)
    guess, exact = (DualPotentials(pair.f.to(like), pair.g.to(like)) for pair in (guess, exact))
    count, points = len(problem.a), plane_coordinates(problem.geometry)
    height = _INCHES if points is None else _INCHES * _shape_of(np.concatenate(points))
    figure = Figure(figsize=(3 * _INCHES, count * (height + 0.3)), dpi=_DPI, layout="constrained")
    for k, row in enumerate(figure.subplots(count, 3, squeeze=False)):
        part = problem[k : k + 1]
        panels = _panels(part, guess[k : k + 1], exact[k : k + 1])
        for axes, panel in zip(row, panels, strict=True):
            axes.set_title(panel.title, fontsize=10)
            if points is None:
                _draw_matrix(axes, panel, panels[1].f)
                continue
            colours = _draw_places(axes, points, (part.a[0], part.b[0]), panel)
            if panel is not panels[0]:  # the first two have the same colours
                figure.colorbar(colours, ax=axes, shrink=0.8, pad=0.01)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class _Panel(NamedTuple):
    """What a panel shows: a title, f with the largest that a colour means, and a plan as shares of an entry."""

    title: str
    f: Float[Tensor, "n"]
    size: float
    P: Float[Tensor, "n m"]


def _panels(problem: Problem, guess: DualPotentials, exact: DualPotentials) -> list[_Panel]:
    """Return the panels of one problem."""
    has_mass = problem.a[0] > 0
    f, plans, titles = [], [], []
    for name, pair in (("predicted", guess), ("exact", exact)):
        f.append(centred(problem.a, pair.f)[0])
        plans.append(plan(problem, pair)[0])
        titles.append(f"{name}: L1 error {float(marginal_error(problem, pair)):.1e}")
    f.append(f[0] - f[1])
    size, largest = (float(part[has_mass].abs().amax()) or 1.0 for part in f[1:])
    titles.append(f"predicted - exact: f off by at most {largest:.1e}")
    shares = [P / plans[1].amax() for P in (*plans, plans[0] - plans[1])]
    return [_Panel(*parts) for parts in zip(titles, f, (size, size, largest), shares, strict=True)]


def plane_coordinates(geometry: Geometry) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "m 2"]] | None:
    """Return where places are drawn: longitude and latitude on the sphere, else their two widest directions.

    Places on a line are drawn on two lines, sources above targets. None for spaces without coordinates.
    """
    if geometry.points is None or geometry.batch_shape:
        return None
    x, y = (side.detach().double().cpu() for side in geometry.points)
    if geometry.cost_name == "sphere" and x.shape[-1] == 3:
        x, y = (torch.stack(degrees(side)[::-1], -1) for side in (x, y))
    elif x.shape[-1] == 1:
        height = 0.1 * float(torch.cat([x, y]).max() - torch.cat([x, y]).min()) + 1e-9
        x, y = torch.cat([x, torch.full_like(x, height)], -1), torch.cat([y, torch.zeros_like(y)], -1)
    elif x.shape[-1] > 2:
        both = torch.cat([x, y])
        directions = torch.linalg.svd(both - both.mean(0), full_matrices=False)[2][:2]
        x, y = ((side - both.mean(0)) @ directions.mT for side in (x, y))
    return x.numpy(), y.numpy()


def _shape_of(points: Float[np.ndarray, "count 2"]) -> float:
    """Return height over width of an area."""
    width, height = np.ptp(points, axis=0)
    return float(np.clip(height / max(width, 1e-12), 0.3, 2.0))


def _draw_places(axes: Any, points: Any, weights: Any, panel: _Panel) -> Any:
    """Draw shipments, and places above them; return what the colours are of."""
    from matplotlib.collections import LineCollection  # noqa: PLC0415, an extra

    (x, y), (a, b), entries = points, weights, panel.P.flatten()
    on_globe = bool(np.ptp(np.concatenate([x, y])[:, 0]) > 180)
    largest = entries.abs().topk(min(_LINES, len(entries))).indices
    size, less = entries[largest].abs().clamp(max=1).numpy(), entries[largest].numpy() < 0
    lines = np.stack([x[(largest // len(b)).numpy()], y[(largest % len(b)).numpy()]], 1)
    around = on_globe & (np.abs(lines[:, 0, 0] - lines[:, 1, 0]) > 180)
    colours = np.where(less[:, None], [0.84, 0.37, 0.0, 0.0], [0.25, 0.25, 0.25, 0.0])
    colours[:, 3] = 0.85 * np.sqrt(size) * ~around
    widths = 0.3 + 2.2 * size * min(1.0, (200 / len(b)) ** 0.5)
    axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=widths, zorder=1))
    shown = b.topk(min(_DOTS, len(b))).indices.numpy()
    dots = 3 + 40 * len(b) ** -0.5 * (b / b.amax()).numpy()[shown]
    axes.scatter(*y[shown].T, s=dots, color="#4a4a4a", linewidths=0, alpha=0.6, zorder=2)
    active = (a > 0).numpy()
    axes.set(xticks=[], yticks=[])
    axes.margins(0.05)
    axes.set_aspect("equal")
    return axes.scatter(
        *x[active].T, s=15 + 90 * (a / a.amax()).numpy()[active], c=panel.f.numpy()[active], cmap="coolwarm",
        vmin=-panel.size, vmax=panel.size, marker="s", edgecolors="black", linewidths=0.5, zorder=3,
    )  # fmt: skip


def _draw_matrix(axes: Any, panel: _Panel, exact: Float[Tensor, "n"]) -> None:
    """Draw a plan, or a difference of two, with rows by their exact potential and columns by their mean row."""
    order = exact.argsort()
    ranks, mass = order.argsort().to(panel.P), panel.P.abs()
    columns = ((ranks @ mass) / mass.sum(0).clamp_min(1e-300)).argsort()
    shown = panel.P[order][:, columns]
    axes.imshow((shown.sign() * shown.abs().sqrt()).numpy(), cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    axes.set(xticks=[], yticks=[], xlabel="targets", ylabel="sources")
