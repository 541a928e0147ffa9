"""Millions of problems with Ray Data: python examples/serving/ray_batch.py [mnist.onnx] [--pairs N] [--matrix N].

Pairs of MNIST test digits are numbers in a table. Each worker holds the images and the model, makes the weights of
a batch of pairs, predicts their potentials, and keeps what is asked for: here the dual value of each pair, a lower
bound of its entropic cost. Your own problems come the same way, from `ray.data.read_parquet` with columns a and b.
The model is sent to the workers as it is. It needs `pip install 'metaot[ray]'`, and no torch; images are read from
mnist/*.gz in $METAOT_DATA.

With `--matrix N` the pairs are those of N digits, in blocks, and each worker holds the solver: the answer is their
matrix of Sinkhorn divergences, saved as divergences.npy in the folder. That needs torch.
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


class Compare:
    """What a worker keeps: the measures, and each one's transport to itself."""

    def __init__(self, divergences: "metaot.losses.PairDivergences") -> None:
        import torch  # noqa: PLC0415, predictions do without it

        torch.set_num_threads(1)
        self.divergences = divergences

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**batch, "value": self.divergences(batch["source"], batch["target"]).numpy()}


def test_images(folder: Path) -> np.ndarray:
    """Read the MNIST test images, count 784, float64."""
    with gzip.open(folder / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Predict for, or compare, many pairs of MNIST digits with Ray Data."
    )
    parser.add_argument("model", type=Path, nargs="?", help="an export of checkpoints/mnist; not for --matrix")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument(
        "--matrix", type=int, metavar="N", help="compare the first N digits, instead of predicting"
    )
    parser.add_argument("--batch", type=int, default=512, help="pairs in one call")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("runs/ray"), help="folder of what is made")
    parser.add_argument("--json", type=Path, help="file for the throughput")
    options = parser.parse_args()
    if (options.model is None) == (options.matrix is None):
        parser.error("give a model to predict with, or --matrix N to compare N digits")
    images = test_images(Path(os.environ.get("METAOT_DATA", Path.home() / ".cache/metaot")))
    if options.matrix is not None and not 2 <= options.matrix <= len(images):
        parser.error(f"--matrix must be 2 to {len(images)}, got {options.matrix}")

    ray.init(num_cpus=options.workers, include_dashboard=False, log_to_driver=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    begin = time.perf_counter()
    if options.matrix is None:
        pairs = np.random.default_rng(0).integers(len(images), size=(options.pairs, 2))
        model = metaot.OnnxModel(options.model)
        _mapped(pairs, Predict, (model, images), options).write_parquet(str(options.out.resolve()))
    else:
        pairs = np.stack(np.triu_indices(options.matrix, 1), 1)
        solver = _divergences(images[: options.matrix])
        D = np.zeros((options.matrix, options.matrix))
        for batch in _mapped(pairs, Compare, (solver,), options).iter_batches(batch_format="numpy"):
            i, j = batch["source"], batch["target"]
            D[i, j] = D[j, i] = batch["value"]
        options.out.mkdir(parents=True, exist_ok=True)
        np.save(options.out / "divergences.npy", D)
    seconds = time.perf_counter() - begin
    report = {
        "pairs": len(pairs),
        "workers": options.workers,
        "batch": options.batch,
        "seconds": round(seconds, 2),
        "pairs_per_second": round(len(pairs) / seconds),
        "ray": ray.__version__,
    }
    print(json.dumps(report, indent=1))
    if options.matrix is None:
        _check(model, images, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    ray.shutdown()


def _mapped(pairs: np.ndarray, worker: type, arguments: tuple, options: argparse.Namespace) -> ray.data.Dataset:
    """Return the table of pairs with what workers make of each."""
    table = ray.data.from_numpy_refs([ray.put(part) for part in np.array_split(pairs, 4 * options.workers)])
    problems = table.map_batches(
        lambda batch: {"source": batch["data"][:, 0], "target": batch["data"][:, 1]}, batch_format="numpy"
    )
    return problems.map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=options.batch,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )


def _divergences(images: np.ndarray) -> "metaot.losses.PairDivergences":
    """Return the solver of pairs of images."""
    import metaot.losses  # noqa: PLC0415, needs torch

    weights = images / images.sum(1, keepdims=True)
    return metaot.losses.PairDivergences(weights, metaot.Grid(28, 28), EPS)


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
