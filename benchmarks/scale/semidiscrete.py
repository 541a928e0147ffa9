"""A distribution against a data set: python -m benchmarks.scale semidiscrete [--quick].

The problem of the tutorial of OTT (docs/tutorials/linear/950_semidiscrete.ipynb): 96 points on a thick half
circle, in benchmarks/results/scale-semidiscrete-points.json as its code makes them from jax.random.key(0), against
the standard normal distribution, |x - y|^2, no temperature. Its solver, stochastic ascent from zeros in batches of
128 with a running mean, is repeated here in torch with several learning rates, for as many steps. The chi-squared
error of each result is measured on millions of fresh samples; seconds are those of the processor, on one thread.

6000 and 60 000 images of MNIST between -1 and 1 against noise in 784 dimensions, float32, |x - y|^2; eps is 0.05
of the standard deviation of the cost between independent noise and images, as `Points.std_cost` measures it. A fit
may be stopped: the next call goes on with what it finds in runs/semidiscrete.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

import metaot
from benchmarks.maps.coupling import digits
from metaot.folders import read_card
from metaot.maps import Normal
from metaot.models.data_set import DataSetPotential

RESULTS = Path(__file__).parents[1] / "results" / "scale-semidiscrete.json"
POINTS = RESULTS.with_name("scale-semidiscrete-points.json")
RUNS = Path("runs") / "semidiscrete"
SEEDS, TOLERANCES = 5, (1e-2, 1e-3, 5e-4, 1e-4)
STEPS, BATCH, RATES = 40_000, 128, (0.1, 0.3, 1.0)
SHARE, TARGET = 0.05, 1e-2
COUPLED, COUNTS = 256, (6_000, 60_000)


def tutorial() -> dict[str, Any]:
    """Fit the tutorial's problem to each tolerance, and repeat its solver."""
    y = torch.tensor(json.loads(POINTS.read_text()), dtype=torch.float64)
    rows = []
    for tol in TOLERANCES:
        for seed in range(SEEDS):
            begin = process_time()
            semi = metaot.SemiDiscrete(y).fit(Normal(2), tol=tol, seed=seed, progress=False)
            seconds = process_time() - begin
            exact = semi.measure(Normal(2), 2**23 if tol < 5e-4 else 2**21)
            rows.append({
                "tol": tol, "seed": seed, "samples": semi.samples, "evaluations": semi.evaluations,
                "seconds": seconds, "chi2": exact.chi2, "std": exact.std,
            })  # fmt: skip
            print(rows[-1])
    return {"fits": rows, "ascent from zeros": [ascent(y, rate) for rate in RATES]}


def ascent(y: Tensor, rate: float) -> dict[str, Any]:
    """Repeat the tutorial's solver: plain stochastic ascent, and an exponential mean of its iterates."""
    generator = torch.Generator().manual_seed(0)
    model = DataSetPotential.of(y, torch.full((len(y),), 1 / len(y)).to(y), "sqeuclidean", 0.0)
    g, mean, begin = model.g, model.g, process_time()
    for _ in range(STEPS):
        model.g = g
        x = torch.randn(BATCH, 2, generator=generator, dtype=y.dtype)
        g = g + rate * (model.b - model.received(x) / BATCH)
        mean = 0.01 * mean + 0.99 * g  # as its `potential_ema` of 0.99 weighs them
    seconds = process_time() - begin
    model.g = mean
    exact = metaot.SemiDiscrete.of(model).measure(Normal(2), 2**21)
    found = {"rate": rate, "samples": STEPS * BATCH, "seconds": seconds, "chi2": exact.chi2, "std": exact.std}
    print(found)
    return found


def images(count: int) -> dict[str, Any]:
    """Fit the first images of MNIST, or go on with a fit that was stopped; measure it and time couplings."""
    y, folder = digits(count), RUNS / str(count)
    noise = Normal(y.shape[1])
    generator = torch.Generator().manual_seed(0)
    some = y[torch.randperm(len(y), generator=generator)[:4096]]
    std = float(metaot.Points(torch.randn(4096, y.shape[1], generator=generator), some).std_cost())
    semi = metaot.SemiDiscrete(y, eps=SHARE * std)
    semi.fit(noise, tol=TARGET, folder=folder, resume=(folder / "training.pt").exists(), max_samples=2**24)
    card = read_card(folder)
    exact = semi.measure(noise, min(400_000, 20 * count))
    x = torch.randn(COUPLED, y.shape[1], generator=generator)
    calls = {"assign": semi.assign, "map": semi.map}
    times = {name: timed(lambda call=call: call(x)) for name, call in calls.items()}
    product = timed(lambda: x @ y.mT)
    return {
        "points": len(y), "dim": y.shape[1], "eps": semi.model.eps, "std of the cost": std,
        "samples": semi.samples, "minutes": card["training_seconds"] / 60, "chi2": exact.chi2, "std": exact.std,
        "converged": semi.converged, "threads": torch.get_num_threads(), "batch": COUPLED,
        "ms": {**times, "product": product}, "gain": gain(semi, x),
    }  # fmt: skip


def gain(semi: metaot.SemiDiscrete, x: Tensor) -> dict[str, float]:
    """Return mean costs of pairs: of the fit, of a batch coupled with as many images, and independent ones."""
    y, generator = semi.y, torch.Generator().manual_seed(2)
    batch = y[torch.randint(len(y), (len(x),), generator=generator)]
    pairs = metaot.couple(x, batch, eps=0)
    ours = (x - y[semi.assign(x, generator)]).square().sum(1).mean()
    return {"ours": float(ours), "batch": float(pairs.cost), "independent": float(pairs.independent_cost)}


def timed(call: Any) -> float:
    """Return the median time of a call in ms, after one that does not count."""
    call()
    found = []
    for _ in range(15):
        begin = perf_counter()
        call()
        found.append(1e3 * (perf_counter() - begin))
    return median(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    options, _ = parser.parse_known_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["tutorial"] = tutorial()
    if not options.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        torch.set_num_threads(threads)
        found["images"] = [images(count) for count in COUNTS]
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
