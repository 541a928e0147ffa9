"""Error against time, one small picture for each problem: the fastest method of each library at each accuracy."""

import math
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.discrete.methods.base import OURS, PEER, PEER_FROM_MODEL
from benchmarks.discrete.table import fastest

COLUMNS = 3
STYLES = {
    "metaot from the model": {"color": "#c1121f", "linewidth": 2.4, "marker": "o"},
    "metaot, best cold start": {"color": "#f28482", "linewidth": 2.4, "marker": "o"},
    "POT": {"color": "#1d3557", "marker": "s"},
    "OTT": {"color": "#2a9d8f", "marker": "^"},
    "RegOT": {"color": "#8338ec", "marker": "D"},
    "MDOT-TNT": {"color": "#b5838d", "marker": "v"},
    "GeomLoss": {"color": "#e09f3e", "marker": "P"},
    "best peer from our model": {"color": "#555555", "marker": "x", "linestyle": "--"},
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture."""
    families = list(results["families"].values())
    rows = -(-len(families) // COLUMNS)
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 2.25 * rows + 0.7), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06, hspace=0.04)
        grid = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
        for k, axes in enumerate(grid.flat):
            if k < len(families):
                _panel(axes, families[k], results["methods"])
            else:
                axes.axis("off")
            if k + COLUMNS >= len(families):
                axes.set_xlabel("ms (median)")
        for axes in grid[:, 0]:
            axes.set_ylabel("L1 error")
        figure.legend(handles=_handles(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        figure.savefig(path, dpi=200)


def _panel(axes: Axes, family: dict[str, Any], methods: dict[str, Any]) -> None:
    cells, size = family["cells"], family["size"]
    for label, style in STYLES.items():
        names = [name for name, kind in methods.items() if _belongs(label, name, kind)]
        points = []
        for target in next(iter(cells.values())):
            name = fastest(cells, target, names)
            if name:
                points.append((median(cells[name][target]["ms"]) / size, float(target)))
        if points:
            axes.plot(*zip(*points, strict=True), markersize=4, zorder=3 if "metaot" in label else 2, **style)
    title, _, detail = family["title"].partition(", eps")
    axes.set_title(f"{_short(title)}\neps{detail}", fontsize=8)
    axes.set(xscale="log", yscale="log", ylim=(3e-10, 3e-2), yticks=[1e-2, 1e-3, 1e-6, 1e-9])
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.5)
    _whole_decades(axes)


def _whole_decades(axes: Axes) -> None:
    """Show at least one whole decade of time, with ticks at its ends."""
    low, high = axes.get_xlim()
    axes.set_xlim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))


def _short(title: str) -> str:
    return title.replace("clouds of 1000 Gaussian points in dimension", "1000 Gaussian points, d =")


def _belongs(label: str, name: str, kind: dict[str, str]) -> bool:
    if label == "metaot from the model":
        return name in (label, "metaot from the universal model")
    if label == "metaot, best cold start":
        return kind["kind"] == OURS and not name.startswith("metaot from")
    if label == "best peer from our model":
        return kind["kind"] == PEER_FROM_MODEL
    return kind["kind"] == PEER and kind["library"] == label


def _handles() -> list[Line2D]:
    return [Line2D([], [], label=name, markersize=4, **style) for name, style in STYLES.items()]
