"""Supply and demand on the sphere: python -m benchmarks.sphere [--mlp RUN] [--peers N] [--instances N].

The shipped checkpoint on test problems of the paper's distribution and on demand patterns that training never saw.
Cold is `solve` from nothing: accelerated Sinkhorn, and Newton if that takes long. Starts take turns,
the network's time counts, one thread, float64, L1 marginal error tested at every step. OTT-JAX and POT (`pip
install 'metaot[peers]'`) get the suppliers that have something only, and few problems, as they take minutes; right
before and after each, `solve` is timed on the same problem. `--mlp` names a run of the recipe `sphere-mlp`.
Results go to benchmarks/results/sphere.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, quantiles
from time import perf_counter, process_time
from typing import Any

import torch

import metaot
from benchmarks.tables import sphere as tables
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import annotate, read_card
from metaot.data import Deliveries
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem

RESULTS = Path(__file__).parent / "results" / "sphere"
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "sphere"
SEED = 20261122
TOLERANCES = (1e-3, 1e-6, 1e-9)
BATCH = 64
POT_STEPS = 100
"""Steps of POT after which the rest of its time is estimated from one step: it would take an hour."""


def measure(
    model: AmortizedPotential, mlp: AmortizedPotential | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Return all numbers."""
    content: dict[str, Any] = {
        "machine": {
            "platform": platform.platform(),
            "torch": torch.__version__,
            "threads": 1,
            "load": os.getloadavg(),
        },
        "places": read_card(CHECKPOINT).get("places", "unknown"),
        "instances": options.instances,
    }
    for name, patterns in (("uniform", False), ("patterns", True)):
        problems = drawn(model, options.instances, patterns=patterns)
        content[name] = {
            "quality": {stage: quality(problems, f) for stage, f in stages(model, mlp, problems).items()},
            "solve": solved(problems, model),
        }
    content["batch"] = batch(model)
    if options.peers == 0 and (RESULTS / "results.json").exists():
        content["peers"] = json.loads((RESULTS / "results.json").read_text())["peers"]
        return content
    content["peers"] = [peers(drawn(model, options.peers)[k], model, mlp) for k in range(options.peers)]
    return content


def drawn(model: AmortizedPotential, count: int, *, patterns: bool = False) -> Problem:
    """Draw test problems on the places of a checkpoint."""
    problems = Deliveries.on(model.geometry, count, model.eps, patterns=patterns)
    return problems.sample(torch.Generator().manual_seed(SEED))


def stages(
    model: AmortizedPotential, mlp: AmortizedPotential | None, problem: Problem
) -> dict[str, DualPotentials]:
    """Return what the network says, what the groups make of it, and what the network of the paper says."""
    network, prediction = model.stages(problem)
    named = {"network": network, "prediction": prediction}
    if mlp is not None:
        named["paper's network"] = mlp.predict(problem).f
    return {name: DualPotentials.from_f(problem, f) for name, f in named.items()}


def quality(problem: Problem, guess: DualPotentials) -> dict[str, float]:
    """Return L1 marginal error and relative dual gap, mean and largest."""
    exact = metaot.solve(problem, tol=1e-9).value
    gap, error = (exact - dual_value(problem, guess)) / exact.abs(), marginal_error(problem, guess)
    return {
        "error": error.mean().item(), "largest_error": error.max().item(),
        "gap": gap.mean().item(), "largest_gap": gap.max().item(),
    }  # fmt: skip


def solved(problems: Problem, model: AmortizedPotential) -> dict[str, Any]:
    """Solve one problem after the other, cold and from the model, in turns."""
    starts = {"cold": None, "model": model}
    for start in starts.values():
        metaot.solve(problems[0], init=start, tol=1e-9)
    runs: dict[str, dict[str, list[float]]] = {}
    for k in range(len(problems.a)):
        for tol in TOLERANCES:
            for name, start in starts.items():
                begin = process_time()
                seconds, solution = timed(lambda k=k, s=start, t=tol: metaot.solve(problems[k], init=s, tol=t))
                run = runs.setdefault(f"{name} {tol:g}", {"seconds": [], "processor": [], "steps": []})
                run["processor"].append(process_time() - begin)
                run["seconds"].append(seconds)
                run["steps"].append(int(solution.steps))
                assert bool(solution.converged)
        seconds, _ = timed(lambda k=k: model.warm_start(problems[k]))
        runs.setdefault("prediction", {"seconds": []})["seconds"].append(seconds)
    more = [
        warm - cold for warm, cold in zip(runs["model 1e-09"]["steps"], runs["cold 1e-09"]["steps"], strict=True)
    ]
    ratios = {
        f"{tol:g}": median(
            warm / cold
            for warm, cold in zip(runs[f"model {tol:g}"]["seconds"], runs[f"cold {tol:g}"]["seconds"], strict=True)
        )
        for tol in TOLERANCES
    }
    return {
        "runs": {name: summary(run) for name, run in runs.items()},
        "ratio": ratios,
        "most_steps_more": max(more),
    }


def summary(run: dict[str, list[float]]) -> dict[str, float]:
    """Return median and p95 of times in milliseconds, mean and largest number of steps."""
    times = [1e3 * seconds for seconds in run["seconds"]]
    result = {"median_ms": median(times), "p95_ms": quantiles(times, n=20)[-1], "lowest_ms": min(times)}
    if "steps" in run:
        result |= {"steps": mean(run["steps"]), "most_steps": max(run["steps"])}
        result["processor_ms"] = 1e3 * median(run["processor"])
    return result


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = perf_counter()
    result = run()
    return perf_counter() - begin, result


def batch(model: AmortizedPotential) -> dict[str, dict[str, float]]:
    """Return milliseconds, on the clock and of the processor, for each problem of a batch of 64 to 1e-6."""
    problems, result = drawn(model, BATCH), {}
    for name, start in (("cold", None), ("model", model)):
        begin = process_time()
        seconds, _ = timed(lambda s=start: metaot.solve(problems, init=s, tol=1e-6))
        used = process_time() - begin
        result[name] = {"ms": 1e3 * seconds / BATCH, "processor_ms": 1e3 * used / BATCH}
    return result


def peers(problem: Problem, model: AmortizedPotential, mlp: AmortizedPotential | None) -> dict[str, Any]:
    """Time OTT-JAX and POT on one problem to 1e-3, on the suppliers that have something."""
    import jax  # noqa: PLC0415, an extra

    from metaot.adapters import ott, pot  # noqa: PLC0415

    jax.config.update("jax_enable_x64", True)
    small, active = on_active(problem)

    def f_of(start: AmortizedPotential | None) -> DualPotentials:
        f = torch.zeros_like(small.a) if start is None else start.predict(problem).f[active]
        return DualPotentials(f, torch.zeros_like(small.b))

    def by_ott(start: AmortizedPotential | None) -> Any:
        return ott.sinkhorn(small, init=f_of(start), tol=1e-3, max_steps=20_000)

    ott.sinkhorn(small, init=metaot.solve(small, tol=1e-9).potentials, tol=1e-3, max_steps=20_000)  # compiled
    results: dict[str, Any] = {"active": len(active), "before": ours(problem, model)}
    starts = {"OTT cold": None, "OTT from the prediction": model}
    if mlp is not None:
        starts["OTT from the paper's network"] = mlp
    for name, start in starts.items():
        seconds, solution = timed(lambda s=start: by_ott(s))
        results[name] = {"seconds": seconds, "steps": int(solution.steps), "error": solution.error.item()}
        print(name, results[name], flush=True)
    seconds, solution = timed(lambda: pot.sinkhorn(small, method="sinkhorn_log", tol=1e-3, max_steps=POT_STEPS))
    results["POT sinkhorn_log, cut off"] = {
        "seconds": seconds, "steps": int(solution.steps), "error": solution.error.item(),
    }  # fmt: skip
    seconds, _ = timed(lambda: pot.emd(small))
    results["POT emd, exact without eps"] = {"seconds": seconds}
    results["after"] = ours(problem, model)
    return results


def on_active(problem: Problem) -> tuple[Problem, torch.Tensor]:
    """Return the problem with the suppliers that have something."""
    active = problem.a.nonzero()[:, 0]
    x, y = problem.geometry.points
    return Problem(problem.a[active], problem.b, metaot.Points(x[active], y, "sphere"), problem.eps), active


def ours(problem: Problem, model: AmortizedPotential) -> dict[str, float]:
    """Return the seconds of `solve` to 1e-3, the median of five in turns."""
    runs: dict[str, list[float]] = {"cold": [], "model": []}
    for _ in range(5):
        for name, start in (("cold", None), ("model", model)):
            runs[name].append(timed(lambda s=start: metaot.solve(problem, init=s, tol=1e-3))[0])
    return {name: median(times) for name, times in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instances", type=int, default=64)
    parser.add_argument("--peers", type=int, default=2, help="problems for OTT and POT; 0 keeps their results")
    parser.add_argument("--mlp", type=Path, help="a run of the recipe sphere-mlp")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = metaot.load(CHECKPOINT)
    content = measure(model, None if options.mlp is None else metaot.load(options.mlp), options)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    runs = content["uniform"]["solve"]["runs"]
    steps = {name: runs[f"model {name}"]["steps"] for name in ("0.001", "1e-09")}
    annotate(
        CHECKPOINT, test={"data": "Sphere", "quality": content["uniform"]["quality"]["prediction"], "steps": steps}
    )
    for make in (tables.sphere_times, tables.sphere_ratios, tables.sphere_predictions, tables.sphere_peers):
        print(f"{make().markdown()}\n")


if __name__ == "__main__":
    main()
