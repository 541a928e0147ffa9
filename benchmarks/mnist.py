"""The README's MNIST table and pictures: python -m benchmarks.mnist [--data-dir DIR].

The shipped checkpoint on 500 pairs of test digits at eps 1e-2 and 1e-3: steps, times at batch 1 and at
batch 64, and accuracy of the prediction. Results go to benchmarks/results/mnist and mnist-batch64.
"""

import sys
from pathlib import Path

from metaot.cli import main

RESULTS = Path(__file__).parent / "results"
COMMON = ["evaluate", "checkpoints/mnist", "--eps", "1e-2", "1e-3", "--seed", "20261122"]

if __name__ == "__main__":
    single = [*COMMON, "--instances", "500", "--batch", "1", "--out", str(RESULTS / "mnist")]
    batched = [*COMMON, "--instances", "128", "--batch", "64", "--out", str(RESULTS / "mnist-batch64")]
    sys.exit(main([*single, *sys.argv[1:]]) or main([*batched, *sys.argv[1:]]))
