"""Newton from zeros and from the model: python -m benchmarks.newton [DATA_DIR].

50 pairs of MNIST test digits, one by one, one thread: Newton's steps to each error, and the median ratio of
times. The last column is the time of Sinkhorn from the model over that of the faster Newton.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch

import metaot
from metaot.data import Mnist

RESULT = Path(__file__).parent / "results" / "newton.json"
PAIRS = 50


def measure(data_dir: Path | None) -> list[dict[str, Any]]:
    """Solve every pair with each method and start in turn."""
    torch.set_num_threads(1)
    model = metaot.load("checkpoints/mnist")
    digits = Mnist(batch=PAIRS).split("test", data_dir)
    rows = []
    for eps in (1e-2, 1e-3):
        problem = replace(digits, eps=(eps, eps)).sample(torch.Generator().manual_seed(20261122))
        for tol in (1e-3, 1e-6, 1e-9):
            ways = {"cold": (None, metaot.Newton()), "warm": (model, metaot.Newton())}
            if tol == 1e-3:
                ways["sinkhorn"] = (model, metaot.Sinkhorn())
            solved = {name: [] for name in ways}
            for k in range(-2, PAIRS):
                for name, (init, solver) in ways.items():
                    begin = perf_counter()
                    solution = metaot.solve(problem[k % PAIRS], init=init, solver=solver, tol=tol)
                    seconds = perf_counter() - begin
                    if k >= 0:
                        solved[name].append((int(solution.steps), seconds, bool(solution.converged)))
            rows.append({"eps": eps, "tol": tol, **solved})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the README's table."""
    lines = [
        "| eps | error | steps from zeros | from the model | time, zeros / model | Sinkhorn / Newton |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        cold, warm = ([seconds for _, seconds, _ in row[name]] for name in ("cold", "warm"))
        steps = [f"{mean(count for count, _, _ in row[name]):.1f}" for name in ("cold", "warm")]
        ratio = median(c / w for c, w in zip(cold, warm, strict=True))
        sinkhorn = [seconds for _, seconds, _ in row.get("sinkhorn", [])]
        best = [min(pair) for pair in zip(cold, warm, strict=True)]
        versus = f"{median(s / b for s, b in zip(sinkhorn, best, strict=True)):.2f}x" if sinkhorn else "-"
        lines.append(f"| {row['eps']:g} | {row['tol']:g} | {steps[0]} | {steps[1]} | {ratio:.2f}x | {versus} |")
    return "\n".join(lines)


if __name__ == "__main__":
    measured = measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    RESULT.write_text(json.dumps(measured) + "\n")
    print(table(measured))
