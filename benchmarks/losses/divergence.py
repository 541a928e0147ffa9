"""Sinkhorn divergences: over one plain solve, over GeomLoss and OTT, and within a training.

Value and gradient of two clouds. Each method reaches a relative error of the value of 1e-3: GeomLoss by the
fastest of its `scaling`s that does so on the first instance, OTT by its threshold on the marginal error, as ours
(both 1e-3, which is far more than is asked). All in float64; GeomLoss in float32, too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import metaot
from metaot.data import Drawings
from metaot.losses import SinkhornLoss, sinkhorn_divergence, solve_divergence

OUT = Path("benchmarks/results/losses-divergence.json")
COUNT, INSTANCES, TOL, SHARE = 2000, 3, 1e-3, 0.03
"""Points of a cloud, instances, the tolerance, and eps as a share of the mean cost."""
OVER_ONE_SOLVE, CARRIED, OVER_PEERS = 1.6, 0.4, 0.25
"""Floors: a divergence over one solve, a warm call over a cold one, and a cold one over the best peer's."""
SCALINGS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
STEPS, RATE = 8, 0.05

Run = Callable[[Tensor, Tensor, float], tuple[float, Tensor]]


def clouds(dim: int, seed: int, count: int = COUNT) -> tuple[Tensor, Tensor, float]:
    """Return two clouds in d dimensions, and eps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(count, dim, generator=generator, dtype=torch.float64) * 0.7 + 0.5
    eps = SHARE * float(torch.cdist(x[:200], y[:200]).square().mean())
    return x, y, eps


def seconds(run: Callable[[], Any]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def ours(x: Tensor, y: Tensor, eps: float) -> tuple[float, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = SinkhornLoss(eps, tol=TOL)(x, y)
    value.backward()
    assert x.grad is not None
    return value.item(), x.grad


def geomloss(scaling: float, dtype: torch.dtype) -> Run:
    from geomloss import SamplesLoss  # noqa: PLC0415, where it is installed

    def run(x: Tensor, y: Tensor, eps: float) -> tuple[float, Tensor]:
        loss = SamplesLoss("sinkhorn", p=2, blur=(eps / 2) ** 0.5, scaling=scaling, backend="tensorized")
        x, y = x.detach().clone().to(dtype).requires_grad_(), y.to(dtype)
        value = 2 * loss(x, y)
        value.backward()
        assert x.grad is not None
        return value.item(), x.grad

    return run


def ott() -> Run:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    from ott.geometry import pointcloud  # noqa: PLC0415
    from ott.tools.sinkhorn_divergence import sinkhorn_divergence as divergence  # noqa: PLC0415

    jax.config.update("jax_enable_x64", True)

    def value(x: Any, y: Any, eps: Any) -> Any:
        found = divergence(
            pointcloud.PointCloud, x, y, epsilon=eps, relative_epsilon=None, solve_kwargs={"threshold": TOL}
        )
        return found[0] if isinstance(found, tuple) else found.divergence

    both = jax.jit(jax.value_and_grad(value))

    def run(x: Tensor, y: Tensor, eps: float) -> tuple[float, Tensor]:
        found, slope = both(jnp.asarray(x.numpy()), jnp.asarray(y.numpy()), eps)
        return float(found), torch.tensor(jax.device_get(slope))

    return run


def peers(x: Tensor, y: Tensor, eps: float, exact: float) -> dict[str, Run | str]:
    """Return the methods of other libraries, or why one is missing."""
    found: dict[str, Run | str] = {}
    for name, dtype in (("GeomLoss, float64", torch.float64), ("GeomLoss, float32", torch.float32)):
        try:
            for scaling in SCALINGS:
                run = geomloss(scaling, dtype)
                if abs(run(x, y, eps)[0] - exact) <= TOL * exact:
                    found[f"{name}, scaling {scaling}"] = run
                    break
            else:
                found[name] = "the tolerance is not reached"
        except ImportError:
            found[name] = "not installed"
    try:
        run = ott()
        error = abs(run(x, y, eps)[0] - exact) / exact
        found["OTT"] = run if error <= TOL else f"relative error {error:.1e}"
    except ImportError:
        found["OTT"] = "not installed"
    return found


def cold(dim: int) -> list[dict[str, Any]]:
    """Time value and gradient from nothing."""
    problems = [clouds(dim, seed) for seed in range(INSTANCES)]
    exact = [exact_value(*problem) for problem in problems]
    methods: dict[str, Run | str] = {"metaot": ours, **peers(*problems[0], exact[0])}
    rows = []
    for name, run in methods.items():
        if isinstance(run, str):
            rows.append({"d": dim, "method": name, "why": run})
            continue
        run(*problems[0])
        times, errors = [], []
        for problem, value in zip(problems, exact, strict=True):
            start = perf_counter()
            found, _ = run(*problem)
            times.append(perf_counter() - start)
            errors.append(abs(found - value) / value)
        rows.append({"d": dim, "method": name, "seconds": median(times), "error": max(errors)})
    for row in rows:
        if "seconds" in row:
            row["ratio"] = rows[0]["seconds"] / row["seconds"]
    return rows


def exact_value(x: Tensor, y: Tensor, eps: float) -> float:
    weights = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    return float(sinkhorn_divergence(metaot.Problem(weights, weights, metaot.Points(x, y), eps), tol=1e-8))


def training(dim: int) -> dict[str, Any]:
    """Time a training's steps with potentials carried over, and the same without."""
    x, y, eps = clouds(dim, 0)
    losses = {"carried": SinkhornLoss(eps, tol=TOL), "cold": SinkhornLoss(eps, tol=TOL, remembers=False)}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(STEPS + 1):
        x = x.detach().requires_grad_()
        for name, loss in losses.items():

            def step(x: Tensor = x, loss: SinkhornLoss = loss) -> None:
                x.grad = None
                loss(x, y).backward()

            times[name].append(seconds(step))
        assert x.grad is not None
        x = (x - RATE * len(x) * x.grad).detach()
    carried, without = (median(times[name][1:]) for name in losses)
    return {"d": dim, "carried": carried, "cold": without, "ratio": carried / without}


def over_one_solve() -> list[dict[str, Any]]:
    """Time a divergence over the solve between both measures alone."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    problems: dict[str, metaot.Problem] = {}
    for dim in (2, 64):
        for count in (500, COUNT):
            x, y, eps = clouds(dim, 0, count)
            weights = torch.full((count,), 1 / count, dtype=torch.float64)
            problems[f"clouds of {count}, d = {dim}"] = metaot.Problem(weights, weights, metaot.Points(x, y), eps)
    for side, eps in ((28, 1e-2), (28, 1e-3), (64, 1e-2), (64, 1e-3)):
        drawn = Drawings(batch=2, eps=(1e-2, 1e-2), sides=(side,)).split("test").sample(generator).a.double()
        a, b = drawn / drawn.sum(-1, keepdim=True)
        problems[f"images {side} x {side}, eps {eps:g}"] = metaot.Problem(a, b, metaot.Grid(side, side), eps)
    for name, problem in problems.items():
        for tol in (1e-3, 1e-6):
            plain = lambda problem=problem, tol=tol: metaot.solve(problem, tol=tol)  # noqa: E731
            whole = lambda problem=problem, tol=tol: solve_divergence(problem, tol=tol)  # noqa: E731
            times = [(seconds(plain), seconds(whole)) for _ in range(12)][1:]
            one, all_three = (median(column) for column in zip(*times, strict=True))
            rows.append(
                {"problem": name, "tol": tol, "solve": one, "divergence": all_three, "ratio": all_three / one}
            )
    return rows


def missed(row: dict[str, Any], floor: float) -> str:
    return "" if row["ratio"] <= floor else " MISSED"


def main() -> None:
    rows = over_one_solve()
    results: dict[str, Any] = {"over one solve": rows, "threads": torch.get_num_threads()}
    print(f"a divergence over one solve (floor {OVER_ONE_SOLVE})")
    for row in rows:
        print(
            f"{row['problem']:30} tol {row['tol']:g}: {row['ratio']:.2f}{missed(row, OVER_ONE_SOLVE)}", flush=True
        )
    results["training"] = [training(dim) for dim in (2, 64)]
    print(f"value and gradient in a training, carried over cold (floor {CARRIED})")
    for row in results["training"]:
        print(f"d = {row['d']}: {row['ratio']:.2f}{missed(row, CARRIED)} (cold {row['cold']:.3f} s)", flush=True)
    results["cold"] = []
    print(f"value and gradient, cold, over others (floor {OVER_PEERS})")
    for dim in (2, 64):
        results["cold"] += (found := cold(dim))
        for row in found:
            words = row.get("why") or f"{row['seconds']:.3f} s, error {row['error']:.0e}"
            if "ratio" in row and row is not found[0]:
                words += f", ours over it {row['ratio']:.3f}{missed(row, OVER_PEERS)}"
            print(f"d = {dim}: {row['method']}: {words}", flush=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")
