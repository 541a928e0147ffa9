"""The protocol: how many steps and how much time a prediction saves, and what it is worth by itself.

One precision, one stopping rule (L1 marginal error, tested at every step), the same threads, problems and run for
every start. The time of the start itself counts; the starts take turns, so that other load affects all of them.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.amortize import GaussianStart, ZeroStart
from metaot.data.base import ProblemSet
from metaot.evaluation.report import EpsResult, Quality, Reference, Report, StartResult, Timing
from metaot.geometry.base import expand_eps
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, c_transform, marginal_error, tilted, transport_cost
from metaot.problem import Problem
from metaot.solvers import solve
from metaot.solvers.refine import worse_than_zeros
from metaot.solvers.start import PotentialPredictor

Starts = dict[str, PotentialPredictor | None]
"""Where to start from, by name; None is the solver's own cold start."""
Step = Callable[[Problem, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Problems, f and their indices in the whole batch -> the next f of Sinkhorn, and an error of f and its best g."""

QUALITY_STEPS = 2
"""Potentials are judged as predicted, and after each of this number of Sinkhorn steps."""
_REFERENCE_STEPS = 10_000
_TIMED = 50


@torch.no_grad()
def evaluate(
    predictor: PotentialPredictor,
    problems: ProblemSet,
    *,
    eps: Sequence[float],
    tolerances: Sequence[float] = (1e-2, 1e-3, 1e-4, 1e-5),
    instances: int = 100,
    batch: int = 1,
    seed: int = 0,
    max_steps: int = 5000,
    seconds: float = 10.0,
) -> Report:
    """Compare the prediction with zeros and with the Gaussian start, on the same problems at each eps.

    `instances` problems are drawn from `problems` with the seed. Times are taken on batches of `batch`, over
    about fifty instances and five batches at least, or until one tolerance has taken `seconds` (two batches at
    least). Steps are counted for plain Sinkhorn, as in the papers; times are measured for `solve`. Both make up to
    `max_steps` steps; a tolerance that is not reached then is marked, not left out.
    """
    if not eps:
        raise ValueError("eps must name at least one temperature, got none")
    if not tolerances or not min(tolerances) > 0:
        raise ValueError(f"tolerances must be positive numbers, got {tolerances}")
    for name, count in (("instances", instances), ("batch", batch)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    shared = problems.geometry
    space = shared or replace(problems, batch=1).sample(torch.Generator().manual_seed(seed)).geometry
    gaussian: Starts = {"Gaussian": GaussianStart()} if GaussianStart.fits(space) else {}
    starts: Starts = {"zeros": None, **gaussian, "model": predictor}
    report = Report(
        machine={
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "dtype": "float64",
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        geometry=repr(shared) if shared is not None else f"{space.words}, others in each problem",
        passes=getattr(predictor, "passes", 0),
        instances=instances,
        batch=batch,
        seed=seed,
        max_steps=max_steps,
        tolerances=tuple(sorted(tolerances, reverse=True)),
        results=(),
    )
    return replace(report, results=tuple(_at_eps(problems, starts, e, report, seconds) for e in eps))


def _at_eps(problems: ProblemSet, starts: Starts, eps: float, report: Report, seconds: float) -> EpsResult:
    drawn = replace(problems, batch=report.instances, eps=(eps, eps))
    problem = drawn.sample(torch.Generator().manual_seed(report.seed))
    tol = 1e-9 if eps >= 1e-2 else 1e-6
    # it does not start from the prediction, which is compared with it
    exact = solve(problem, init=starts.get("Gaussian"), tol=tol, max_steps=_REFERENCE_STEPS)
    reference = Reference(tol, _REFERENCE_STEPS, exact.value, exact.cost(), exact.converged)
    times = _times(problem, starts, report, seconds)
    measured = [
        StartResult(name, *_measured(start, problem, reference, report), tuple(times[name]))
        for name, start in starts.items()
    ]
    return EpsResult(eps, reference, tuple(measured))


def _measured(
    start: PotentialPredictor | None, problem: Problem, reference: Reference, report: Report
) -> tuple[Float[Tensor, "steps instances"], Bool[Tensor, "instances"], tuple[Quality, ...]]:
    """Return the error after each step, which predictions were replaced by zeros, and the quality."""
    guess = (start or ZeroStart()).predict(problem)
    potentials, quality = guess, []
    for steps in range(QUALITY_STEPS + 1):
        quality.append(_quality(steps, problem, potentials, reference))
        potentials = DualPotentials.from_f(problem, c_transform(problem.T, potentials.g))
    replaced = torch.zeros_like(reference.converged)
    if start is not None:
        replaced = worse_than_zeros(problem, guess, quality[0].l1_error)
    f = torch.where(replaced[:, None], 0.0, guess.f)
    curve = error_curve(problem, f, tol=report.tolerances[-1], max_steps=report.max_steps)
    return curve, replaced, tuple(quality)


def _quality(steps: int, problem: Problem, potentials: DualPotentials, reference: Reference) -> Quality:
    gap = reference.dual_value - dual_value(problem, potentials)
    cost = (transport_cost(problem, potentials) - reference.cost).abs()
    smallest = 1e-12 * torch.as_tensor(problem.eps).to(gap)
    return Quality(
        steps=steps,
        l1_error=marginal_error(problem, potentials),
        dual_gap=gap,
        relative_dual_gap=gap / reference.dual_value.abs().maximum(smallest),
        relative_cost_error=cost / reference.cost.maximum(smallest),
    )


def _marginal_step(problem: Problem, f: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next f, and the L1 error of f and the best g for it."""
    following = c_transform(problem.T, c_transform(problem, f))
    marginal = tilted(problem.a, (f - following) / expand_eps(problem.eps, f))
    return following, (marginal - problem.a).abs().sum(-1)


def error_curve(
    problem: Problem, f: Float[Tensor, "instances n"], *, tol: float, max_steps: int, step: Step = _marginal_step
) -> Float[Tensor, "steps instances"]:
    """Return an error of plain Sinkhorn before the first step and after each step, until all are at most `tol`.

    The first row at or below any larger tolerance is the number of steps to it. An instance that reached `tol`,
    or is NaN, keeps its last error.
    """
    alive = torch.arange(len(f), device=f.device)
    f, error = step(problem, f, alive)
    curve = [error]
    for _ in range(max_steps):
        going = error > tol
        if not bool(going.any()):
            break
        if not bool(going.all()):
            alive, f, problem = alive[going], f[going], problem[going]
        f, error = step(problem, f, alive)
        curve.append(curve[-1].index_copy(0, alive, error))
    return torch.stack(curve)


def _times(problem: Problem, starts: Starts, report: Report, seconds: float) -> dict[str, list[Timing]]:
    """Time every start on the same batches, in turns, tolerance by tolerance."""
    count = max(5, -(-_TIMED // report.batch)) * report.batch
    order = torch.arange(count) % len(problem.a)  # the first problems come again after the last one
    batches = [problem[index] for index in order.split(report.batch)]
    for start in starts.values():  # warm-up
        solve(batches[0], init=start, tol=report.tolerances[0], max_steps=3)
    timings: dict[str, list[Timing]] = {name: [] for name in starts}
    for tol in report.tolerances:
        spent: dict[str, list[float]] = {name: [] for name in starts}
        converged = dict.fromkeys(starts, True)
        for k, part in enumerate(batches):
            for name, start in starts.items():
                begin = perf_counter()
                solution = solve(part, init=start, tol=tol, max_steps=report.max_steps)
                spent[name].append(perf_counter() - begin)
                converged[name] &= bool(solution.converged.all())
            if k > 0 and sum(map(sum, spent.values())) > seconds:
                break
        for name, found in timings.items():
            per_instance = torch.tensor(spent[name], dtype=torch.float64) / report.batch
            found.append(Timing(tol, per_instance, converged[name]))
    return timings
