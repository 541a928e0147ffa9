"""The MNIST tables and pictures: python -m benchmarks.mnist [--data-dir DIR].

The shipped checkpoint on 500 pairs of test digits at eps 1e-2 and 1e-3, timed one by one and in batches of 64,
and with 0 and 2 Sinkhorn steps inside the prediction instead of 1. Results go to benchmarks/results/mnist*;
`python -m benchmarks.mnist --tables` prints the tables from the committed results.
"""

import sys
from pathlib import Path

from benchmarks.tables.images import mnist_passes, mnist_steps, mnist_times
from metaot.cli import main

RESULTS = Path(__file__).parent / "results"
COMMON = ["evaluate", "checkpoints/mnist", "--eps", "1e-2", "1e-3", "--seed", "20261122", "--threads", "1"]
RUNS = {
    "mnist": ["--instances", "500", "--seconds", "8", "--record"],
    "mnist-batch64": ["--instances", "128", "--batch", "64", "--seconds", "8"],
    "mnist-passes0": ["--instances", "500", "--passes", "0", "--seconds", "1"],
    "mnist-passes2": ["--instances", "500", "--passes", "2", "--seconds", "1"],
}


def run(extra: list[str]) -> None:
    """Measure everything anew."""
    for name, options in RUNS.items():
        failed = main([*COMMON, *options, "--out", str(RESULTS / name), *extra])
        if failed:
            sys.exit(failed)


if __name__ == "__main__":
    if "--tables" not in sys.argv:
        run(sys.argv[1:])
    for make in (mnist_steps, mnist_passes, mnist_times):
        print(f"{make().markdown()}\n")
