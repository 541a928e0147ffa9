"""The quality of predicted maps, by the protocol of table 2 and figure 7 of Meta OT (arXiv 2206.05262).

All dual values are exact: the conjugate is solved for (`brenier_value`). They are reported as shares of the
optimum between the samples, and normalised as in table 2: for each instance, 0 is the smallest and 1 the largest
value of a run of W2GN from scratch or from the model.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.maps import AmortizedMap, BuresStart
from metaot.brenier import BrenierPair, BrenierPotential, SampleProblem
from metaot.data import SampleSet
from metaot.evaluation.map_report import Curve, MapReport
from metaot.objectives import brenier_value
from metaot.solvers import W2GN, GaussNewton, MapSolver, solve
from metaot.tools.distance import half_squared_distance

BUDGETS = (0, 5, 10, 25, 50, 100, 250, 500, 1000, 2000)
"""Steps at which dual values are recorded, up to the number of steps of an evaluation."""
RATE = 3e-2
"""W2GN's learning rate: the best of 0.01, 0.03, 0.1 on validation pairs."""
_TIMED = 50
_GAUSS_NEWTON_STEPS = 25


def evaluate_maps(
    predictor: AmortizedMap,
    problems: SampleSet,
    *,
    instances: int = 50,
    samples: int = 2000,
    seed: int = 0,
    steps: int = 1000,
) -> MapReport:
    """Measure predictions, and W2GN from scratch, from the model, and Gauss-Newton from the model.

    W2GN runs `steps` steps on all instances together; its time is the wall clock's over instances and steps.
    """
    if instances < 1 or steps < 1:
        raise ValueError(f"instances and steps must be at least 1, got {instances} and {steps}")
    drawn = replace(problems, batch=instances, samples=samples)
    generator = torch.Generator().manual_seed(seed)
    truth: BrenierPotential | None = None
    if hasattr(drawn, "with_map"):
        problem, truth = drawn.with_map(generator)  # type: ignore[attr-defined]
    else:
        problem = drawn.sample(generator)
    budgets = (*(step for step in BUDGETS if step < steps), steps)
    with torch.no_grad():
        pair, linear = predictor.predict(problem), BuresStart().predict(problem)
        seconds = _prediction_seconds(predictor, problem)
    settings = {"steps": steps, "icnn": predictor.model.icnn, "record": budgets}
    few = min(steps, _GAUSS_NEWTON_STEPS)
    gauss_newton = GaussNewton(few, record=tuple(k for k in budgets if k <= few))
    runs: dict[str, tuple[BrenierPair | None, MapSolver]] = {
        "from scratch": (None, W2GN(learning_rate=RATE, **settings)),
        "model": (pair, W2GN(learning_rate=RATE, **settings)),
        "model, Gauss-Newton": (pair, gauss_newton),
    }
    curves, moved = [], {"linear (Bures)": linear, "model": pair}
    for name, (start, solver) in runs.items():
        begun = perf_counter()
        solution = solve(problem, init=start, solver=solver, tol=1e-9)
        spent = (perf_counter() - begun) / solver.steps / instances
        curves.append(Curve(name, solution.history.double(), spent))
        moved[f"{name}, {solver.steps} steps"] = solution.pair
    return MapReport(
        data=type(problems).__name__,
        samples=samples,
        seed=seed,
        threads=torch.get_num_threads(),
        steps=budgets,
        distance=half_squared_distance(problem).double(),
        prediction=brenier_value(problem, pair),
        linear=brenier_value(problem, linear),
        prediction_seconds=seconds,
        curves=tuple(curves),
        unexplained={} if truth is None else {n: unexplained(problem.x, m, truth) for n, m in moved.items()},
    )


@torch.no_grad()
def unexplained(
    x: Float[Tensor, "*batch n d"], pair: BrenierPair, truth: BrenierPotential
) -> Float[Tensor, "*batch"]:
    """Return L2-UVP in percent (Korotin et al., arXiv 2106.01954): |T - T*|^2 over the target's variance."""
    wanted = truth.gradient(x)
    wrong = (pair.push(x) - wanted).square().sum(-1).mean(-1)
    return (100 * wrong / wanted.var(-2).sum(-1)).double()


def _prediction_seconds(predictor: AmortizedMap, problem: SampleProblem, samples: int = 512) -> Tensor:
    """Return wall-clock seconds of predictions for one pair from its first samples, frame included."""
    small = SampleProblem(problem.x[:, :samples], problem.y[:, :samples])
    return torch.tensor([_seconds(lambda k=k: predictor.predict(small[k % len(small.x)])) for k in range(_TIMED)])


def _seconds(action: Callable[[], object]) -> float:
    begun = perf_counter()
    action()
    return perf_counter() - begun
