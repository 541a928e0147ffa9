r"""The semi-dual of a distribution against a data set, $E f_g(x) + \sum_j b_j g_j$: starts, and steps upwards.

Its gradient is b - nu, nu_j the mass that y_j receives. Few data: Newton steps on quasi-random points, whose
number is doubled when nothing is left to gain; without a temperature the gradient is that of the cells, the
Hessian that of a small temperature, and steps are damped (Kitagawa, Merigot and Thibert, arXiv 1603.05579). Many
data: averaged stochastic steps (Genevay et al., arXiv 1605.08527) in units of b, so that one sample moves the
score of the point that it goes to by about the spread of scores.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Dense, Points
from metaot.maps.samplers import Stream
from metaot.models.data_set import PRODUCTS, DataSetPotential
from metaot.problem import Problem
from metaot.solvers import solve

NEWTON = 2048
"""Data up to which Newton's matrix is made."""

_START, _SAMPLES_EACH, _ENOUGH = 2048, 8, 1e-2
"""Of the first problem: the most atoms on a side; samples for each of the data; and the accuracy."""

_COARSE, _FINE = 0.005, 0.001
"""Its least eps, in units of the standard deviation of the costs: before Newton steps, which go far, and before
stochastic ones, which do not."""

_PART = 0.1
"""The part of the noise of independent samples, in chi^2, below which cells are not adjusted to them."""

_SURE = 0.25
"""The part of the tolerance below which Newton steps on the same samples end."""

_LEFT, _HALVINGS = 0.25, 6
"""A Newton step must remove this part of the error, relative to its length, and is halved so often at most."""

_RIDGE = 1e-4
"""What is added to Newton's matrix, relative to that of cells that nobody shares."""

_NARROW = 0.25
"""The quantile of the differences between the best two scores that is the temperature of Newton's matrix."""

_WIDER = (1.0, 10.0, 100.0, 1000.0)
"""Times that temperature, where steps with a lower one do not help: while cells are empty, which have no slope."""

_FIRST, _DECAY, _WEIGHT = 2.0, 2 / 3, 1
"""Stochastic steps: the first length, for one sample and in units of the spread; the power of time with which it
falls; and the power of time with which iterates count in their mean."""

_BETWEEN = 1.25
"""From one measurement to the next there are so many times as many samples."""

_LIGHT = 0.1
"""Weights below this part of the mean count as so much in the length of a step."""

_LOST = 0.1
"""What rounded products may change the best scores by, as a part of the spread."""


@final
@dataclass(frozen=True)
class State:
    """What a fit goes on from: g, its mean over the past, and how many steps, samples and evaluations it took.

    `count` is the number of points of the next Newton step, `spread` the scale of scores between neighbours,
    `weight` that of the mean. Where a state is `settled` it is time to measure the error.
    """

    g: Float[Tensor, "m"]
    mean: Float[Tensor, "m"]
    step: int = 0
    samples: int = 0
    evaluations: int = 0
    count: int = 0
    weight: float = 0.0
    spread: float = 0.0
    settled: bool = False


Step = Callable[[State], State]


def started(model: DataSetPotential, stream: Stream, generator: torch.Generator) -> State:
    """Return the potential of a smaller problem, of some samples and some of the data, on all of the data.

    A high temperature is enough there. The other data have the best potential for these samples.
    """
    m, like = len(model.y), model.y
    chosen = torch.arange(m, device=like.device)
    if m > _START:
        chosen = torch.multinomial(model.b.double().cpu(), _START, generator=generator).to(like.device)
    n = min(_START, max(1024, _SAMPLES_EACH * m))
    x, b = stream.points(0, n).double(), model.b[chosen].double()
    y = model.y[chosen].double() + model.centre.double()
    space, a = Dense(Points(x, y, model.cost).cost_rows(slice(None))), torch.full((n,), 1 / n).to(x)
    eps = max(model.eps, (_COARSE if m <= NEWTON else _FINE) * float(space.std_cost(a, b / b.sum()))) or 1.0
    solution = solve(Problem(a, b / b.sum(), space, eps), tol=_ENOUGH, max_steps=500)
    h = _extended(model, x, solution.potentials.f, eps)
    g = h.where(model.b > 0, 0.0).to(like)
    if model.eps:
        g = g - model.eps * model.b.log().where(model.b > 0, 0.0)
    g = g - (g * model.b).sum()
    return State(g, g, samples=n, evaluations=n * int(solution.steps + 1))


def _extended(
    model: DataSetPotential, x: Float[Tensor, "n d"], f: Float[Tensor, "n"], eps: float
) -> Float[Tensor, "m"]:
    """Return the scores' part h of all data for which each receives its weight from samples with potentials f."""
    rows = model.y.split(max(1, 2**22 // len(x)))
    # with the softmin over samples, whose weights are all alike, all data receive the same
    spaces = (Points(x, part.double() + model.centre.double(), model.cost) for part in rows)
    return torch.cat([space.T.softmin(f, eps) for space in spaces]) + eps * model.b.double().log()


def scale(model: DataSetPotential, x: Float[Tensor, "k d"]) -> float:
    """Return the spread of scores: by how much one must change to gain or lose about what its point receives."""
    if model.eps:
        parts = [model.parts(rows) for rows in model.blocks(x)]
        both = [(model.log_sums(part, 2) - 2 * model.log_sums(part)).exp() for part in parts]
        return model.eps / float((1 - torch.cat(both).mean()).clamp_min(0.1))
    return float(_differences(model, x).quantile(0.1)) / 0.1 or 1.0


def _differences(model: DataSetPotential, x: Float[Tensor, "k d"]) -> Float[Tensor, "k"]:
    """Return the differences of the best two scores."""
    found = []
    for rows in model.blocks(x):
        tops = torch.cat([S.topk(min(2, S.shape[1]), 1).values for _, S in model.parts(rows)()], 1)
        found.append(
            tops.topk(2, 1).values if tops.shape[1] > 1 else tops.new_tensor([[1.0, 0.0]]).expand(len(rows), 2)
        )
    return -torch.cat(found).diff(dim=1)[:, 0]


# Newton


def newton(model: DataSetPotential, stream: Stream, most: int, tol: float) -> Step:
    """Return damped Newton steps on the first points of the stream, doubled where a step gains little."""

    def step(state: State) -> State:
        count = state.count or state.samples
        state = replace(state, samples=max(state.samples, count), evaluations=state.evaluations + count)
        x = stream.points(0, count)
        model.g = state.g
        nu = model.received(x) / count
        error = chi2(nu, model.b)
        noise = len(model.y) / count
        least = max(_SURE * tol, 0.0 if model.eps else _PART * noise)
        for wide in (1.0,) if model.eps or error <= noise else _WIDER:
            if error <= least:
                break
            model.g = state.g
            change, spread = _newton_step(model, x, nu, wide)
            for k in range(_HALVINGS):
                model.g = state.g + change / 2**k
                state = replace(state, evaluations=state.evaluations + count)
                if chi2(model.received(x) / count, model.b) <= (1 - _LEFT / 2**k) * error:
                    return replace(_moved(state, model.g), count=count, spread=spread, settled=False)
        return replace(_moved(state, state.g), count=min(2 * count, max(most, count)), settled=True)

    return step


def _moved(state: State, g: Float[Tensor, "m"]) -> State:
    return replace(state, g=g, mean=g, step=state.step + 1)


def _newton_step(
    model: DataSetPotential, x: Float[Tensor, "n d"], nu: Float[Tensor, "m"], wide: float
) -> tuple[Float[Tensor, "m"], float]:
    """Return Newton's change of g in float64, and the temperature of its matrix."""
    kept, eps = model.b > 0, model.eps or wide * float(_differences(model, x).quantile(_NARROW)) or 1.0
    m = int(kept.sum())
    H, own = nu.new_zeros(m, m, dtype=torch.float64), nu.new_zeros(m, dtype=torch.float64)
    for rows in model.blocks(x):
        P = (model.scores(rows)[:, kept].double() / eps).softmax(1)
        own += P.sum(0)
        H -= P.mT @ P
    b = model.b[kept].double()
    H = (H + own.diag()) / (len(x) * eps) + (_RIDGE / eps) * b.diag()
    H += b.outer(b) / eps  # the constant, which changes nothing
    change = torch.zeros_like(model.g)
    change[kept] = torch.linalg.solve(H, b - nu[kept].double()).to(change)
    return change, eps


def chi2(nu: Float[Tensor, "m"], b: Float[Tensor, "m"]) -> float:
    """Return the chi-squared distance of masses from weights, where these are positive."""
    return float(((nu - b).square() / b).where(b > 0, 0.0).sum())


# Stochastic steps


def stochastic(model: DataSetPotential, stream: Stream, batch: int, tol: float) -> Step:
    """Return averaged stochastic steps, each on the next points of the stream.

    From independent samples no mean of iterates has a smaller error than the noise of what the data receive of
    them: nothing is measured before that may be below `tol`.
    """
    m = len(model.y)
    units = (1 / model.b.clamp_min(_LIGHT / m)).where(model.b > 0, 0.0)
    scores = None

    def step(state: State) -> State:
        nonlocal scores
        x = stream.points(state.samples, batch)
        model.g = state.g
        spread = state.spread or scale(model, x[:256])
        if scores is None:
            scores = _quickest(model, x[:256], spread)
        nu = model.received(x, scores) / batch
        length = spread * _FIRST / (1 + state.samples / m) ** _DECAY * min(1.0, batch / m)
        fewest = m * max(0.05, 1 - model.eps / spread) / tol
        g = state.g + length * units * (model.b - nu)
        weight = float(state.samples + batch) ** _WEIGHT
        whole = state.weight + weight
        return replace(
            state, g=g, mean=state.mean + (g - state.mean) * (weight / whole), weight=whole, step=state.step + 1,
            samples=state.samples + batch, evaluations=state.evaluations + batch, spread=spread,
            settled=_milestone((state.samples + batch) / fewest) > _milestone(state.samples / fewest),
        )  # fmt: skip

    return step


def _milestone(samples: float) -> int:
    """Return how many measurements are due, for samples relative to the fewest that may be enough."""
    return max(0, 1 + math.floor(math.log(samples, _BETWEEN)))


def _quickest(model: DataSetPotential, x: Float[Tensor, "k d"], spread: float) -> Callable[..., Tensor]:
    """Return scores from rounded products where a processor is quick with them, and what they lose is little."""
    single = x.is_cpu and x.dtype == torch.float32 and model.cost in PRODUCTS
    if not single or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return model.scores
    part = slice(0, min(len(model.y), 2**16))
    exact = model.scores(x, part)
    top = exact.topk(min(4, exact.shape[1]), 1)
    lost = model.rounded_scores(x, part).gather(1, top.indices) - top.values
    return model.rounded_scores if float(lost.std()) <= _LOST * spread else model.scores
