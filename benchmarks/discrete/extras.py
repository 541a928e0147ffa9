"""Bad starts, and the memory of a large pair."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import metaot
from benchmarks.discrete.problems import SEED, mnist, paintings
from metaot import DualPotentials

TOL = 1e-6
BAD_STARTS, BATCH = 1000, 50
SIDE, EPS = 128, 1e-3


def bad_starts(eps: float, data_dir: Path | None) -> dict[str, Any]:
    """Count the random starts from which `solve` takes more than one step more than cold."""
    generator = torch.Generator().manual_seed(SEED)
    extra, unfinished = [], 0
    for instance in mnist(SEED, BAD_STARTS // BATCH, BATCH, eps, data_dir):
        problem = instance.problem
        size = 10 ** (5 * torch.rand(BATCH, 1, generator=generator, dtype=torch.float64) - 3)
        f, g = (size * torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in (problem.a, problem.b))
        cold = metaot.solve(problem, tol=TOL)
        bad = metaot.solve(problem, init=DualPotentials(f, g), tol=TOL)
        extra += (bad.steps - cold.steps).tolist()
        unfinished += int((~bad.converged).sum())
    worse = sum(count > 1 for count in extra)
    return {
        "eps": eps,
        "starts": len(extra),
        "worse": worse,
        "most_extra_steps": max(extra),
        "unfinished": unfinished,
    }


def large_pair(data_dir: Path | None, threads: int) -> dict[str, Any]:
    """Solve one pair of large images in a process of its own; return its time and its memory above the start."""
    problem = next(paintings(SEED, 1, SIDE, EPS, data_dir)).problem
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npy"
        np.save(file, torch.stack([problem.a, problem.b]).numpy())
        command = [sys.executable, "-m", "benchmarks.discrete.memory", str(file), str(EPS), str(TOL), str(threads)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
