"""Problems whose costs change: python -m benchmarks.roads [--instances N] [--seen RUN].

The shipped model of roads beside the starts that need no learning, on unseen networks and at unseen hours of one
network, to an L1 error of 1e-3 by accelerated Sinkhorn steps; and on grids, whose cost has an exponent from one to
two and another factor along each axis, which it was not trained on; there the bounds of its training are lifted.
`--seen` names a run that went on from it on the seen network: metaot train roads --from roads --set data.seen=true
--set data.networks=100 --set steps=400 --set learning_rate=0.001 --set warmup=50 --set average=0.99. One thread,
float64, one problem at a time; starts take turns, and finding a start is part of its time. Results go to
benchmarks/results/roads.json.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import metaot
from metaot import Problem, Sinkhorn, solve
from metaot.amortize.costs import CostPotential
from metaot.data import CostFamilies, Roads
from metaot.evaluation.costs import LEARNT, evaluate_costs

OUT = Path("benchmarks/results/roads.json")
SEED = 20261130
SIZES = ((100, 1000, 3000), (300, 3000, 6000))
"""Suppliers, customers and junctions."""
SHARES = (0.01, 0.05)
"""Temperatures, as shares of the mean cost."""
GRID_SHARES = (0.02,)
FLOORS = {
    "unseen networks": {"steps": 0.8, "seconds": 1.0, "gap": 0.01},
    "seen network, unseen hours": {"steps": 0.6, "seconds": 0.8, "gap": 0.003},
}
FEW, MANY, REPEATS = 10, 60, 9
"""Steps whose times tell that of one step."""


def rows(model: CostPotential, seen: CostPotential | None, instances: int) -> list[dict[str, Any]]:
    """Measure roads: a row for each size, temperature and kind of network; `seen` on the one that it has seen."""
    found = []
    kinds = [(*size, kind, model) for size in SIZES for kind in FLOORS]
    if seen is not None:
        kinds.append((*SIZES[0], "seen network, trained on it", seen))
    for suppliers, customers, nodes, kind, predictor in kinds:
        source = Roads(
            suppliers=suppliers, customers=customers, nodes=nodes, networks=64, seen=kind.startswith("seen")
        )
        problems, stored = source.split("test"), source.split("train")
        count = instances if suppliers == SIZES[0][0] else max(2, instances // 3)
        for share in SHARES:
            settings: dict[str, Any] = {"eps": share, "instances": count, "seed": SEED}
            report = evaluate_costs(predictor, problems, stored, data=kind, **settings)
            print(report.table(), end="\n\n", flush=True)
            found.append({"kind": kind, **report.to_json(), "instances": count})
        one = problems.sample(torch.Generator().manual_seed(SEED))[:1]
        found[-2] |= {"model in steps": found[-2]["starts"][LEARNT]["ms to find it"] / step_ms(one)}
    return found


def grids(model: CostPotential, instances: int) -> list[dict[str, Any]]:
    """Measure grids of 64 x 64 points, where steps along the axes are cheap."""
    source, found = CostFamilies(), []
    model.model.spreads.copy_(torch.tensor([0, torch.inf]))
    for share in GRID_SHARES:
        settings: dict[str, Any] = {"eps": share, "instances": instances, "seed": SEED, "repeats": 1}
        report = evaluate_costs(model, source.split("test"), source.split("train"), data="grids", **settings)
        print(report.table(), end="\n\n", flush=True)
        found.append({"kind": "grids", **report.to_json(), "instances": instances})
    return found


def step_ms(one: Problem) -> float:
    """Return the milliseconds of one accelerated step, from the difference between many and few."""
    times = []
    for steps in (FEW, MANY):
        runs = []
        for _ in range(REPEATS):
            begin = perf_counter()
            solve(one, solver=Sinkhorn(), tol=1e-14, max_steps=steps)
            runs.append(perf_counter() - begin)
        times.append(min(runs))
    return 1e3 * (times[1] - times[0]) / (MANY - FEW)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--seen", help="the run of a model that was trained on the seen network as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, seen = metaot.load("roads"), metaot.load(options.seen) if options.seen else None
    machine = {"platform": platform.platform(), "torch": torch.__version__, "threads": 1, "load": os.getloadavg()}
    content = {
        "machine": machine,
        "floors": FLOORS,
        "roads": rows(model, seen, options.instances),
        "grids": grids(model, 3),
    }
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
