"""Solve one problem between two files: cost, bounds and how it went, a picture, and an archive of the solution."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaot.cli.options import new_file, positive, threads, whole
from metaot.folders import shipped, write_atomically
from metaot.measures import Measure, on_earth, read_array, read_measure, resampled

if TYPE_CHECKING:
    import torch

    import metaot

COSTS = ("sqeuclidean", "euclidean", "l1", "sphere")
_SIDE = 64
_SHARE = 0.01
"""The default eps, as a share of the mean cost."""
_SMALL_PLAN = 2**20
"""Entries up to which the plan is saved without being asked for."""
_LARGEST_MAP = 2**25
"""Entries of the largest plan that is drawn as a map."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = "a picture, a .npy array (weights, an image, or points in rows), or a .csv file of points"
    parser.add_argument("source", type=Path, help=files + " with an optional header and column weight")
    parser.add_argument("target", type=Path, help="the same; pictures are brought to the size of the source")
    parser.add_argument(
        "--eps", type=positive,
        help=f"temperature, in the units of the cost (default: {_SHARE} of the mean cost of random pairs)",
    )  # fmt: skip
    parser.add_argument("--cost", choices=COSTS, default="sqeuclidean", help="default: sqeuclidean, |x - y|^2")
    parser.add_argument(
        "--cost-matrix", type=Path, metavar="FILE.npy", help="the cost of each pair instead: (n, m), inf forbids"
    )
    parser.add_argument(
        "--init", metavar="MODEL",
        help="a model to start from: a folder, a name or an .onnx file; none for zeros (default: universal, for "
        "images and planar points with the squared distance)",
    )  # fmt: skip
    parser.add_argument("--tol", type=positive, default=1e-6, help="L1 error of the marginals (default: 1e-6)")
    parser.add_argument(
        "--max-steps", type=whole(0), default=10_000, help="at most so many steps (default: 10000)"
    )
    parser.add_argument(
        "--dark",
        action="store_true",
        help="darkness of a picture is mass (default: brightness), as of ink on paper",
    )
    parser.add_argument(
        "--side", type=whole(2), default=_SIDE,
        help=f"scale pictures down until their longer side has so many pixels (default: {_SIDE})",
    )  # fmt: skip
    parser.add_argument(
        "--points", action="store_true", help="rows of an array are points (default: where it has 2 or 3 columns)"
    )
    parser.add_argument(
        "--picture", type=new_file(".png", ".jpg", ".pdf", ".svg"), metavar="FILE.png",
        help="draw how images move, which points are matched, or the plan of weights",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=new_file(".npz"),
        metavar="FILE.npz",
        help="save f, g, cost, bounds, error, steps and the plan",
    )
    parser.add_argument("--plan", action="store_true", help="save the plan even where it has many entries")
    parser.add_argument("--threads", type=threads, help="threads (default: all cores)")


def run(options: argparse.Namespace) -> None:
    _require_outputs(options)
    source, target = _measures(options)
    if options.picture:
        from metaot.cli import drawing  # noqa: F401, PLC0415, matplotlib is an extra; asked for before the work
    import torch  # noqa: PLC0415, takes longer than reading

    import metaot  # noqa: PLC0415, the same

    if options.threads:
        torch.set_num_threads(options.threads)
    a, b = torch.from_numpy(source.weights), torch.from_numpy(target.weights)
    geometry, space = _geometry(source, target, options)
    eps, reason = (options.eps, "") if options.eps else _default_eps(a, b, geometry)
    problem = metaot.Problem(a, b, geometry, eps)
    init, start = _start(options.init, source, geometry, options)
    solution = metaot.solve(problem, init=init, tol=options.tol, max_steps=options.max_steps)
    bounds = solution.bounds()
    print(f"{source}\n{target}\n{space}\neps        {eps:.6g}{reason}\nstart      {start}")
    print(f"cost       {float(solution.cost()):.8g}, <C, P> of the regularised plan")
    print(f"bounds     {float(bounds.lower):.8g} to {float(bounds.upper):.8g}, of the cost without regularisation")
    print(f"status     {_status(solution, options)}")
    if options.out:
        _save(solution, bounds, options)
        print(f"saved      {options.out}")
    if options.picture:
        _draw(solution, source, target, options)
        print(f"drawn      {options.picture}")


def _require_outputs(options: argparse.Namespace) -> None:
    """Raise ValueError where a result would replace what is read."""
    read = [path.resolve() for path in (options.source, options.target, options.cost_matrix) if path is not None]
    for path in (options.out, options.picture):
        if path is not None and path.resolve() in read:
            raise ValueError(f"{path} is read: name another file for the result")


def _measures(options: argparse.Namespace) -> tuple[Measure, Measure]:
    """Read both files; bring pictures to one size. Raise ValueError where the two do not fit each other."""
    given = read_measure(options.source, points=options.points, dark=options.dark)
    other = read_measure(options.target, points=options.points, dark=options.dark)
    if options.cost_matrix is None and given.kind != other.kind:
        raise ValueError(
            f"{given}, but {other}: both must be of one kind; --points reads the rows of an array as points, and "
            "--cost-matrix FILE.npy takes any two"
        )
    if given.kind == "image" == other.kind:
        given, other = _of_one_size(given, other, options.side)
    if options.cost_matrix is None and given.kind != "points" and given.mass.shape != other.mass.shape:
        raise ValueError(
            f"{given}, but {other}: give arrays of one size, or the cost of each pair with --cost-matrix FILE.npy"
        )
    if options.cost == "sphere" and given.kind == "points":
        return on_earth(given), on_earth(other)
    return given, other


def _of_one_size(source: Measure, target: Measure, side: int) -> tuple[Measure, Measure]:
    """Scale pictures: the source down to `side`, the target to the size of the source; arrays keep theirs."""
    height, width = source.mass.shape
    if source.is_picture and max(height, width) > side:
        ratio = side / max(height, width)
        height, width = max(1, round(ratio * height)), max(1, round(ratio * width))
        source = resampled(source, (height, width))
    return source, resampled(target, (height, width)) if target.is_picture else target


def _geometry(source: Measure, target: Measure, options: argparse.Namespace) -> tuple[Any, str]:
    """Return the space of the problem, and a line on it."""
    import torch  # noqa: PLC0415, as above

    import metaot  # noqa: PLC0415, the same

    cost = options.cost
    if options.cost_matrix is not None:
        C, wanted = read_array(options.cost_matrix), (source.mass.size, target.mass.size)
        if C.shape != wanted:
            raise ValueError(f"{options.cost_matrix} has the shape {C.shape}, wanted is {wanted}")
        return metaot.Dense(torch.from_numpy(C)), f"space      costs of {options.cost_matrix.name}"
    if source.points is not None and target.points is not None:
        if source.points.shape[1] != target.points.shape[1]:
            raise ValueError(f"{source}, but {target}: points must have as many coordinates")
        if cost == "l1":
            raise ValueError("--cost l1 is for images and weights; of points: sqeuclidean, euclidean or sphere")
        x, y = torch.from_numpy(source.points), torch.from_numpy(target.points)
        unit = ", cost in radians" if cost == "sphere" else ""
        return metaot.Points(x, y, cost), f"space      points in {x.shape[1]} dimensions, cost {cost}{unit}"
    if cost not in ("sqeuclidean", "l1"):
        raise ValueError(f"--cost {cost} is for points; of images and weights: sqeuclidean or l1")
    longest = max(1, *(size - 1 for size in source.mass.shape))
    axes = [torch.linspace(0, (size - 1) / longest, size, dtype=torch.float64) for size in source.mass.shape]
    return metaot.Grid(*axes, cost=cost), f"space      the longer side has length 1, cost {cost}"


def _default_eps(a: "torch.Tensor", b: "torch.Tensor", geometry: "metaot.Geometry") -> tuple[float, str]:
    """Return a share of the mean cost between independent atoms, or of the mean of the allowed pairs."""
    mean = float(geometry.mean_cost(a, b))
    if not math.isfinite(mean):
        costs = geometry.cost_rows(slice(None))
        mean = float(costs[costs.isfinite()].abs().mean())
    if not mean > 0:  # all in one place, or costs that cancel
        return _SHARE, ""
    return float(f"{_SHARE * mean:.3g}"), f" = {_SHARE} of the mean cost {mean:.3g}; --eps sets another one"


def _start(name: str | None, source: Measure, geometry: Any, options: argparse.Namespace) -> tuple[Any, str]:
    """Return the predictor to start from, or None, and words on it."""
    import metaot  # noqa: PLC0415, as above

    planar = options.cost_matrix is None and options.cost == "sqeuclidean" and geometry.points[0].shape[-1] == 2
    if name is None:
        name = "universal" if planar and "universal" in shipped() else "none"
    if name == "none":
        return None, "zeros"
    return metaot.load(name), f"prediction of {name}, replaced by zeros where that is better"


def _status(solution: "metaot.Solution", options: argparse.Namespace) -> str:
    name = solution.status.name.lower().replace("_", " ")
    methods = " and ".join(dict.fromkeys(type(each).__name__ for each in solution.solvers)) or "no method"
    words = f"{name}, L1 error {float(solution.error):.2g} after {int(solution.steps)} steps of {methods}"
    if name == "converged":
        return f"{words} (asked for: {options.tol:g})"
    return f"{words}: not at {options.tol:g}; try a larger --eps, --tol or --max-steps"


def _save(solution: "metaot.Solution", bounds: Any, options: argparse.Namespace) -> None:
    problem = solution.problem
    content: dict[str, Any] = {
        "f": solution.potentials.f, "g": solution.potentials.g, "a": problem.a, "b": problem.b,
        "cost": solution.cost(), "lower": bounds.lower, "upper": bounds.upper,
        "eps": problem.eps, "error": solution.error, "steps": solution.steps,
    }  # fmt: skip
    if options.plan or math.prod(problem.geometry.shape) <= _SMALL_PLAN:
        content["plan"] = solution.plan()
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in content.items()}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays, status=np.asarray(solution.status.name.lower()))

    write_atomically(options.out, write)


def _draw(solution: "metaot.Solution", source: Measure, target: Measure, options: argparse.Namespace) -> None:
    from metaot.cli import drawing  # noqa: PLC0415, an extra

    if options.cost_matrix is not None or source.kind == "weights":
        drawing.draw_plan(solution, (source.name, target.name), options.picture)
    elif source.kind == "image":
        drawing.draw_images(solution, (source, target), options.picture, dark=options.dark)
    else:
        drawing.draw_points(solution, (source, target), options.picture)
