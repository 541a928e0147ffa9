"""Grids, coarse to fine: python -m benchmarks.scale grids.

Each problem is solved by `solve` from nothing and by accelerated Sinkhorn steps on the grid itself from zeros, as
`solve` did before; in turns, each timed solve after an untimed one of the problem before. Paintings of the data
folder, |x - y|^2 on the unit square; digits of MNIST, enlarged, where potentials have more detail; crossed bars;
drawn volumes. One thread, but two for the largest image, of which the memory is measured in a process of its own:
the most that it held, less what it held before the solve. The universal model: a solve from its prediction, which
counts, over one from nothing.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import metaot
from benchmarks.discrete.problems import paintings
from metaot import Grid, Problem, Sinkhorn
from metaot.data import Mnist

RESULTS = Path(__file__).parents[1] / "results" / "scale-grids.json"
SEED, TOLERANCES = 20261130, (1e-3, 1e-6, 1e-9)
PAIRS = {64: 12, 128: 8, 256: 5, 512: 2}
LARGE = {"image": (1024, 1024), "volume": (128, 128, 128)}


def painted(side: int, eps: float, count: int) -> list[Problem]:
    grid = Grid(side, side)
    found = (one.problem for one in paintings(SEED, count, side, eps, None))
    return [Problem(one.a, one.b, grid, eps) for one in found]


def digits(side: int, eps: float, count: int) -> list[Problem]:
    """Return pairs of test digits, enlarged; most of an image has no mass."""
    a, b = (Mnist(batch=count).split("test").weights(torch.Generator().manual_seed(SEED + k))[0] for k in (0, 1))
    images = [w.reshape(-1, 1, 28, 28) for w in (a, b)]
    larger = [torch.nn.functional.interpolate(each, (side, side), mode="bilinear").flatten(1) for each in images]
    a, b = (each / each.sum(-1, keepdim=True) for each in larger)
    grid = Grid(side, side)
    return [Problem(a[k], b[k], grid, eps) for k in range(count)]


def bars(side: int, eps: float, count: int) -> list[Problem]:
    """Return a horizontal and a vertical bar on a floor of a thousandth of the mass, at several places."""
    found = []
    for k in range(count):
        first = torch.full((side, side), 1e-3 / side**2, dtype=torch.float64)
        begin = side // 3 + k * side // (4 * count)
        first[begin : begin + side // 16] += 1 / (side * (side // 16))
        first /= first.sum()
        found.append(Problem(first.flatten(), first.mT.flatten(), Grid(side, side), eps))
    return found


def volume(side: int, generator: torch.Generator) -> Tensor:
    """Return the weights of a random density with detail of an eighth of the cube, and a little everywhere."""
    field = torch.rand(1, 1, 8, 8, 8, generator=generator, dtype=torch.float64)
    density = torch.nn.functional.interpolate(field, (side,) * 3, mode="trilinear").flatten() ** 3 + 1e-4
    return density / density.sum()


def volumes(side: int, eps: float, count: int) -> list[Problem]:
    generator = torch.Generator().manual_seed(SEED)
    return [
        Problem(*(volume(side, generator) for _ in range(2)), Grid(side, side, side), eps) for _ in range(count)
    ]


def compared(problems: list[Problem], tolerances: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Yield the ratio of times and the steps, for each accuracy."""
    for tol in tolerances:
        spent: dict[str, list[float]] = {"now": [], "before": []}
        steps: dict[str, list[int]] = {"now": [], "before": []}
        error = 0.0
        for last, problem in zip([problems[-1], *problems], problems, strict=False):
            for name, solver in (("now", None), ("before", Sinkhorn())):
                metaot.solve(last, solver=solver, tol=tol)
                begin = perf_counter()
                solution = metaot.solve(problem, solver=solver, tol=tol)
                spent[name].append(1e3 * (perf_counter() - begin))
                steps[name].append(int(solution.steps))
                error = max(error, float(solution.error))
        ratio = median(now / before for now, before in zip(spent["now"], spent["before"], strict=True))
        yield {
            "tol": tol, "ratio": round(ratio, 4), "error": error,
            "steps": {name: median(each) for name, each in steps.items()},
            "ms": {name: round(median(each), 3) for name, each in spent.items()},
        }  # fmt: skip


def model(side: int, eps: float) -> dict[str, Any]:
    """Compare a solve to 1e-3 from the universal model's prediction, whose time counts, with one from nothing."""
    universal, ratios, steps = metaot.load("universal"), [], []
    problems = painted(side, eps, PAIRS[side])

    def predicted(problem: Problem) -> metaot.Solution:
        f = universal.warm_start(problem)
        return metaot.solve(problem, init=(f, torch.zeros_like(f)), tol=1e-3)

    for last, problem in zip([problems[-1], *problems], problems, strict=False):
        times = []
        for call in (predicted, lambda one: metaot.solve(one, tol=1e-3)):
            call(last)
            begin = perf_counter()
            solution = call(problem)
            times.append(perf_counter() - begin)
            steps.append(int(solution.steps))
        ratios.append(times[0] / times[1])
    return {
        "side": side, "eps": eps, "ratio": round(median(ratios), 3),
        "steps": {"model": median(steps[::2]), "nothing": median(steps[1::2])},
    }  # fmt: skip


def large(name: str, eps: float, tol: float) -> dict[str, Any]:
    """Solve one large problem in this process, on two threads."""
    torch.set_num_threads(2)
    sizes, make = LARGE[name], {"image": painted, "volume": volumes}[name]
    metaot.solve(make(64, eps, 1)[0], tol=tol)
    problem = make(sizes[0], eps, 1)[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = perf_counter()
    solution = metaot.solve(problem, tol=tol)
    seconds = perf_counter() - begin
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "sizes": sizes, "eps": eps, "tol": tol, "seconds": round(seconds, 2), "steps": int(solution.steps),
        "error": float(solution.error), "MiB more": round((held - before) / 1024), "MiB": round(held / 1024),
    }  # fmt: skip


def apart(name: str, eps: float, tol: float) -> dict[str, Any]:
    """Measure `large` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale.grids", "--large", name, str(eps), str(tol)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


ROWS: list[tuple[str, Callable[[int, float, int], list[Problem]], int, float]] = [
    *(("paintings", painted, side, 1e-3) for side in (64, 128, 256, 512)),
    *(("paintings", painted, side, 1e-2) for side in (64, 128, 256)),
    *(("digits", digits, side, eps) for side in (64, 128) for eps in (1e-2, 1e-3)),
    ("bars", bars, 128, 1e-3),
    *(("volumes", volumes, 64, eps) for eps in (1e-2, 1e-3)),
]


def main(options: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", nargs=3, help=argparse.SUPPRESS)
    asked, _ = parser.parse_known_args(options)
    if asked.large:
        print(json.dumps(large(asked.large[0], float(asked.large[1]), float(asked.large[2]))))
        return
    torch.set_num_threads(1)
    rows = []
    for data, make, side, eps in ROWS:
        problems = make(side, eps, 2 if data == "volumes" else PAIRS[side])
        for found in compared(problems, TOLERANCES):
            rows.append({"data": data, "sizes": problems[0].geometry.sizes, "eps": eps, **found})
            print(rows[-1], flush=True)
    cases = [("image", 1e-3, 1e-3), ("image", 1e-3, 1e-6), ("volume", 1e-2, 1e-6), ("volume", 1e-3, 1e-6)]
    content = {
        "torch": torch.__version__, "seed": SEED, "rows": rows,
        "model": [model(side, eps) for side in (64, 128, 256) for eps in (1e-2, 1e-3)],
        "large": [apart(*case) for case in cases],
    }  # fmt: skip
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["large"] + content["model"]))


if __name__ == "__main__":
    main()
