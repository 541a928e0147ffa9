"""The protocol: how many steps and how much time a prediction saves, and what it is worth by itself.

One precision, one stopping rule (L1 marginal error, tested at every step), the same threads, problems and run for
every start. The time of the start itself counts; the starts take turns, so that other load affects all of them.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.amortize import GaussianStart
from metaot.data.base import ProblemSet
from metaot.evaluation.measures import EpsResult, Quality, Reference, StartResult, Timing
from metaot.evaluation.report import Report
from metaot.geometry.base import expand_eps
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, c_transform, marginal_error, tilted, transport_cost
from metaot.problem import Problem
from metaot.solvers import solve
from metaot.solvers.in_torch import worse_than_zeros
from metaot.solvers.solve import PotentialPredictor

Starts = dict[str, PotentialPredictor | None]
"""Where to start from, by name; None is the solver's own cold start."""

QUALITY_STEPS = 2
"""Potentials are judged as predicted, and after each of this number of Sinkhorn steps."""


@final
@dataclass(frozen=True)
class _Settings:
    tolerances: tuple[float, ...]
    instances: int
    batch: int
    seed: int
    max_steps: int
    timed: int
    seconds: float

    def __post_init__(self) -> None:
        if not self.tolerances or not min(self.tolerances) > 0:
            raise ValueError(f"tolerances must be positive numbers, got {self.tolerances}")
        for name in ("instances", "batch", "timed"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


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
    timed: int = 50,
    seconds: float = 10.0,
) -> Report:
    """Compare the prediction with zeros and with the Gaussian start, on the same problems at each eps.

    `instances` problems are drawn from `problems` with the seed. Times are taken on batches of `batch`, over
    about `timed` instances and five batches at least, or until one tolerance has taken `seconds` (two batches
    at least). Steps are those of plain Sinkhorn, as in the papers; times those of `solve`, as it is used. Both
    make up to `max_steps` steps; what is not reached then is marked, not left out.
    """
    if not eps:
        raise ValueError("eps must name at least one temperature, got none")
    ordered = tuple(sorted(tolerances, reverse=True))
    settings = _Settings(ordered, instances, batch, seed, max_steps, timed, seconds)
    starts: Starts = {"zeros": None}
    if GaussianStart.fits(problems.geometry):
        starts["Gaussian"] = GaussianStart()
    starts["model"] = predictor
    return Report(
        machine=_machine(),
        geometry=repr(problems.geometry),
        passes=getattr(predictor, "passes", 0),
        instances=instances,
        batch=batch,
        seed=seed,
        max_steps=max_steps,
        tolerances=ordered,
        results=tuple(_at_eps(problems, starts, e, settings) for e in eps),
    )


def _at_eps(problems: ProblemSet, starts: Starts, eps: float, settings: _Settings) -> EpsResult:
    drawn = replace(problems, batch=settings.instances, eps=(eps, eps))
    problem = drawn.sample(torch.Generator().manual_seed(settings.seed))
    reference = _reference(problem, starts.get("Gaussian"), 1e-9 if eps >= 1e-2 else 1e-6)
    times = _times(problem, starts, settings)
    measured = tuple(
        _measure(name, start, problem, reference, settings=settings, timings=times[name])
        for name, start in starts.items()
    )
    return EpsResult(eps, reference, measured)


def _reference(
    problem: Problem, start: PotentialPredictor | None, tol: float, max_steps: int = 10_000
) -> Reference:
    """Solve the problems for good; not from the prediction, which is to be judged by the result."""
    solution = solve(problem, init=start, tol=tol, max_steps=max_steps)
    return Reference(tol, max_steps, solution.value, solution.cost(), solution.converged)


def _measure(
    name: str,
    start: PotentialPredictor | None,
    problem: Problem,
    reference: Reference,
    *,
    settings: _Settings,
    timings: tuple[Timing, ...],
) -> StartResult:
    cold = DualPotentials.from_f(problem, torch.zeros_like(problem.a))
    guess = cold if start is None else start.predict(problem)
    potentials = guess
    quality = [_quality(0, problem, guess, reference)]
    for step in range(1, QUALITY_STEPS + 1):
        potentials = DualPotentials.from_f(problem, c_transform(problem.T, potentials.g))
        quality.append(_quality(step, problem, potentials, reference))
    tol, max_steps = settings.tolerances[-1], settings.max_steps
    worse = _worse(problem, guess) if start is not None else torch.zeros_like(reference.converged)
    curve = error_curve(problem, torch.where(worse[:, None], 0.0, guess.f), tol=tol, max_steps=max_steps)
    return StartResult(name, curve, worse, tuple(quality), timings)


def _worse(problem: Problem, guess: DualPotentials) -> Bool[Tensor, "instances"]:
    """Return which guesses a solver replaces by zeros."""
    completed = DualPotentials.from_f(problem, guess.f)
    return worse_than_zeros(problem, completed, marginal_error(problem, completed))


def _quality(steps: int, problem: Problem, potentials: DualPotentials, reference: Reference) -> Quality:
    gap = reference.dual_value - dual_value(problem, potentials)
    cost = (transport_cost(problem, potentials) - reference.cost).abs()
    smallest = 1e-12 * float(problem.eps)
    return Quality(
        steps=steps,
        l1_error=marginal_error(problem, potentials),
        dual_gap=gap,
        relative_dual_gap=gap / reference.dual_value.abs().clamp_min(smallest),
        relative_cost_error=cost / reference.cost.clamp_min(smallest),
    )


def error_curve(
    problem: Problem, f: Float[Tensor, "instances n"], *, tol: float, max_steps: int
) -> Float[Tensor, "steps instances"]:
    """Return the error of plain Sinkhorn before the first step and after each one, until all are below `tol`.

    The first row at or below any larger tolerance is the number of steps to it. An
    instance that is done, or NaN, keeps its last error.
    """
    f, error = _sinkhorn_step(problem, f)
    curve, alive = [error], torch.arange(len(error), device=error.device)
    for _ in range(max_steps):
        going = error > tol
        if not bool(going.any()):
            break
        if not bool(going.all()):
            alive, f, problem = alive[going], f[going], problem[going]
        f, error = _sinkhorn_step(problem, f)
        curve.append(curve[-1].index_copy(0, alive, error))
    return torch.stack(curve)


def _sinkhorn_step(
    problem: Problem, f: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch"]]:
    """Return the next f, and the L1 error of f and the best g for it."""
    following = c_transform(problem.T, c_transform(problem, f))
    marginal = tilted(problem.a, (f - following) / expand_eps(problem.eps, f))
    return following, (marginal - problem.a).abs().sum(-1)


def _times(problem: Problem, starts: Starts, settings: _Settings) -> dict[str, tuple[Timing, ...]]:
    """Time every start on the same batches, in turns, tolerance by tolerance."""
    first = _cyclic_batch(problem, 0, settings.batch)
    for start in starts.values():  # warm-up
        solve(first, init=start, tol=settings.tolerances[0], max_steps=3)
    by_tol = [_times_to(tol, problem, starts, settings) for tol in settings.tolerances]
    return {name: tuple(timings[name] for timings in by_tol) for name in starts}


def _times_to(tol: float, problem: Problem, starts: Starts, settings: _Settings) -> dict[str, Timing]:
    spent: dict[str, list[float]] = {name: [] for name in starts}
    converged = dict.fromkeys(starts, True)
    for k in range(max(5, -(-settings.timed // settings.batch))):
        part = _cyclic_batch(problem, k, settings.batch)
        for name, start in starts.items():
            begin = perf_counter()
            solution = solve(part, init=start, tol=tol, max_steps=settings.max_steps)
            spent[name].append(perf_counter() - begin)
            converged[name] &= bool(solution.converged.all())
        if k > 0 and sum(map(sum, spent.values())) > settings.seconds:
            break
    per_instance = {name: torch.tensor(spent[name], dtype=torch.float64) / settings.batch for name in starts}
    return {name: Timing(tol, per_instance[name], converged[name]) for name in starts}


def _cyclic_batch(problem: Problem, k: int, batch: int) -> Problem:
    """Return the k-th batch of the problems, which begin again after the last one."""
    return problem[(k * batch + torch.arange(batch)) % len(problem.a)]


def _machine() -> dict[str, str | int]:
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": "float64",
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
