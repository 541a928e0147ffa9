"""The README's numbers of colour transfer: python -m benchmarks.palette [evaluate] [discrete] [training] [times].

evaluate: the shipped checkpoint on 50 pairs of held-out paintings, by `metaot evaluate`: table 2 of Meta OT with
exact conjugates. discrete: beside it, at equal time, entropic transport between samples, in one problem and in
four (ProgOT), with its map for pixels that are new to it. training: `palette` and `palette-resnet` trained for
about the same processor time into RUNS (--runs), and their predictions on the same pairs. times: `metaot recolor`
in fresh processes, with their start and the most memory they held, on paintings and on photographs of 12
megapixels (paintings enlarged, with noise), and predictions of one pair. All four without a name. One thread, two
where it is said; results go to benchmarks/results/palette.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import metaot
from metaot.amortize.maps import AmortizedMap, BuresStart
from metaot.brenier import SampleProblem
from metaot.checkpoint import load, read_card, write_atomically
from metaot.cli import main
from metaot.data import Paintings
from metaot.folders import data_folder
from metaot.geometry import Points
from metaot.maps import progot
from metaot.objectives import brenier_value
from metaot.problem import Problem
from metaot.solvers import GaussNewton, solve

RESULTS = Path(__file__).parent / "results" / "palette"
CHECKPOINT = "checkpoints/palette"
SEED, PAIRS, SAMPLES = 20261122, 50, 1000

PICTURES = ("macke_flower-box.jpg", "sisley_bridge.jpg")
THREADS, RUNS = 2, 5
"""Of the command: threads, and processes after a first one."""

COMPARED, SEEN, FRESH = 12, 2000, 2000
"""Pairs, samples that are solved for, and samples that are moved."""
BUDGETS = {"5 ms": 0.005, "50 ms": 0.05, "500 ms": 0.5}
SLOWEST = 0.8
"""Settings that take longer are left out."""

EQUAL = {
    "palette": ["--set", "steps=1100", "--set", "validate_every=1100"],
    "palette-resnet": ["--set", "steps=36", "--set", "warmup=4", "--set", "validate_every=36"],
}
"""About ninety seconds of one thread each."""

Push = Callable[[Tensor], Tensor]
Method = Callable[[SampleProblem], Push]


def evaluate() -> None:
    """Run the command on the shipped checkpoint, and record its summary there."""
    size = ["--instances", str(PAIRS), "--samples", str(SAMPLES), "--steps", "2000", "--seed", str(SEED)]
    failed = main(["evaluate", CHECKPOINT, *size, "--threads", "1", "--record", "--out", str(RESULTS)])
    if failed:
        sys.exit(failed)


def discrete() -> dict[str, Any]:
    """Return, for each way and setting, milliseconds and how much of the sliced distance to the target is left.

    Unseen pixels of the source are pushed and compared with unseen ones of the target. For each budget, the
    setting that is best on validation pairs within it is the one that counts.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "palette.onnx"
        if main(["export", CHECKPOINT, "--out", str(file)]):
            sys.exit(2)
        ways = methods(load(CHECKPOINT), metaot.OnnxMap(file))
        found = {split: measured(ways, split) for split in ("validation", "test")}
    families = sorted({name.split(",")[0] for name in ways})
    winners = {}
    for budget, limit in BUDGETS.items():
        rows = {family: best(found, family, limit) for family in families}
        winners[budget] = {family: row for family, row in rows.items() if row}
    return {
        "pairs": COMPARED, "seen": SEEN, "fresh": FRESH, "seed": SEED, "threads": 1, "budgets": winners,
        "settings": found["test"],
    }  # fmt: skip


def methods(model: AmortizedMap, exported: metaot.OnnxMap) -> dict[str, Method]:
    """Return the ways to a map; what stands before the comma is a family of settings."""
    ways: dict[str, Method] = {
        "linear": lambda seen: BuresStart().predict(seen).push,
        "model, onnxruntime": lambda seen: from_file(exported, seen),
        "model, torch": lambda seen: model.predict(few(seen, 512)).push,
        "model, torch, all samples": lambda seen: model.predict(seen).push,
    }
    for steps in (1, 2, 3, 5, 8, 12):
        ways[f"model, {steps} Gauss-Newton steps"] = lambda seen, steps=steps: tuned(model, seen, steps)
    for samples in (50, 100, 200, 500, 1000, 2000):
        for share in (0.003, 0.01, 0.03):
            name = f"discrete, {samples} samples, eps {share:g} of the variance"
            ways[name] = lambda seen, samples=samples, share=share: entropic(few(seen, samples), share)
        for share in (1 / 16, 1 / 4, 1.0):
            name = f"progressive, {samples} samples, share {share:g}"
            ways[name] = lambda seen, samples=samples, share=share: progressive(few(seen, samples), share)
    return ways


def few(seen: SampleProblem, samples: int) -> SampleProblem:
    return SampleProblem(seen.x[:samples], seen.y[:samples])


def from_file(exported: metaot.OnnxMap, seen: SampleProblem) -> Push:
    pair = exported.predict(seen.x[:512].numpy(), seen.y[:512].numpy())
    return lambda fresh: torch.from_numpy(pair.push(fresh.numpy()))


def tuned(model: AmortizedMap, seen: SampleProblem, steps: int) -> Push:
    return solve(seen, init=model.predict(few(seen, 512)), solver=GaussNewton(steps), tol=1e-9).pair.push


def entropic(seen: SampleProblem, share: float) -> Push:
    """Return the map of one entropic problem between samples."""
    x, y = seen.x.double(), seen.y.double()
    weights = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    eps = share * float(y.var(0).sum() + x.var(0).sum())
    found = solve(Problem(weights, weights, Points(x, y), eps), tol=1e-2).map()
    return lambda fresh: found.push(fresh.double()).to(fresh)


def progressive(seen: SampleProblem, share: float) -> Push:
    """Return the map of progressive transport between samples."""
    found = progot(seen.x.double(), seen.y.double(), share=share, tol=1e-2)
    return lambda fresh: found.push(fresh.double()).to(fresh)


def measured(ways: dict[str, Method], split: Any) -> dict[str, dict[str, float]]:
    """Return the figures of all settings on pairs of a split, one pair after the other."""
    data = replace(Paintings().split(split), batch=COMPARED, samples=SEEN + FRESH)
    drawn = data.sample(torch.Generator().manual_seed(SEED))
    seen = SampleProblem(drawn.x[:, :SEEN], drawn.y[:, :SEEN])
    fresh, wanted = drawn.x[:, SEEN:], drawn.y[:, SEEN:]
    before = [sliced(x, y) for x, y in zip(fresh, wanted, strict=True)]
    noise = [sliced(few, y) for few, y in zip(seen.y, wanted, strict=True)]
    rows = {"nothing but noise": {"left": mean(n / b for n, b in zip(noise, before, strict=True))}}
    for name, way in ways.items():
        way(seen[0])
        seconds, pixels, left = [], [], []
        for k in range(COMPARED):
            push, spent = timed(lambda k=k, way=way: way(seen[k]))
            moved, there = timed(lambda k=k, push=push: push(fresh[k]))
            seconds.append(spent)
            pixels.append(there / FRESH)
            left.append(sliced(moved, wanted[k]) / before[k])
            if spent > SLOWEST:
                break
        if len(left) == COMPARED:
            rows[name] = {
                "ms": 1e3 * median(seconds),
                "seconds for a million pixels": 1e6 * median(pixels),
                "left": mean(left),
                "worst": max(left),
            }
            print(split, name, {key: round(value, 4) for key, value in rows[name].items()}, flush=True)
    return rows


def best(found: dict[str, Any], family: str, limit: float) -> dict[str, Any]:
    """Return the test figures of the setting that is the best on validation pairs within a budget."""
    chosen = [
        (row["left"], name)
        for name, row in found["validation"].items()
        if name.split(",")[0] == family and row["ms"] <= 1e3 * limit and name in found["test"]
    ]
    return {"setting": min(chosen)[1], **found["test"][min(chosen)[1]]} if chosen else {}


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what an action returns, and its seconds of processor time."""
    begun = process_time()
    result = action()
    return result, process_time() - begun


def sliced(x: Tensor, y: Tensor) -> float:
    """Return the sliced distance of two clouds."""
    slices = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(0.005, 0.995, 200)
    gaps = [(z @ (slices / slices.norm(dim=0))).quantile(levels, dim=0) for z in (x, y)]
    return float((gaps[0] - gaps[1]).square().mean().sqrt())


def training(runs: Path) -> dict[str, Any]:
    """Return how good both networks are after about the same time, on the scale of the evaluation."""
    histories = json.loads((RESULTS / "evaluation.json").read_text())
    curves = [c["values"] for c in histories["curves"] if c["name"] in ("from scratch", "model")]
    low, high = np.concatenate(curves, 1).min(1), np.concatenate(curves, 1).max(1)
    data = replace(Paintings(pictures=True, variety=0.0).split("test"), batch=PAIRS, samples=SAMPLES)
    problem = data.sample(torch.Generator().manual_seed(SEED))
    rows = {}
    for name, settings in EQUAL.items():
        folder = runs / name
        if not (folder / "model.json").exists() and main(["train", name, *settings, "--out", str(folder)]):
            sys.exit(2)
        card, model = read_card(folder), load(folder)
        values = brenier_value(problem, model.predict(problem)).numpy()
        normal = (values - low) / (high - low)
        _, spent = timed(lambda model=model: [model.predict(problem[k]) for k in range(10)])
        rows[name] = {
            "command": card["command"],
            "steps": card["step"],
            "training seconds, wall clock": card["training_seconds"],
            "parameters": card["parameters"],
            "normalised value, mean": float(normal.mean()),
            "normalised value, worst": float(normal.min()),
            "share of the optimum, mean": float((values / np.array(histories["distance"])).mean()),
            "prediction, ms": 100 * spent,
        }
        print(name, rows[name], flush=True)
    linear = (brenier_value(problem, BuresStart().predict(problem)).numpy() - low) / (high - low)
    rows["linear (Bures)"] = {
        "normalised value, mean": float(linear.mean()),
        "normalised value, worst": float(linear.min()),
    }
    return rows


def times() -> dict[str, Any]:
    """Return seconds and MB of `metaot recolor`, and milliseconds of predictions."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "palette.onnx"
        if main(["export", CHECKPOINT, "--out", str(file)]):
            sys.exit(2)
        small = [data_folder(None) / "paintings" / painting for painting in PICTURES]
        large = [enlarged(picture, folder / f"large-{picture.name}") for picture in small]
        cases: dict[str, tuple[list[Path], str, list[str]]] = {
            "a painting": (small, "png", []),
            "a painting, --strip": (small, "png", ["--strip"]),
            "a painting, --model FILE.onnx": (small, "png", ["--model", str(file)]),
            "12 megapixels": (large, "jpg", []),
            "12 megapixels, as PNG": (large, "png", []),
            "12 megapixels, --strip": (large, "jpg", ["--strip"]),
            "12 megapixels, --model FILE.onnx": (large, "jpg", ["--model", str(file), "--threads", "2"]),
        }
        found = {
            case: command([*map(str, pictures), "-o", str(folder / f"out.{kind}"), *more])
            for case, (pictures, kind, more) in cases.items()
        }
        return {"threads": THREADS, "runs": RUNS, "recolor": found, "prediction, ms": predictions(file)}


def enlarged(picture: Path, path: Path) -> Path:
    """Write a painting with 4000 x 3000 pixels and the noise of a camera."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = np.random.default_rng(0).integers(-3, 4, pixels.shape, dtype=np.int16)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return path


MEASURED = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
subprocess.run([sys.executable, "-m", "metaot", "recolor", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""Runs the command from a small process: what its parent holds counts as a child's memory."""


def command(arguments: list[str]) -> dict[str, float]:
    """Return the figures of `metaot recolor` in a process of its own, medians of `RUNS`."""
    limits = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OPENBLAS_NUM_THREADS": str(THREADS)}
    rows = []
    for _ in range(RUNS + 1):
        call = [sys.executable, "-c", MEASURED, *arguments]
        rows.append(json.loads(subprocess.run(call, env=limits, check=True, capture_output=True).stdout))
    seconds, processor, megabytes = zip(*rows[1:], strict=True)
    return {"seconds": median(seconds), "processor": median(processor), "MB": max(megabytes)}


def predictions(file: Path) -> dict[str, dict[str, float]]:
    """Return milliseconds of processor time for one pair of 512 samples, by each method in turn, many times."""
    model, exported = load(CHECKPOINT), metaot.OnnxMap(file)
    data = replace(Paintings().split("test"), batch=PAIRS, samples=512).sample(torch.Generator().manual_seed(SEED))
    pairs = [(data[k], data.x[k].numpy(), data.y[k].numpy()) for k in range(PAIRS)]
    methods: dict[str, Callable[[Any, Any, Any], object]] = {
        "metaot.load": lambda problem, x, y: model.predict(problem),
        "metaot.load, all in torch": lambda problem, x, y: model.stages(problem),
        "OnnxMap": lambda problem, x, y: exported.predict(x, y),
    }
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for pair in (*pairs[:5], *pairs):
        for name, method in methods.items():
            spent[name].append(1e3 * timed(lambda pair=pair, method=method: method(*pair))[1])
    return {
        name: {"median": median(row[5:]), "p95": float(np.quantile(row[5:], 0.95))} for name, row in spent.items()
    }


def written(name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(RESULTS / name, lambda partial: partial.write_text(text))
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--runs", type=Path, default=Path("runs/equal"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = ["evaluate", "discrete", "training", "times"]
    parts = options.parts or known
    unknown = set(parts) - set(known)
    if unknown:
        parser.error(f"the parts are {', '.join(known)}, got {sorted(unknown)}")
    if "evaluate" in parts:
        evaluate()
    if "discrete" in parts:
        written("discrete.json", discrete())
    if "training" in parts:
        written("training.json", training(options.runs))
    if "times" in parts:
        written("times.json", times())
