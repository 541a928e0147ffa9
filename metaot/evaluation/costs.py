"""Starts for problems whose costs change: what a prediction saves over the best start without learning.

Every start is refined by accelerated Sinkhorn steps to one error, on the same problems, in turns; the time that it
takes to find a start counts. Without learning a solver may start from zeros; from the solution of the problem
before, or of the nearest stored one; from the solution of the same quantities at the mean cost; or from that of a
part of the targets.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.predictor import Predictor
from metaot.data import ProblemSet
from metaot.evaluation.report import markdown, mean, p95
from metaot.geometry import Dense
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

LEARNT = "model"
_STORED = 64
"""Solved problems among which the nearest is looked for."""
_ENOUGH, _EXACT = 1e-2, 1e-8
"""L1 errors of solutions that are only starts, and of those that predictions are compared with."""
_SMALL = 2**20
"""Entries of matrices up to which a solver may start from other matrices."""
_PART = 5
"""Of so many targets the heaviest one is kept, where a part of them is solved."""

Start = Callable[[Problem, int], Tensor | None]
"""From one problem and its number to f, or to None for zeros."""


@final
@dataclass(frozen=True)
class Measured:
    """What was measured of one start, instance by instance."""

    steps: Float[Tensor, "instances"]
    seconds: Float[Tensor, "instances"]
    finding: Float[Tensor, "instances"]
    """Seconds that it took to find the start, which are part of `seconds`."""
    gap: Float[Tensor, "instances"]
    """The relative dual gap of the start itself."""


@final
@dataclass(frozen=True)
class CostReport:
    """Starts on problems of one kind; all ratios are of means over the instances."""

    data: str
    shape: tuple[int, int]
    eps: float
    tol: float
    threads: int
    starts: dict[str, Measured]

    def best(self, measure: str) -> str:
        """Return the best start without learning."""
        others = [name for name in self.starts if name != LEARNT]
        return min(others, key=lambda name: float(getattr(self.starts[name], measure).mean()))

    def ratio(self, measure: str) -> float:
        """Return the model's steps, or seconds, over those of the best start without learning."""
        ours, best = (getattr(self.starts[name], measure).mean() for name in (LEARNT, self.best(measure)))
        return float(ours / best)

    def summary(self) -> dict[str, Any]:
        """Return what a card says."""
        return {
            "data": self.data,
            "shape": list(self.shape),
            "eps": self.eps,
            "steps over the best start without learning": round(self.ratio("steps"), 3),
            "time over the best start without learning": round(self.ratio("seconds"), 3),
            "relative dual gap": float(f"{self.starts[LEARNT].gap.mean():.3g}"),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all means, medians and ratios."""
        rows = {name: _row(measured) for name, measured in self.starts.items()}
        best = {measure: self.best(measure) for measure in ("steps", "seconds")}
        return {**self.summary(), "tol": self.tol, "threads": self.threads, "best": best, "starts": rows}

    def table(self) -> str:
        """Return a row for each start."""
        steps, seconds = (float(getattr(self.starts[self.best(m)], m).mean()) for m in ("steps", "seconds"))
        rows = [
            [
                name,
                f"{measured.steps.mean():.1f} ({measured.steps.mean() / steps:.2f})",
                f"{1e3 * measured.seconds.mean():.2f} ({measured.seconds.mean() / seconds:.2f})",
                f"{1e3 * measured.finding.mean():.2f}",
                f"{100 * measured.gap.mean():.2f} %",
            ]
            for name, measured in self.starts.items()
        ]
        n, m = self.shape
        title = f"{self.data}: {n} x {m}, eps {self.eps:g}, to {self.tol:g}, {self.threads} thread(s)"
        head = [
            "start",
            "steps (over the best without learning)",
            "ms (over it)",
            "of them to find it",
            "dual gap",
        ]
        return "\n".join([title, "", *markdown(head, rows)])


def _row(measured: Measured) -> dict[str, float]:
    return {
        "steps": mean(measured.steps),
        "steps p95": p95(measured.steps),
        "ms": 1e3 * mean(measured.seconds),
        "median ms": 1e3 * float(measured.seconds.median()),
        "ms to find it": 1e3 * mean(measured.finding),
        "relative dual gap": mean(measured.gap),
    }


@torch.no_grad()
def evaluate_costs(
    predictor: Predictor,
    problems: ProblemSet,
    stored: ProblemSet,
    *,
    data: str,
    eps: float,
    tol: float = 1e-3,
    instances: int = 50,
    seed: int = 0,
    repeats: int = 3,
) -> CostReport:
    """Compare a model with starts without learning, on `instances` drawn problems at one eps, one at a time.

    eps is as in the settings of the data: for `Roads` a share of the mean cost, for stored problems a cost.
    `stored` gives the problems that were solved before. Each time is the least of `repeats`.
    """
    drawn, before = _drawn(problems, eps, instances, seed), _drawn(stored, eps, _STORED, seed + 1)
    exact = [solve(one, solver=Sinkhorn(), tol=_EXACT) for one in drawn]
    known = torch.cat([solve(one, solver=Sinkhorn(), tol=_EXACT).potentials.f for one in before])
    n, m = drawn[0].geometry.shape
    starts: dict[str, Start] = {
        "zeros": lambda one, k: None,
        "problem before": lambda one, k: exact[k - 1].potentials.f if k else known[-1:],
        f"nearest of {_STORED}": _nearest(before, known),
    }
    if n * m <= _SMALL:
        starts |= {"mean cost": _at_mean_cost(before), "heaviest fifth of targets": _heaviest_part}
    starts[LEARNT] = lambda one, k: predictor.warm_start(one)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in starts}
    for start in starts.values():  # warm-up
        _timed(drawn[0], 0, start, tol)
    for k, one in enumerate(drawn):
        for name, start in starts.items():
            best = min((_timed(one, k, start, tol) for _ in range(repeats)), key=lambda row: row[1])
            guess = start(one, k)
            potentials = DualPotentials.from_f(one, torch.zeros_like(one.a) if guess is None else guess)
            gap = (exact[k].value - dual_value(one, potentials)) / exact[k].value.abs()
            found[name].append((*best, float(gap)))
    measured = {
        name: Measured(*torch.tensor(rows, dtype=torch.float64).T.unbind()) for name, rows in found.items()
    }
    return CostReport(data, (n, m), eps, tol, torch.get_num_threads(), measured)


def _drawn(problems: ProblemSet, eps: float, count: int, seed: int) -> list[Problem]:
    """Draw problems one by one: those of a batch may share their cost."""
    generator, one = torch.Generator().manual_seed(seed), replace(problems, batch=1, eps=(eps, eps))
    return [one.sample(generator) for _ in range(count)]


def _timed(one: Problem, k: int, start: Start, tol: float) -> tuple[float, float, float]:
    begin = perf_counter()
    f = start(one, k)
    middle = perf_counter()
    steps = solve(one, init=_init(one, f), solver=Sinkhorn(), tol=tol).steps
    return float(steps.sum()), perf_counter() - begin, middle - begin


def _init(one: Problem, f: Tensor | None) -> DualPotentials | None:
    return None if f is None else DualPotentials(f, torch.zeros_like(one.b))


def _nearest(before: list[Problem], known: Float[Tensor, "stored n"]) -> Start:
    """Start from the solution for the nearest weights; to compare costs would take longer than to solve."""
    weights = torch.cat([torch.cat([one.a, one.b], -1) for one in before])

    def start(one: Problem, k: int) -> Tensor:
        distance = (weights - torch.cat([one.a, one.b], -1)).abs().sum(-1)
        return known[distance.argmin()][None]

    return start


def _matrix(one: Problem) -> Float[Tensor, "n m"]:
    return one.geometry.cost_rows(slice(None)).reshape(one.geometry.shape)


def _at_mean_cost(before: list[Problem]) -> Start:
    """Start from the solution for the same weights at the mean of the stored costs."""
    space = Dense.trusted(torch.stack([_matrix(one) for one in before]).mean(0))

    def start(one: Problem, k: int) -> Tensor:
        cheaper = Problem.trusted(one.a, one.b, space, one.eps)
        return solve(cheaper, solver=Sinkhorn(), tol=_ENOUGH).potentials.f

    return start


def _heaviest_part(one: Problem, k: int) -> Tensor:
    """Start from the solution for the heaviest targets, whose weights are raised to mass one."""
    b, chosen = one.b[0].topk(max(1, one.b.shape[-1] // _PART))
    C = _matrix(one)[:, chosen].contiguous()
    part = Problem.trusted(one.a, (b / b.sum())[None], Dense.trusted(C), one.eps)
    return solve(part, solver=Sinkhorn(), tol=_ENOUGH).potentials.f
