"""Draw the pictures of the start page: python docs/start/draw.py.

Writes transport.svg and amortized.svg beside it; the same bytes each time.
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import metaot
from metaot.tools import displacement_interpolation

HERE = Path(__file__).parent
SAND, HOLE, WAY = "#d9a441", "#7a8ba0", "#0072b2"
SIZE = 64


def draw_heaps(axes: Axes) -> None:
    """Draw heaps above a line, holes below it, and the cheapest plan as arrows."""
    heaps, holes = {0: 3, 1: 1, 3: 2}, {2: 2, 4: 1, 5: 3}
    grains, places = ([k for k, count in sides.items() for _ in range(count)] for sides in (heaps, holes))
    height = dict.fromkeys(heaps, 0)
    depth = dict.fromkeys(holes, 0)
    for start, end in zip(grains, places, strict=True):
        height[start] += 1
        depth[end] += 1
        top, bottom = (start + 0.5, height[start] - 0.5), (end + 0.5, 0.5 - depth[end])
        axes.add_patch(plt.Rectangle((start + 0.05, top[1] - 0.45), 0.9, 0.9, color=SAND))
        axes.add_patch(plt.Rectangle((end + 0.05, bottom[1] - 0.45), 0.9, 0.9, color=HOLE, fill=False))
        axes.annotate("", bottom, top, arrowprops={"arrowstyle": "->", "color": WAY, "shrinkA": 0, "shrinkB": 0})
    axes.axhline(0, color="k", linewidth=1)
    axes.set(xlim=(-0.2, 6.2), ylim=(-3.2, 3.2), aspect="equal")


def draw_points(axes: Axes) -> None:
    """Draw two clouds and the larger entries of the plan between them."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 14, 2, dtype=torch.float64, generator=generator)
    y = y + torch.tensor([4.0, 0.5])
    a, b = torch.rand(2, 14, dtype=torch.float64, generator=generator)
    problem = metaot.Problem(a / a.sum(), b / b.sum(), metaot.Points(x, y), eps=0.05)
    P = metaot.solve(problem).plan()
    for i, j in (P > 3e-3).nonzero().tolist():
        axes.plot([x[i, 0], y[j, 0]], [x[i, 1], y[j, 1]], color=WAY, linewidth=40 * float(P[i, j]), alpha=0.6)
    for cloud, weights, colour in ((x, problem.a, SAND), (y, problem.b, HOLE)):
        axes.scatter(*cloud.T.numpy(), s=1200 * weights.numpy(), color=colour, zorder=3, edgecolors="k")
    axes.set(aspect="equal")


def letter(text: str) -> torch.Tensor:
    """Return the pixels of a letter with mass one."""
    font = ImageFont.truetype(findfont("DejaVu Sans:bold"), 56)
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), text, 255, font, anchor="mm")
    pixels = torch.from_numpy(np.array(image, dtype=np.float64)).flatten()
    return pixels / pixels.sum()


def draw_predictions(pairs: list[str]) -> plt.Figure:
    """Draw for each pair of letters the pair, the predicted potential, and the image half-way."""
    a, b = (torch.stack([letter(pair[k]) for pair in pairs]) for k in (0, 1))
    problem = metaot.Problem(a, b, metaot.Grid(SIZE, SIZE), eps=1e-3)
    guess = metaot.load("universal").predict(problem)
    middle = displacement_interpolation(problem, guess, 0.5)
    columns = {
        "from": (a, "Greys"),
        "to": (b, "Greys"),
        "predicted: f": (guess.f, "RdBu"),
        "half-way": (middle, "Greys"),
    }
    figure, axes = plt.subplots(len(pairs), 4, figsize=(6.4, 1.65 * len(pairs)), layout="constrained")
    for k, line in enumerate(axes):
        for ax, (title, (values, colours)) in zip(line, columns.items(), strict=True):
            ax.imshow(values[k].reshape(SIZE, SIZE).numpy(), cmap=colours)
            ax.set(xticks=[], yticks=[], title=title if k == 0 else "")
    return figure


def main() -> None:
    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "metaot", "font.size": 11}
    torch.set_num_threads(1)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    draw_heaps(axes[0])
    draw_points(axes[1])
    for ax in axes:
        ax.axis("off")
    for name, drawn in (("transport", figure), ("amortized", draw_predictions(["OT", "SX", "CH"]))):
        drawn.savefig(HERE / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
