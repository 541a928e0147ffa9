"""The picture of `populations`: how much of theta is recovered from Gaussian samples, with the theory's lines."""

from itertools import product
from pathlib import Path
from typing import Any

Results = dict[str, Any]
_LOSSES = {"gradients": ("o", "-"), "values": ("s", "--")}
_COLOURS = {0.3: "#2060a0", 1.0: "#d07020"}


def draw(results: Results, path: Path) -> None:
    """Write the picture: sparse theta against the number of samples, and theta of rank one against an angle."""
    from matplotlib.figure import Figure  # noqa: PLC0415, an extra

    figure = Figure(figsize=(10, 7), layout="constrained")
    (wrong, error), (certificate, rank) = figure.subplots(2, 2)
    for sigma, (loss, (marker, style)) in product(_COLOURS, _LOSSES.items()):
        rows = [row for row in results["sparse"] if (row["sigma"], row["loss"]) == (sigma, loss)]
        n, look = [row["n"] for row in rows], {"marker": marker, "ls": style, "color": _COLOURS[sigma], "ms": 4}
        label = f"{loss}, sigma {sigma:g}: certificate {rows[0]['certificate']:.2f}"
        wrong.plot(n, [row["wrong"] for row in rows], label=label, **look)
        error.plot(n, [row["error"] for row in rows], **look)
    rates = [row["theory"] * rows[0]["error"] / rows[0]["theory"] for row in rows]
    error.plot(n, rates, color="black", ls=":", label="theory: sqrt(log n / n)")
    wrong.set(xscale="log", yscale="symlog", ylim=(0, 400), ylabel="wrong positions of 100", title="sparse theta")
    error.set(xscale="log", yscale="log", ylabel="relative error", title="sparse theta")
    for loss, (marker, style) in _LOSSES.items():
        rows = [row for row in results["rank one"] if row["loss"] == loss]
        look = {"marker": marker, "ls": style, "color": "#208050", "ms": 4, "label": loss}
        certificate.plot([row["angle"] for row in rows], [row["certificate"] for row in rows], **look)
        rank.plot([row["angle"] for row in rows], [row["rank one"] / results["draws"] for row in rows], **look)
    certificate.axhline(1, color="black", ls=":", label="theory: recovered below one")
    certificate.set(ylabel="certificate at r = infinity", title="theta of rank one", ylim=0)
    rank.set(ylabel="share of draws of rank one", title="theta of rank one", ylim=(-0.05, 1.05))
    for panel in (wrong, error):
        panel.set(xlabel="samples at each time")
    for panel in (certificate, rank):
        panel.set(xlabel="angle of the population's long axis and theta's")
    for panel in (wrong, error, certificate, rank):
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=110)
