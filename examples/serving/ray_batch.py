"""Millions of problems with Ray Data: python examples/serving/ray_batch.py {predict,solve,matrix} [MODEL] ...

Problems are pairs of measures: of the digits of MNIST in $METAOT_DATA, or, with `--measures FILE.npz`, of `images`
(count height width, of any size) or of `clouds` (count n d; with `weights`, count n, if points differ in mass).

- `predict MODEL` keeps the dual value of each prediction, a lower bound of the entropic cost;
- `solve [MODEL]` keeps value, error, steps and convergence of each solution; `--rho` prices missing mass (KL);
- `matrix [MODEL]` makes the Sinkhorn divergences between the first `--count` measures: divergences.npy.

MODEL is what `metaot.load` takes. Pairs come in blocks; a worker writes each block to a file of its own once it is
done. A call with the same settings makes the blocks that are missing, whatever ended the last call; one with other
settings is refused. It needs `pip install 'metaot[ray]'`; exported models predict for images without torch.
"""

import argparse
import gzip
import hashlib
import json
import logging
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import ray

import metaot
from metaot.folders import data_folder, located, write_atomically

Columns = dict[str, np.ndarray]
MANIFEST = ("action", "eps", "rho", "tol", "count", "block")
"""Settings that results depend on; beside measures and model, of which the manifest holds digests."""


class Measures(NamedTuple):
    """Images, count height width; or clouds, count n d, and their weights, count n."""

    weights: np.ndarray
    clouds: np.ndarray | None = None

    def problems(self, i: np.ndarray, j: np.ndarray, options: Namespace) -> "metaot.Problem":
        """Return the problems of pairs; each pair of clouds is a space of its own."""
        marginals = None if options.rho is None else metaot.KL(options.rho)
        clouds = self.clouds
        space = metaot.Grid(*self.weights.shape[1:]) if clouds is None else metaot.Points(clouds[i], clouds[j])
        return metaot.Problem(self.weights[i], self.weights[j], space, options.eps, marginals)


class Predict:
    """Lower bounds of costs, from predictions."""

    def __init__(self, measures: Measures, options: Namespace) -> None:
        self.measures, self.options, self.model = measures, options, metaot.load(options.model)

    def __call__(self, i: np.ndarray, j: np.ndarray) -> Columns:
        if self.measures.clouds is None and isinstance(self.model, metaot.OnnxModel):
            a, b = self.measures.weights[i], self.measures.weights[j]
            guess = self.model.predict(a, b, eps=self.options.eps)
            return {"value": (guess.f * a + guess.g * b).sum((1, 2))}  # g is the best for f: nothing is missing
        problem = self.measures.problems(i, j, self.options)
        return {"value": metaot.dual_value(problem, self.model.predict(problem)).numpy()}


class Solve:
    """Costs from solutions, balanced or not."""

    def __init__(self, measures: Measures, options: Namespace) -> None:
        self.measures, self.options = measures, options
        self.model = options.model and metaot.load(options.model)

    def __call__(self, i: np.ndarray, j: np.ndarray) -> Columns:
        problem = self.measures.problems(i, j, self.options)
        solution = metaot.solve(problem, init=self.model, tol=self.options.tol)
        return {name: getattr(solution, name).numpy() for name in ("value", "error", "steps", "converged")}


class Compare:
    """Sinkhorn divergences; the transport of each measure to itself is solved once, before the workers begin."""

    def __init__(self, measures: Measures, options: Namespace) -> None:
        from metaot.losses import PairDivergences  # noqa: PLC0415, it needs torch

        weights, clouds = measures.weights[: options.count], measures.clouds
        space = metaot.Grid(*weights.shape[1:]) if clouds is None else metaot.Points(clouds[: options.count])
        self.divergences = PairDivergences(weights, space, options.eps, init=options.model, tol=options.tol)

    def __call__(self, i: np.ndarray, j: np.ndarray) -> Columns:
        return {"value": self.divergences(i, j).numpy()}


ACTIONS = {"predict": Predict, "solve": Solve, "matrix": Compare}


class Worker:
    """What each process keeps; it makes blocks of pairs and writes them. Ray gives it one thread."""

    def __init__(self, work: Any, measures: int, options: Namespace) -> None:
        self.work, self.measures, self.options = work, measures, options

    def __call__(self, rows: Columns) -> Columns:
        times = [self.make(block) for block in rows["block"].tolist()]
        return {**rows, "began": np.array(times)[:, 0], "ended": np.array(times)[:, 1]}

    def make(self, block: int) -> tuple[float, float]:
        """Make the block with this number; return when that began and ended."""
        began = time.time()
        i, j = pairs_of(block, self.measures, self.options)
        cuts = range(self.options.batch, len(i), self.options.batch)
        parts = [self.work(*part) for part in zip(np.split(i, cuts), np.split(j, cuts), strict=True)]
        made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        table = pyarrow.table({"source": i, "target": j, **made})
        write_atomically(file_of(block, self.options.out), lambda path: pyarrow.parquet.write_table(table, path))
        return began, time.time()


def pair_count(options: Namespace) -> int:
    """Return how many pairs there are."""
    return options.count * (options.count - 1) // 2 if options.action == "matrix" else options.count


def pairs_of(block: int, measures: int, options: Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a block: random ones of so many measures, or those above the diagonal, row by row."""
    numbers = np.arange(block * options.block, min(pair_count(options), (block + 1) * options.block))
    if options.action != "matrix":
        return tuple(np.random.default_rng(block).integers(measures, size=(2, len(numbers))))
    rows = np.arange(options.count)
    before = rows * options.count - rows * (rows + 1) // 2
    i = np.searchsorted(before, numbers, side="right") - 1
    return i, numbers - before[i] + i + 1


def file_of(block: int, folder: Path) -> Path:
    return folder / f"block-{block:08}.parquet"


def read_measures(options: Namespace) -> Measures:
    """Read measures, float64, of mass one; if mass has a price, of masses whose mean is one."""
    if options.measures is None:
        with gzip.open(data_folder() / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
            found = {"images": np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)}
    else:
        with np.load(options.measures) as file:
            found = dict(file)
    shapes = ", ".join(f"{name} of {values.shape}" for name, values in found.items())
    clouds, weights = found.get("clouds"), found.get("images")
    if (clouds is None) == (weights is None) or (weights if clouds is None else clouds).ndim != 3:
        raise ValueError(f"--measures holds images (count, height, width) or clouds (count, n, d), got {shapes}")
    if clouds is not None:
        weights = found.get("weights", np.ones(clouds.shape[:2]))
    if clouds is not None and weights.shape != clouds.shape[:2]:
        raise ValueError(f"weights must be (count, n) where clouds are (count, n, d), got {shapes}")
    weights = weights.astype(np.float64)
    masses = weights.sum(tuple(range(1, weights.ndim)), keepdims=True)
    if not (np.isfinite(masses) & (masses > 0)).all() or weights.min() < 0:
        raise ValueError(f"measures have finite weights of at least 0 and some mass each, got {shapes}")
    return Measures(weights / (masses if options.rho is None else masses.mean()), clouds)


def require_fitting(options: Namespace, measures: int) -> None:
    """Raise ValueError for settings that contradict each other."""
    least = {"count": 2 if options.action == "matrix" else 1, "block": 1, "batch": 1, "workers": 1}
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            raise ValueError(f"--{name} must be at least {lowest}, got {getattr(options, name)}")
    if options.action == "matrix" and options.count > measures:
        raise ValueError(f"--count must be 2 to {measures}, the number of measures, got {options.count}")
    if options.action == "predict" and options.model is None:
        raise ValueError("predict needs a model: its name, folder or .onnx file")
    if options.action != "solve" and options.rho is not None:
        raise ValueError(f"--rho is for solve; {options.action} takes measures of mass one")


def require_same(options: Namespace, measures: Measures) -> None:
    """Note the settings in a new folder; ValueError where its blocks were made with others."""
    path = options.out / "_manifest.json"
    contents = [part.tobytes() for part in measures if part is not None]
    settings = {**{name: getattr(options, name) for name in MANIFEST}, "measures": digest(contents), "model": None}
    if options.model is not None:
        model = located(options.model)
        files = [model] if model.is_file() else sorted(model.glob("*.safetensors"))
        settings["model"] = digest([file.read_bytes() for file in files])
    if not path.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda partial: partial.write_text(json.dumps(settings, indent=1)))
    for name, old in json.loads(path.read_text()).items():
        if old != settings[name]:
            raise ValueError(
                f"{options.out} was begun with {name} {old}, not {settings[name]}: give the same, or another --out"
            )


def digest(contents: list[bytes]) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def make_blocks(left: list[int], work: Any, measures: int, options: Namespace) -> dict[str, Any]:
    """Have the workers make blocks; return the throughput, of all and without the start of Ray and the workers."""
    begin = time.time()
    alone = {"num_cpus": options.workers, "include_dashboard": False} if options.address is None else {}
    ray.init(options.address, log_to_driver=False, logging_level="warning", **alone)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    parts = min(len(left), 16 * options.workers)
    table = ray.data.from_items([{"block": block} for block in left], override_num_blocks=parts)
    done = table.map_batches(
        Worker,
        fn_constructor_args=(work, measures, options),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_cpus=1,
    )
    times = [(float(row["began"]), float(row["ended"])) for row in done.iter_rows()]
    seconds, working = time.time() - begin, max(t for _, t in times) - min(t for t, _ in times)
    ray.shutdown()
    pairs = sum(len(pairs_of(block, measures, options)[0]) for block in left)
    return {
        "pairs": pairs, "blocks": len(left), "workers": options.workers, "batch": options.batch,
        "seconds": round(seconds, 2), "working_seconds": round(working, 2),
        "pairs_per_second": round(pairs / working), "ray": ray.__version__,
    }  # fmt: skip


def matrix(options: Namespace, blocks: int) -> np.ndarray:
    """Return the matrix whose parts are in the blocks."""
    D = np.zeros((options.count, options.count))
    for block in range(blocks):
        columns = pyarrow.parquet.read_table(file_of(block, options.out)).to_pydict()
        i, j = columns["source"], columns["target"]
        D[i, j] = D[j, i] = columns["value"]
    return D


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("model", nargs="?", help="what metaot.load takes: universal, mnist.onnx, runs/mine ...")
    parser.add_argument("--measures", type=Path, metavar="FILE.npz", help="images or clouds (default: MNIST)")
    parser.add_argument("--count", type=int, default=100_000, help="pairs, or measures of the matrix")
    parser.add_argument("--eps", type=float, default=1e-2, help="temperature, in units of the cost")
    parser.add_argument("--rho", type=float, help="price of missing mass: solve unbalanced problems")
    parser.add_argument("--tol", type=float, default=1e-3, help="marginal error of solutions")
    parser.add_argument("--block", type=int, default=4096, help="pairs in a file: what a failure loses")
    parser.add_argument("--batch", type=int, default=512, help="pairs in one call")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--address", help="of a Ray cluster, such as auto (default: this machine alone)")
    parser.add_argument("--out", type=Path, default=Path("runs/ray"), help="folder, which all workers must see")
    parser.add_argument("--json", type=Path, help="file for the throughput")
    options = parser.parse_args()
    options.out = options.out.resolve()
    try:
        measures = read_measures(options)
        count = len(measures.weights)
        require_fitting(options, count)
        work = ACTIONS[options.action](measures, options)
        work(*(place[:1] for place in pairs_of(0, count, options)))  # so that misfits are said at once
        require_same(options, measures)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    blocks = -(-pair_count(options) // options.block)
    left = [block for block in range(blocks) if not file_of(block, options.out).exists()]
    report = make_blocks(left, work, count, options) if left else {"pairs": 0, "blocks": 0}
    if options.action == "matrix":
        np.save(options.out / "divergences.npy", matrix(options, blocks))
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
