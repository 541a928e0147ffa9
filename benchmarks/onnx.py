"""The numbers of production: python -m benchmarks.onnx [--data-dir DIR] [--out FILE.json].

Exports the shipped checkpoint and measures on MNIST test pairs: latency and throughput of `OnnxModel.predict`,
import and first prediction in a fresh process, and agreement with torch. One thread unless said. Results go to
benchmarks/results/onnx.json.
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

CHECKPOINT = Path("checkpoints/mnist")
EPS = 1e-2
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
        if main(["export", str(CHECKPOINT), "--out", str(path), *options]):
            sys.exit(1)
        model = OnnxModel(path)
        problems, _ = drawn_problems(predictor, card, data_dir)
        agreement = parity(model, predictor, [*problems, many], data)
        results = {
            "data": data,
            "bytes": path.stat().st_size,
            "predict": latency(lambda k: model.predict(a[k : k + 1], b[k : k + 1], eps=EPS)),
            "solve to 1e-6": latency(lambda k: model.solve(a[k : k + 1], b[k : k + 1], eps=EPS), 100),
            "predictions per second": {str(n): throughput(path, a, b, n) for n in (1, 2)},
            "fresh process, seconds": fresh(path, a, b),
            "parity": dataclasses.asdict(agreement),
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
