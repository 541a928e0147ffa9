"""Measure, write discrete.json, and print the tables and draw the picture from it; see the package."""

import argparse
import json
import os
import platform
from pathlib import Path
from time import perf_counter
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
EXTRAS = ("bad-starts", "memory")


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    limit_threads(options.threads)
    file = options.out / "discrete.json"
    if not options.report:
        run(options, file)
    render(json.loads(file.read_text()), options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discrete", description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, help="the data folder (default: METAOT_DATA, or the user's cache)"
    )
    parser.add_argument("--pairs", type=int, default=50, help="MNIST pairs; other problems have a share of it")
    parser.add_argument("--only", nargs="+", metavar="PROBLEM", help=f"beginnings of names, or of {EXTRAS}")
    parser.add_argument("--methods", nargs="+", help="parts of the names of methods; combine with another --out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--threads", type=int, default=2, help="threads, and cores, of every library")
    parser.add_argument("--limit", type=float, default=10, help="seconds of one solve before it is given up")
    parser.add_argument(
        "--budget", type=float, default=2, help="seconds for a method at one accuracy of a problem"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing: render the results that are there")
    return parser.parse_args()


def limit_threads(threads: int) -> None:
    """Give every library the same threads; it must be done before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):  # JAX takes as many threads as there are cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def run(options: argparse.Namespace, file: Path) -> None:
    """Measure what is asked for; results of other problems in the file stay."""
    import torch  # noqa: PLC0415, after limit_threads

    import metaot  # noqa: PLC0415
    from benchmarks.discrete.measure import measure  # noqa: PLC0415
    from benchmarks.discrete.methods import all_methods  # noqa: PLC0415
    from benchmarks.discrete.methods.ours import CHECKPOINT, ModelStart  # noqa: PLC0415
    from benchmarks.discrete.problems import families  # noqa: PLC0415

    torch.set_num_threads(options.threads)
    methods, versions = all_methods(ModelStart(metaot.load(CHECKPOINT)))
    if options.methods:
        methods = [method for method in methods if any(part in method.name for part in options.methods)]
    results = json.loads(file.read_text()) if file.exists() else {"families": {}, "methods": {}, "extras": {}}
    results["methods"] |= {method.name: {"library": method.library, "kind": method.kind} for method in methods}
    machine = {"threads": options.threads, "platform": platform.platform(), "libraries": versions}
    results["machine"] = machine | {"torch": torch.__version__, "python": platform.python_version()}
    print(machine, flush=True)
    everything = families(options.pairs, options.data_dir)
    for family in everything:
        if not _asked(family.name, options.only):
            continue
        begin, limit = perf_counter(), options.limit * (6 if family.size > 1 else 1)
        print(family.title, flush=True)
        try:
            cells = measure(family, methods, limit=limit, budget=options.budget, tell=_tell)
        except FileNotFoundError as reason:
            print(f"  left out: {reason}")
            continue
        facts = {"title": family.title, "count": family.count, "size": family.size, "limit": limit}
        results["families"][family.name] = {**facts, "cells": cells}
        print(f"  {perf_counter() - begin:.0f} s in all", flush=True)
        _save(results, [family.name for family in everything], file)
    _run_extras(options, results)
    _save(results, [family.name for family in everything], file)


def _run_extras(options: argparse.Namespace, results: dict[str, Any]) -> None:
    from benchmarks.discrete.extras import bad_starts, large_pair  # noqa: PLC0415, after limit_threads

    if _asked("bad-starts", options.only):
        results["extras"]["bad-starts"] = [bad_starts(eps, options.data_dir) for eps in (1e-2, 1e-3)]
    if _asked("memory", options.only):
        results["extras"]["memory"] = large_pair(options.data_dir, options.threads)


def _asked(name: str, only: list[str] | None) -> bool:
    return only is None or any(name.startswith(part) for part in only)


def _tell(line: str) -> None:
    print(line, flush=True)


def _save(results: dict[str, Any], order: list[str], file: Path) -> None:
    """Write the problems in their order, all or nothing; lists stay on their lines."""
    found = results["families"]
    results["families"] = {name: found[name] for name in order if name in found}
    lines = [f"  {json.dumps(name)}: {json.dumps(family)}" for name, family in results["families"].items()]
    rest = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in results.items() if key != "families"]
    partial = file.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join([*rest, ' "families": {\n' + ",\n".join(lines) + "\n }"]) + "\n}\n")
    partial.replace(file)


def render(results: dict[str, Any], out: Path) -> None:
    from benchmarks.discrete.plot import draw  # noqa: PLC0415, after limit_threads
    from benchmarks.discrete.table import families_table  # noqa: PLC0415

    draw(results, out / "discrete.png")
    print(families_table(results))


if __name__ == "__main__":
    main()
