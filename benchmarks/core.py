"""Times of solves against another version of metaot, row by row in turn, and against POT for large clouds.

    git worktree add /tmp/before f55a486    # and build its extension modules there
    python -m benchmarks.core --against /tmp/before

One thread. Each row is measured in both versions in turn, by a process of its own for each version; a row's ratio
is the median of the ratios of its rounds, each the median of its solves. Quick rows have more rounds and more
solves, so that neither a cold cache nor a moment's load decides. Images are drawn (`metaot.data`), and none of a
test split is used. `--pot` runs POT on 10 000 x 10 000 points: minutes and 2 GiB.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

RESULTS = Path(__file__).parent / "results" / "core.json"
ROUNDS, SOLVES = 5, 9
"""The fewest rounds of a row, and solves of a round."""
SPAN, EACH = 10.0, 0.2
"""Seconds that a row and a round take at least."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description=__doc__)
    parser.add_argument("--against", type=Path, help="the tree of the other version")
    parser.add_argument("--only", help="a part of the names of rows")
    parser.add_argument("--pot", action="store_true", help="POT on large clouds, and nothing else")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if options.serve:
        serve()
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.pot:
        found["large clouds"] = large_clouds()
    else:
        rows = compared(options.against, options.only or "")
        found["rows"] = {**found.get("rows", {}), **rows}
    found["machine"] = {"platform": platform.platform(), "python": platform.python_version(), "threads": 1}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def compared(other: Path | None, only: str) -> dict[str, Any]:
    """Measure all rows here, and in the other version if there is one."""
    trees = {"now": Path(__file__).parents[1]} | ({"before": other.resolve()} if other else {})
    servers = {name: _started(tree) for name, tree in trees.items()}
    rows: dict[str, Any] = {}
    for row in ROWS:
        if only not in row:
            continue
        times: dict[str, list[float]] = {name: [] for name in servers}
        begin = perf_counter()
        while len(times["now"]) < ROUNDS or perf_counter() - begin < SPAN:
            for name, server in servers.items():
                times[name].append(_asked(server, row))
        rows[row] = {name: round(1e3 * median(each), 4) for name, each in times.items()}
        if other:
            pairs = zip(times["now"], times["before"], strict=True)
            rows[row]["ratio"] = round(median(now / before for now, before in pairs), 3)
        print(row, rows[row], flush=True)
    for server in servers.values():
        server.terminate()
    return rows


def _started(tree: Path) -> "subprocess.Popen[str]":
    script = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.Popen(
        [sys.executable, str(script), "--serve"], cwd=tree, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def _asked(server: "subprocess.Popen[str]", row: str) -> float:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(row + "\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def serve() -> None:
    """Answer each row that is asked for with its median time, in seconds."""
    import torch  # noqa: PLC0415, after the threads are set

    torch.set_num_threads(1)
    kept: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        row = line.strip()
        if row not in kept:
            kept[row] = ROWS[row]()
            kept[row]()
        times: list[float] = []
        while len(times) < SOLVES or sum(times) < EACH:
            begin = perf_counter()
            kept[row]()
            times.append(perf_counter() - begin)
        print(median(times), flush=True)


def _images(side: int, count: int) -> Any:
    """Return drawn images as weights, batch side*side, of both measures."""
    import torch  # noqa: PLC0415

    from metaot.data.drawings import drawn_images  # noqa: PLC0415
    from metaot.data.images import as_weights  # noqa: PLC0415

    images = as_weights(drawn_images(2 * count, side, torch.Generator().manual_seed(5)).double())
    return images[:count], images[count:]


def _on_grid(side: int, count: int, eps: float, tol: float, *, model: bool) -> Callable[[], Any]:
    import metaot  # noqa: PLC0415

    a, b = _images(side, max(count, 9))
    init = metaot.load("universal") if model else None
    grid, turn = metaot.Grid(side, side), [0]
    if count > 1:
        batch = metaot.Problem(a[:count], b[:count], grid, eps)
        return lambda: metaot.solve(batch, init=init, tol=tol)
    singles = [metaot.Problem(a[k], b[k], grid, eps) for k in range(9)]

    def one() -> None:
        turn[0] = (turn[0] + 1) % 9
        metaot.solve(singles[turn[0]], init=init, tol=tol)

    return one


def _dense(size: int) -> Callable[[], Any]:
    import torch  # noqa: PLC0415

    import metaot  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    C = torch.rand(32, size, size, generator=generator, dtype=torch.float64)
    a, b = torch.rand(2, 32, size, generator=generator, dtype=torch.float64)
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    problem = metaot.Problem(a, b, metaot.Dense(C), 0.01)
    return lambda: metaot.solve(problem, tol=1e-3)


def _cloud(size: int, d: int, relative: float, tol: float) -> Callable[[], Any]:
    problem = _cloud_problem(size, d, relative)

    import metaot  # noqa: PLC0415

    return lambda: metaot.solve(problem(), tol=tol)


def _cloud_problem(size: int, d: int, relative: float) -> Callable[[], Any]:
    """Return what makes a problem between two Gaussian clouds anew, the second one shifted by one."""
    import torch  # noqa: PLC0415

    import metaot  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, d, generator=generator, dtype=torch.float64) + shift for shift in (0, 1))
    a, mean = torch.full((size,), 1 / size, dtype=torch.float64), 3.0 * d
    return lambda: metaot.Problem(a, a, metaot.Points(x, y), relative * mean)


def _exported(side: int) -> Callable[[], Any]:
    import metaot  # noqa: PLC0415

    a, b = (weights[:1].reshape(side, side).numpy() for weights in _images(side, 1))
    file = Path(tempfile.gettempdir()) / f"universal-{hash(metaot.__file__)}.onnx"
    if not file.exists():
        root = Path(metaot.__file__).parents[1]
        command = [sys.executable, "export.py", "checkpoints/universal", "--out", str(file)]
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    model = getattr(metaot, "OnnxUniversal", metaot.OnnxModel)(file)
    return lambda: model.predict(a, b, eps=0.01)


ROWS: dict[str, Callable[[], Callable[[], Any]]] = {
    "dense 50 x 50, 32 problems": lambda: _dense(50),
    "dense 200 x 200, 32 problems": lambda: _dense(200),
    "clouds 1000 x 1000, d = 2, to 1e-2": lambda: _cloud(1000, 2, 0.01, 1e-2),
    "clouds 1000 x 1000, d = 2, to 1e-3": lambda: _cloud(1000, 2, 0.01, 1e-3),
    "clouds 1000 x 1000, d = 64, to 1e-3": lambda: _cloud(1000, 64, 0.05, 1e-3),
    "predictor from an exported file, 64 x 64": lambda: _exported(64),
    "predictor from an exported file, 128 x 128": lambda: _exported(128),
    **{
        f"{'from the model' if model else 'cold'}, {count} of {side} x {side}, eps = {eps:g}": (
            lambda side=side, count=count, eps=eps, model=model: _on_grid(side, count, eps, 1e-3, model=model)
        )
        for side, count in ((28, 1), (28, 64), (64, 1), (64, 64), (128, 1), (128, 16), (256, 1))
        for eps in (1e-2, 1e-3)
        for model in (False, True)
    },
}


def large_clouds() -> dict[str, Any]:
    """Solve 10 000 x 10 000 points to 1e-3 by metaot and by POT; memory is what each takes beyond its start."""
    answers = {}
    for name in ("metaot", "POT"):
        code = f"from benchmarks.core import {name.lower()}_on_a_large_cloud as run; run()"
        done = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True)
        answers[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, answers[name], flush=True)
    answers["ratio"] = round(answers["metaot"]["seconds"] / answers["POT"]["seconds"], 3)
    return answers


def _memory() -> float:
    import resource  # noqa: PLC0415

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def metaot_on_a_large_cloud() -> None:
    import torch  # noqa: PLC0415

    import metaot  # noqa: PLC0415

    torch.set_num_threads(1)
    problem = _cloud_problem(10_000, 2, 0.01)()
    metaot.solve(_cloud_problem(200, 2, 0.01)(), tol=1e-3)
    before, begin = _memory(), perf_counter()
    solution = metaot.solve(problem, tol=1e-3)
    seconds, more = perf_counter() - begin, _memory() - before
    print(
        json.dumps({"seconds": seconds, "MiB": more, "steps": int(solution.steps), "error": float(solution.error)})
    )


def pot_on_a_large_cloud() -> None:
    """Run POT's Sinkhorn, its quickest method here, until the same error, which it tests every ten steps."""
    import numpy as np  # noqa: PLC0415
    import ot  # noqa: PLC0415

    problem = _cloud_problem(10_000, 2, 0.01)()
    a, x, y = problem.a.numpy(), problem.geometry.x.numpy(), problem.geometry.y.numpy()
    before, begin = _memory(), perf_counter()
    cost = ot.dist(x, y)
    _, log = ot.sinkhorn(a, a, cost, float(problem.eps), stopThr=1e-3 / np.sqrt(len(a)), log=True, numItermax=2000)
    seconds, more = perf_counter() - begin, _memory() - before
    u, v = log["u"], log["v"]
    error = float(np.abs(u * (np.exp(-cost / float(problem.eps)) @ v) - a).sum())
    print(json.dumps({"seconds": seconds, "MiB": more, "steps": int(log["niter"]), "error": error}))


if __name__ == "__main__":
    main()
