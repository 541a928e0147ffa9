"""The numbers of production: python -m benchmarks.onnx [--data-dir DIR] [--out FILE.json].

Exports the shipped checkpoint (with --refine and --int8) and measures on MNIST test pairs: latency and throughput
of `OnnxModel.predict`, the graph that refines, import and first prediction in a fresh process, agreement with
torch, and what eight bits cost. One thread unless said. Results go to benchmarks/results/onnx.json.
"""

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch

from metaot.checkpoint import load, read_card
from metaot.cli import main
from metaot.onnx import OnnxModel
from metaot.onnx.parity import drawn_problems, parity
from metaot.onnx.quantise import compare

CHECKPOINT = Path("checkpoints/mnist")
EPS, TOL = 1e-2, 1e-3
PAIRS = 256
CALLS = 2000
FRESH = """
import sys, time
begin = time.perf_counter()
import metaot
model = metaot.OnnxModel(sys.argv[1])
import numpy as np
pair = np.load(sys.argv[2])
model.predict(pair[0], pair[1], eps=0.01)
print(time.perf_counter() - begin)
sys.exit("torch" in sys.modules)
"""


def run(out: Path, data_dir: Path | None) -> None:
    """Measure everything."""
    torch.set_num_threads(1)
    predictor, card = load(CHECKPOINT), read_card(CHECKPOINT)
    (many, *_), data = drawn_problems(predictor, card, data_dir, batches=(PAIRS,))
    a, b = many.a.numpy(), many.b.numpy()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mnist.onnx"
        options = ["--data-dir", str(data_dir)] if data_dir else []
        if main(["export", str(CHECKPOINT), "--out", str(path), "--refine", "--int8", *options]):
            sys.exit(1)
        refine, int8 = (path.with_name(f"mnist-{word}.onnx") for word in ("refine", "int8"))
        model = OnnxModel(path)
        problems, _ = drawn_problems(predictor, card, data_dir)
        agreement = parity(model, predictor, [*problems, many], data)
        loss = compare(model, OnnxModel(int8), many)
        results = {
            "data": data,
            "bytes": {file.name: file.stat().st_size for file in (path, refine, int8)},
            "predict": latency(lambda k: model.predict(a[k : k + 1], b[k : k + 1], eps=EPS)),
            "graph alone": latency(lambda k: model.graph(a[k : k + 1], b[k : k + 1], np.array([EPS]))),
            "predict and refine": refining(OnnxModel(refine), a, b),
            "solve to 1e-6": latency(lambda k: model.solve(a[k : k + 1], b[k : k + 1], eps=EPS), 100),
            "predictions per second": {str(n): throughput(path, a, b, n) for n in (1, 2)},
            "fresh process, seconds": fresh(path, a, b),
            "parity": dataclasses.asdict(agreement),
            "int8": {"extra steps": loss.steps, "microseconds saved": loss.microseconds},
            "machine": {
                "onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "torch": torch.__version__,
                "platform": platform.machine(),
            },
        }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def latency(call: Callable[[int], Any], calls: int = CALLS) -> dict[str, float]:
    """Return microseconds for one problem after another."""
    seconds = []
    for k in range(calls + 20):
        begin = time.perf_counter()
        call(k % PAIRS)
        seconds.append(time.perf_counter() - begin)
    times = 1e6 * np.array(seconds[20:])
    return {
        "median": float(np.median(times)),
        "p99": float(np.quantile(times, 0.99)),
        "lowest": float(times.min()),
    }


def refining(model: OnnxModel, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return microseconds of one call that predicts and refines, and the steps that it makes."""
    eps = np.array([EPS])
    times = latency(lambda k: model.graph(a[k : k + 1], b[k : k + 1], eps, tol=TOL, max_steps=1000), 500)
    _, _, error, steps = model.graph(a, b, eps, tol=TOL, max_steps=1000)
    return times | {"mean steps": float(steps.mean()), "largest error": float(error.max())}


def throughput(path: Path, a: np.ndarray, b: np.ndarray, threads: int) -> float:
    """Return predictions per second in batches of 256."""
    model = OnnxModel(path, threads=threads)
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        model.predict(a, b, eps=EPS)
        seconds.append(time.perf_counter() - begin)
    return float(len(a) / np.median(seconds[3:]))


def fresh(path: Path, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return seconds of the import, opening a file and the first prediction in a process of its own."""
    pair = path.with_name("pair.npy")
    np.save(pair, np.stack([a[:1], b[:1]]))
    command = [sys.executable, "-c", FRESH, str(path), str(pair)]
    seconds = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(7)]
    return {"median": float(np.median(seconds)), "lowest": min(seconds)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "onnx.json")
    arguments = parser.parse_args()
    run(arguments.out, arguments.data_dir)
