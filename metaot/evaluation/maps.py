"""The quality of predicted maps, by the protocol of table 2 and figure 7 of Meta OT (arXiv 2206.05262).

All dual values are exact: the conjugate is solved for (`brenier_value`). They are reported as shares of the
optimum between the samples, and normalised as in table 2: for each instance, 0 is the smallest and 1 the largest
value of a run of W2GN from scratch or from the model.
"""

import textwrap
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.maps import AmortizedMap, BuresStart
from metaot.brenier import BrenierPair, BrenierPotential, SampleProblem
from metaot.data import SampleSet
from metaot.data.samples import PlantedPairs
from metaot.evaluation.report import WIDTH, markdown, plain
from metaot.objectives import brenier_value
from metaot.solvers import W2GN, GaussNewton, MapSolver, solve
from metaot.tools.value import half_squared_distance

BUDGETS = (0, 5, 10, 25, 50, 100, 250, 500, 1000, 2000)
"""Steps at which dual values are recorded, up to the number of steps of an evaluation."""
RATE = 3e-2
"""W2GN's learning rate: the best of 0.01, 0.03, 0.1 on validation pairs."""
_TIMED, _TIMED_SAMPLES = 50, 512
_GAUSS_NEWTON_STEPS = 25


@final
@dataclass(frozen=True)
class Curve:
    """Dual values of one method at the steps of the report, and seconds for one step of one instance."""

    name: str
    values: Float[Tensor, "instances steps"]
    seconds_per_step: float


@final
@dataclass(frozen=True)
class MapReport:
    """The measurements of a model of maps, instance by instance."""

    data: str
    samples: int
    seed: int
    threads: int
    steps: tuple[int, ...]
    distance: Float[Tensor, "instances"]
    prediction: Float[Tensor, "instances"]
    linear: Float[Tensor, "instances"]
    prediction_seconds: Float[Tensor, "timed"]
    curves: tuple[Curve, ...]
    unexplained: dict[str, Float[Tensor, "instances"]]

    def normalised(self, values: Float[Tensor, "instances ..."]) -> Float[Tensor, "instances ..."]:
        """Return dual values on the scale of table 2, of W2GN from scratch and from the model."""
        runs = torch.cat([curve.values for curve in self.curves if curve.name in ("from scratch", "model")], 1)
        low, high = runs.amin(1), runs.amax(1)
        return ((values.movedim(0, -1) - low) / (high - low)).movedim(-1, 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts."""
        found = plain(self)
        return {"L2-UVP": found.pop("unexplained"), "torch": torch.__version__, **found}

    def summary(self) -> dict[str, Any]:
        """Return the figures for a checkpoint's card."""
        return {
            "instances": len(self.distance),
            "samples": self.samples,
            "seed": self.seed,
            "normalised_value": _pair(self.normalised(self.prediction)),
            "share_of_optimum": _pair(self.prediction / self.distance),
            "linear_normalised_value": _pair(self.normalised(self.linear)),
            "prediction_ms": round(1e3 * float(self.prediction_seconds.median()), 2),
        }

    def table(self) -> str:
        """Return the tables in Markdown."""
        head = (
            f"{len(self.distance)} test pairs of {self.data}, {self.samples} samples, seed {self.seed}, "
            f"threads: {self.threads}. Mean (worst) of exact dual values, normalised as in table 2 of Meta OT "
            f"and, in brackets, as a share of the optimum between the samples. A prediction takes "
            f"{1e3 * float(self.prediction_seconds.median()):.1f} ms (median, one pair)."
        )
        budgets = [f"{step} steps" for step in self.steps]
        rows = [self._row("linear (Bures)", self.linear[:, None], "")]
        rows += [self._row(c.name, c.values, f"{1e3 * c.seconds_per_step:.1f}") for c in self.curves]
        lines = markdown(["", *budgets, "ms a step"], rows)
        parts = [textwrap.fill(head, WIDTH), "\n".join(lines), self._steps_worth()]
        if self.unexplained:
            values = [[n, f"{v.mean():.2f} %", f"{v.max():.2f} %"] for n, v in self.unexplained.items()]
            parts.append("\n".join(markdown(["L2-UVP", "mean", "worst"], values)))
        return "\n\n".join(parts)

    def _row(self, name: str, values: Tensor, last: str) -> list[str]:
        normal, share = self.normalised(values), values / self.distance[:, None]
        cells = [
            f"{n.mean():.3f} ({n.min():.3f}) [{s.mean():.3f}]" for n, s in zip(normal.mT, share.mT, strict=True)
        ]
        return [name, *cells, *[""] * (len(self.steps) - len(cells)), last]

    def _steps_worth(self) -> str:
        """Return a sentence: how many steps from scratch are worth a prediction."""
        scratch = next(curve for curve in self.curves if curve.name == "from scratch")
        reached = scratch.values.mean(0) >= self.prediction.mean()
        words = "W2GN from scratch reaches the mean of the predictions"
        if not bool(reached.any()):
            return f"{words} in more than {self.steps[-1]} steps."
        k = int(reached.int().argmax())
        return f"{words} between {self.steps[max(k - 1, 0)]} and {self.steps[k]} steps."


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
    generator, truth = torch.Generator().manual_seed(seed), None
    if isinstance(drawn, PlantedPairs):
        problem, truth = drawn.with_map(generator)
    else:
        problem = drawn.sample(generator)
    budgets = (*(step for step in BUDGETS if step < steps), steps)
    with torch.no_grad():
        pair, linear = predictor.predict(problem), BuresStart().predict(problem)
        seconds = _prediction_seconds(predictor, problem)
    w2gn = W2GN(steps, learning_rate=RATE, icnn=predictor.model.icnn, record=budgets)
    few = min(steps, _GAUSS_NEWTON_STEPS)
    runs: dict[str, tuple[BrenierPair | None, MapSolver]] = {
        "from scratch": (None, w2gn),
        "model": (pair, w2gn),
        "model, Gauss-Newton": (pair, GaussNewton(few, record=tuple(k for k in budgets if k <= few))),
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


def _prediction_seconds(predictor: AmortizedMap, problem: SampleProblem) -> Tensor:
    """Return wall-clock seconds of predictions for one pair from its first samples, frame included."""
    small, seconds = SampleProblem(problem.x[:, :_TIMED_SAMPLES], problem.y[:, :_TIMED_SAMPLES]), []
    for k in range(_TIMED):
        begun = perf_counter()
        predictor.predict(small[k % len(small.x)])
        seconds.append(perf_counter() - begun)
    return torch.tensor(seconds)


def _pair(values: Tensor) -> dict[str, float]:
    return {"mean": round(float(values.mean()), 4), "worst": round(float(values.min()), 4)}
