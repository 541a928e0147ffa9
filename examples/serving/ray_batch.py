"""Predict for millions of problems with Ray Data: python examples/serving/ray_batch.py mnist.onnx [--pairs N].

Pairs of MNIST test digits are numbers in a table. Each worker holds the images and the model, makes the weights of
a batch of pairs, predicts their potentials, and keeps what is asked for: here the dual value of each pair, a lower
bound of its entropic cost. Your own problems come the same way, from `ray.data.read_parquet` with columns a and b.
The model is sent to the workers as it is. It needs `pip install 'metaot[ray]'`, and no torch; images are read from
mnist/*.gz in $METAOT_DATA.
"""

import argparse
import gzip
import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import ray

import metaot

EPS = 1e-2


class Predict:
    """What a worker keeps: the model, and the images with mass one."""

    def __init__(self, model: metaot.OnnxModel, images: np.ndarray) -> None:
        self.model = model
        self.weights = images / images.sum(1, keepdims=True)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        a, b = self.weights[batch["source"]], self.weights[batch["target"]]
        guess = self.model.predict(a, b, eps=EPS)
        value = (guess.f * a).sum(1) + (guess.g * b).sum(1)  # g is the best for f: nothing is missing
        return {**batch, "value": value}


def test_images(folder: Path) -> np.ndarray:
    """Read the MNIST test images, count 784, float64."""
    with gzip.open(folder / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict for many pairs of MNIST digits with Ray Data.")
    parser.add_argument("model", type=Path, help="an export of checkpoints/mnist")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=512, help="pairs predicted in one call")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("runs/ray"), help="folder of the parquet files")
    parser.add_argument("--json", type=Path, help="file for the throughput")
    options = parser.parse_args()
    model = metaot.OnnxModel(options.model)
    images = test_images(Path(os.environ.get("METAOT_DATA", Path.home() / ".cache/metaot")))

    ray.init(num_cpus=options.workers, include_dashboard=False, log_to_driver=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    pairs = np.random.default_rng(0).integers(len(images), size=(options.pairs, 2))
    table = ray.data.from_numpy_refs([ray.put(part) for part in np.array_split(pairs, 4 * options.workers)])
    problems = table.map_batches(
        lambda batch: {"source": batch["data"][:, 0], "target": batch["data"][:, 1]}, batch_format="numpy"
    )
    begin = time.perf_counter()
    predicted = problems.map_batches(
        Predict,
        fn_constructor_args=(model, images),
        batch_size=options.batch,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )
    predicted.write_parquet(str(options.out.resolve()))
    seconds = time.perf_counter() - begin
    report = {
        "pairs": options.pairs,
        "workers": options.workers,
        "batch": options.batch,
        "seconds": round(seconds, 2),
        "pairs_per_second": round(options.pairs / seconds),
        "ray": ray.__version__,
    }
    print(json.dumps(report, indent=1))
    _check(model, images, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    ray.shutdown()


def _check(model: metaot.OnnxModel, images: np.ndarray, options: argparse.Namespace) -> None:
    """Compare the table with predictions made here."""
    table = ray.data.read_parquet(str(options.out.resolve()))
    if table.count() != options.pairs:
        raise RuntimeError(f"{options.pairs} pairs were asked for, {table.count()} are in {options.out}")
    rows = table.take_batch(64)
    expected = Predict(model, images)({"source": rows["source"], "target": rows["target"]})["value"]
    if not np.allclose(rows["value"], expected, rtol=1e-6):
        raise RuntimeError(f"values differ by up to {np.abs(rows['value'] - expected).max():.2g}")


if __name__ == "__main__":
    main()
