"""Supply and demand on the Earth: a map of shipments, and a day of 96 problems solved in three ways.

    python -m benchmarks.day [--checkpoint checkpoints/sphere] [--out benchmarks/results/sphere]

The places are the checkpoint's; coastlines are those of the raster in the data folder, or else of a synthetic
Earth. Writes map.png, day.png and day.json.
"""

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import metaot
from metaot.amortize import AmortizedPotential
from metaot.data import Deliveries
from metaot.data.sphere import World, hours_at, read_world
from metaot.geometry.costs import degrees
from metaot.tools import kilometres, shipments

TOL = 1e-6
DRAWN = 400
"""Customers whose largest shipment is on a map."""
SLOTS = 96
"""Problems of a day: one every quarter of an hour."""
WAYS = {"cold": "#6b6b6b", "previous": "#e69f00", "model": "#0072b2"}
"""Okabe and Ito's palette."""


def mercator(latitude: Tensor) -> Tensor:
    """Return the height of a latitude on the map, in degrees of longitude."""
    return torch.rad2deg(torch.asinh(torch.tan(torch.deg2rad(latitude))))


def great_circle(start: Tensor, end: Tensor, points: int = 48) -> Tensor:
    """Return unit vectors along the shortest way between two."""
    angle = 2 * torch.atan2((start - end).norm(), (start + end).norm())
    t = torch.linspace(0, 1, points, dtype=start.dtype)[:, None]
    if angle < 1e-9:
        return start.expand(points, 3)
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)


def draw_way(axes: Axes, start: Tensor, end: Tensor, **style: Any) -> None:
    """Draw a great circle; where it leaves the map in the east it comes back in the west."""
    latitude, longitude = degrees(great_circle(start, end))
    height = mercator(latitude)
    breaks = [0, *((longitude.diff().abs() > 180).nonzero()[:, 0] + 1).tolist(), len(longitude)]
    for first, last in pairwise(breaks):
        axes.plot(longitude[first:last], height[first:last], **style)


def draw_land(axes: Axes, world: World) -> None:
    """Fill the land of a world and draw its coast."""
    shown = (world.latitude > -58) & (world.latitude < 80)
    height, land = mercator(world.latitude[shown]), world.land[shown]
    axes.contourf(world.longitude, height, land, levels=[0.5, 2], colors=["#ece7dc"])
    axes.contour(world.longitude, height, land, levels=[0.5], colors=["#9a948a"], linewidths=0.3)
    axes.set(xlim=(-180, 180), ylim=tuple(mercator(torch.tensor([-56.0, 78.0])).tolist()), xticks=[], yticks=[])
    axes.set_aspect("equal")


def draw_shipments(axes: Axes, solution: metaot.Solution, seed: int = 0) -> None:
    """Draw who sends most to some customers, the same of each solution, in the colours of the suppliers."""
    problem, sent = solution.problem, shipments(solution, least=1e-9)
    drawn = torch.multinomial(problem.b, DRAWN, generator=torch.Generator().manual_seed(seed))
    x, y = problem.geometry.points
    active = problem.a.nonzero()[:, 0].tolist()
    colour = {supplier: f"C{k % 10}" for k, supplier in enumerate(active)}
    for customer in drawn.tolist():
        supplier = int(sent.supplier[sent.customer == customer][0])
        style = {"color": colour[supplier], "linewidth": 0.6, "alpha": 0.6, "solid_capstyle": "round"}
        draw_way(axes, x[supplier], y[customer], **style)
    latitude, longitude = degrees(x[active])
    axes.scatter(
        longitude, mercator(latitude), s=900 * problem.a[active], color=[colour[k] for k in active],
        edgecolors="black", linewidths=0.6, zorder=3,
    )  # fmt: skip


def predicted(problem: metaot.Problem, model: AmortizedPotential) -> metaot.Solution:
    """Return the bare prediction, as a solution after no step."""
    return metaot.solve(problem, init=model, tol=TOL, max_steps=0)


def draw_map(problem: metaot.Problem, model: AmortizedPotential, world: World, path: Path) -> None:
    """Draw the exact solution beside the prediction."""
    exact, guess = metaot.solve(problem, init=model, tol=TOL), predicted(problem, model)
    figure = Figure(figsize=(14, 4.3), dpi=110, layout="constrained")
    for axes, name, solution in zip(
        figure.subplots(1, 2), ("solved to 1e-6", "predicted"), (exact, guess), strict=True
    ):
        draw_land(axes, world)
        draw_shipments(axes, solution)
        length = kilometres(solution.cost()).item()
        axes.set_title(f"{name}: {length:.0f} km on average, L1 marginal error {solution.error.item():.1e}")
    figure.savefig(path)


def day(model: AmortizedPotential, seed: int = 0) -> list[metaot.Problem]:
    """Return 96 problems: demand follows the sun, all wanders, now and then a supplier stops or starts."""
    generator = torch.Generator().manual_seed(seed)
    first = Deliveries.on(model.geometry, 1, model.eps).sample(generator)[0]
    a, b, y = first.a.clone(), first.b.clone(), model.geometry.points[1]
    problems = []
    for slot in range(SLOTS):
        a = a * torch.exp(0.03 * torch.randn(a.shape, generator=generator, dtype=a.dtype))
        b = b * torch.exp(0.03 * torch.randn(b.shape, generator=generator, dtype=b.dtype))
        if slot % 8 == 7:
            k = int(torch.randint(len(a), (), generator=generator))
            a[k] = 0.0 if a[k] > 0 else a.sum() / len(a)
        demand = b * hours_at(y, 2 * math.pi * (0.5 - slot / SLOTS))
        problems.append(metaot.Problem(a / a.sum(), demand / demand.sum(), model.geometry, model.eps[0]))
    return problems


def solve_day(problems: list[metaot.Problem], model: AmortizedPotential) -> dict[str, dict[str, list[float]]]:
    """Solve each problem from nothing, from the solution before it, and from the model, in turns."""
    results: dict[str, dict[str, list[float]]] = {way: {"seconds": [], "steps": []} for way in WAYS}
    previous = None
    for problem in problems:
        for way, init in (("cold", None), ("previous", previous), ("model", model)):
            begin = perf_counter()
            solution = metaot.solve(problem, init=init, tol=TOL)
            results[way]["seconds"].append(perf_counter() - begin)
            results[way]["steps"].append(int(solution.steps))
            if way == "previous":
                previous = solution.potentials
    return results


def draw_day(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw time and steps of each problem of the day."""
    figure = Figure(figsize=(10, 5.4), dpi=120, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    clock = [24 * slot / SLOTS for slot in range(SLOTS)]
    for way, colour in WAYS.items():
        times = [1e3 * seconds for seconds in results[way]["seconds"]]
        label = f"{way}: median {median(times):.0f} ms, {sum(results[way]['steps']) / SLOTS:.1f} steps"
        top.plot(clock, times, color=colour, label=label, linewidth=1.2)
        bottom.plot(clock, results[way]["steps"], color=colour, linewidth=1.2)
    top.set(ylabel="ms to an error of 1e-6", yscale="log")
    top.legend(frameon=False, ncols=3, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    bottom.set(xlabel="hour of the day", ylabel="steps", xlim=(0, 24), ylim=(0, None))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", default="sphere", help="a folder, or a shipped name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sphere")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model, world = metaot.load(options.checkpoint), read_world("auto", options.data_dir)
    problem = Deliveries.on(model.geometry, 1, model.eps).sample(torch.Generator().manual_seed(0))[0]
    draw_map(problem, model, world, options.out / "map.png")

    problems = day(model)
    solve_day(problems[:2], model)  # warm-up
    results = solve_day(problems, model)
    for way, result in results.items():
        times = sorted(result["seconds"])
        steps = sum(result["steps"]) / SLOTS
        print(f"{way:9} {1e3 * median(times):6.1f} ms median, {1e3 * times[-5]:6.1f} ms p95, {steps:.1f} steps")
    fastest = min(WAYS, key=lambda way: median(results[way]["seconds"]))
    print(f"fastest over the day: {fastest}")
    draw_day(results, options.out / "day.png")
    (options.out / "day.json").write_text(json.dumps(results) + "\n")
    print(f"coastlines: {world.origin}; written to {options.out}: map.png, day.png and day.json")


if __name__ == "__main__":
    main()
