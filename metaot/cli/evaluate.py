"""Measure a checkpoint on test problems: steps, time and accuracy from three starts."""

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metaot.amortize import AmortizedPotential, Predictor, StagedPredictor
from metaot.amortize.costs import CostPotential
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import annotate, load
from metaot.cli.options import add_data_dir, duration, new_folder, positives, threads, whole, wholes
from metaot.data import ProblemFolder, ProblemSet, SampleSet, SnapshotSet, Source, middle, source_from_json
from metaot.data.base import EpsRange
from metaot.data.images import NAMES, ImageArchives
from metaot.evaluation import evaluate
from metaot.evaluation.costs import evaluate_costs
from metaot.evaluation.maps import evaluate_maps
from metaot.evaluation.populations import evaluate_population
from metaot.evaluation.zero_shot import table, zero_shot
from metaot.folders import located, read_card, shipped, write_atomically
from metaot.inverse.potential_network import NetworkPotential
from metaot.maps import SemiDiscrete
from metaot.problem import Problem
from metaot.recipes import RECIPES
from metaot.solvers import solve

_SHEET = 12
"""How many images the sheet of recoloured pairs shows."""
DIGITS = 6
"""How many pairs the picture of interpolations shows."""
PLACES = 3
"""How many problems the picture of places shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a checkpoint, a shipped name such as mnist, or OWNER/NAME")
    parser.add_argument(
        "--data",
        help="data of this recipe, or a folder of your problems (default: the checkpoint's); of the universal "
        "model: image sets that it was not trained on, such as mnist,quickdraw or fashion:mnist, of "
        f"{', '.join(NAMES)} and .npz files",
    )
    numbers: dict[str, Any] = {"type": positives, "nargs": "+"}
    parser.add_argument(
        "--resolution", type=wholes, nargs="+", default=[[28]], help="of the universal model: 28,64 (default: 28)"
    )
    parser.add_argument(
        "--eps", **numbers, help="temperatures, such as 1e-2,1e-3 (default: the middle and the lowest trained)"
    )
    parser.add_argument("--tol", **numbers, default=[[1e-2, 1e-3, 1e-4, 1e-5]], help="L1 errors to reach")
    parser.add_argument("--passes", type=whole(0), help="Sinkhorn steps inside a prediction (default: as trained)")
    parser.add_argument("--instances", type=whole(1), default=100, help="test problems (default: 100)")
    parser.add_argument(
        "--newton", type=whole(0), default=20, help="of the universal model: problems given to Newton"
    )
    parser.add_argument(
        "--batch", type=whole(1), default=1, help="problems solved at once when timing (default: 1)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="which test problems are drawn")
    parser.add_argument(
        "--seconds", type=duration, default=10.0, help="at most this long for the times to one error"
    )
    parser.add_argument("--samples", type=whole(2), default=2000, help="of maps: samples of each measure")
    parser.add_argument("--steps", type=whole(1), default=1000, help="of maps: steps of W2GN")
    parser.add_argument("--threads", type=threads, help="threads of torch (default: all cores)")
    parser.add_argument(
        "--out", type=new_folder,
        help="folder of the results (default: CHECKPOINT/evaluation; for a name of a shipped one NAME-evaluation)",
    )  # fmt: skip
    parser.add_argument("--record", action="store_true", help="write the means into the checkpoint's model.json")
    add_data_dir(parser)


def run(options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    checkpoint = located(options.checkpoint)
    predictor, card = load(checkpoint), read_card(checkpoint)
    if options.record and checkpoint != Path(options.checkpoint):
        raise ValueError(f"--record writes into the folder of a checkpoint, and {options.checkpoint} is none here")
    _set_out(options)
    if options.passes is not None:
        if not isinstance(predictor, StagedPredictor):
            raise ValueError(
                f"--passes is for models of potentials that Sinkhorn refines, {options.checkpoint} is none"
            )
        predictor.passes = options.passes
    if isinstance(predictor, SemiDiscrete):
        raise ValueError(
            f"{options.checkpoint} is for samples of a distribution, which no folder holds: what was measured is "
            "in its model.json, and its `measure(sampler, samples)` measures anew"
        )
    if isinstance(predictor, UniversalPotential):
        _run_zero_shot(options, predictor)
        return
    source = _source(options.data, card)
    problems = source.split("test", options.data_dir)
    from metaot.evaluation import pictures  # noqa: F401, PLC0415, matplotlib is an extra; asked for before the work

    kind, measure = _MEASURES.get(type(predictor), (type(None), None))
    if measure is None or not isinstance(problems, kind):
        raise ValueError(f"{options.checkpoint} and {source} do not fit: name the data that it was trained for")
    measure(options, predictor, problems, source)


def _source(data: str | None, card: dict[str, Any]) -> Source:
    """Return the data of a recipe, of a folder of problems, or those that a model was trained on."""
    if data is None:
        return source_from_json(card["recipe"]["data"])
    if data in RECIPES:
        return RECIPES[data]().data
    if (Path(data) / "card.json").is_file():
        return ProblemFolder(path=data)
    raise ValueError(
        f"--data must be a folder that metaot.data.write_problems made, or one of {sorted(RECIPES)}, got {data!r}"
    )


def _set_out(options: argparse.Namespace) -> None:
    """Choose the folder of the results, unless one is named; ask whether it can be written to."""
    given = Path(options.checkpoint)
    if options.record:
        new_folder(str(given))
    if options.out is None:
        options.out = new_folder(str(given / "evaluation" if given.is_dir() else f"{given.name}-evaluation"))


def _joined(lists: list[list[float]]) -> list[float]:
    return [number for numbers in lists for number in numbers]


def _temperatures(options: argparse.Namespace, trained: EpsRange) -> list[float]:
    if options.eps:
        return _joined(options.eps)
    return sorted({middle(trained), trained[0]}, reverse=True)


def _run_zero_shot(options: argparse.Namespace, predictor: UniversalPotential) -> None:
    results = []
    for name in (options.data or ",".join(NAMES)).split(","):
        for side in itertools.chain(*options.resolution):
            problems = ImageArchives(name, side, options.instances).split("test", options.data_dir)
            for eps in _temperatures(options, predictor.eps):
                drawn = replace(problems, eps=(eps, eps))
                problem = drawn.sample(torch.Generator().manual_seed(options.seed))
                starts = {"model": predictor, **_specialised(problem)}
                results.append(zero_shot(starts, problem, data=name, newton=options.newton))
                print(table(results[-1:]), flush=True)
    content = {"passes": predictor.passes, "seed": options.seed, "results": [r.to_json() for r in results]}
    _written(options, content)


def _specialised(problem: Problem) -> dict[str, Predictor]:
    """Return the shipped model of MNIST, to compare with, if it was trained for such problems."""
    if "mnist" not in shipped():
        return {}
    mnist = load("mnist")
    low, high = mnist.eps
    return {"mnist": mnist} if mnist.geometry.matches(problem.geometry) and low <= problem.eps <= high else {}


def _run_maps(options: argparse.Namespace, predictor: AmortizedMap, problems: SampleSet, _source: Source) -> None:
    from metaot.evaluation import pictures  # noqa: PLC0415, matplotlib is an extra

    sizes = {name: getattr(options, name) for name in ("instances", "samples", "steps")}
    report = evaluate_maps(predictor, problems, **sizes, seed=options.seed)
    print(report.table())
    folder = _written(options, report.to_json(), {"data": report.data, **report.summary()})
    pictures.draw_curves(report, folder / "curves.png")
    images = getattr(problems, "images", None)
    if images is not None:
        pictures.draw_sheet(predictor, images[:_SHEET], folder / "sheet.png")


def _run_potentials(
    options: argparse.Namespace, predictor: AmortizedPotential, problems: ProblemSet, source: Source
) -> None:
    data = type(source).__name__
    temperatures = _temperatures(options, predictor.eps)
    sizes = {name: getattr(options, name) for name in ("instances", "batch", "seed", "seconds")}
    report = evaluate(predictor, problems, eps=temperatures, tolerances=_joined(options.tol), **sizes)
    print(report.table())
    folder = _written(options, {"data": data, **report.to_json()}, {"data": data, **report.summary()})
    from metaot.evaluation import pictures  # noqa: PLC0415, matplotlib is an extra

    pictures.draw_convergence(report, folder / "convergence.png")
    axes, eps = getattr(problems.geometry, "sizes", ()), temperatures[0]
    count = DIGITS if len(axes) == 2 else PLACES
    problem = replace(problems, batch=count, eps=(eps, eps)).sample(torch.Generator().manual_seed(1))
    exact, guess = solve(problem, tol=1e-6).potentials, predictor.predict(problem)
    if len(axes) == 2:
        pictures.draw_interpolations(problem, exact, guess, axes, folder / "interpolations.png")
    else:
        pictures.draw_places(problem, exact, guess, folder / "places.png")


def _run_populations(
    options: argparse.Namespace, predictor: NetworkPotential, problems: SnapshotSet, source: Source
) -> None:
    report = evaluate_population(predictor, problems, type(source).__name__)
    print(report.table())
    _written(options, report.to_json(), report.summary())


def _run_costs(
    options: argparse.Namespace, predictor: CostPotential, problems: ProblemSet, source: Source
) -> None:
    stored, reports = source.split("train", options.data_dir), []
    assert isinstance(stored, ProblemSet)
    tol = 1e-3 if 1e-3 in _joined(options.tol) else min(_joined(options.tol))
    for eps in _temperatures(options, problems.eps):
        settings = {"eps": eps, "tol": tol, "instances": options.instances, "seed": options.seed}
        reports.append(evaluate_costs(predictor, problems, stored, data=type(source).__name__, **settings))
        print(reports[-1].table(), end="\n\n", flush=True)
    _written(options, {"results": [r.to_json() for r in reports]}, {"results": [r.summary() for r in reports]})


_MEASURES: dict[type, tuple[type, Callable[[argparse.Namespace, Any, Any, Any], None]]] = {
    AmortizedMap: (SampleSet, _run_maps),
    AmortizedPotential: (ProblemSet, _run_potentials),
    CostPotential: (ProblemSet, _run_costs),
    NetworkPotential: (SnapshotSet, _run_populations),
}
"""What measures each predictor, and the kind of data that it is measured on."""


def _written(options: argparse.Namespace, content: dict[str, Any], summary: dict[str, Any] | None = None) -> Path:
    """Write the results, and their summary into the card if asked; return their folder."""
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"checkpoint": str(options.checkpoint), **content}) + "\n"
    write_atomically(folder / "evaluation.json", lambda partial: partial.write_text(text))
    if options.record and summary:
        annotate(Path(options.checkpoint), test=summary)
    print(f"\nwritten to {folder}")
    return folder
