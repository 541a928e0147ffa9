"""POT (pythonot.github.io), its Sinkhorn algorithms and its network simplex, started from potentials.

POT divides by weights and takes dense costs, not negative: all is done on the atoms with mass, and negative costs
are shifted. To call POT yourself:

    a, b, M, reg = pot.arguments(problem)
    P = ot.sinkhorn(a, b, M, reg, warmstart=pot.warmstart(problem, model))
    P = ot.emd(a, b, M, potentials_init=pot.potentials_init(problem, model))

In POT 0.9.7, `ot.solve(..., potentials_init=)` with reg > 0 and `ot.solve_sample` take a start and ignore it. The
functions here call functions that use it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.adapters.support import (
    Array,
    Init,
    Outcome,
    Support,
    each,
    library,
    one,
    one_guess,
    require_settings,
    solution,
)
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.solution import Solution


def arguments(problem: Problem) -> tuple[Array, Array, Array, float]:
    """Return (a, b, M, reg) of one problem on its atoms with mass, as functions of POT take them.

    A negative least cost is subtracted from M: add it to a total cost or a dual value.
    """
    support = Support.of(one(problem))
    return support.a, support.b, support.C, support.eps


def warmstart(problem: Problem, init: Init, *, method: str = "sinkhorn") -> tuple[Array, Array]:
    """Return the argument `warmstart` of `ot.sinkhorn` for that method, on the atoms with mass of one problem.

    For "sinkhorn" and "sinkhorn_log" the logarithms of the scalings, for "sinkhorn_stabilized" potentials in the
    units of the cost. For the first two, POT uses only the first half.
    """
    return _method(method).start(Support.of(one(problem)), one_guess(problem, init))


def potentials_init(problem: Problem, init: Init) -> tuple[Array, Array]:
    """Return the argument `potentials_init` of `ot.emd` and `ot.emd2`, on the atoms with mass of one problem.

    POT makes its first tree of the arcs with the least |C - F - G|. In the convention P = exp((F + G - C)/eps)
    these arcs carry most of the predicted plan: f and g in metaot's convention lead to more pivots.
    """
    return Support.of(one(problem)).absorbed(one_guess(problem, init))


def sinkhorn(
    problem: Problem,
    *,
    init: Init | None = None,
    method: str = "sinkhorn",
    tol: float = 1e-6,
    max_steps: int = 10_000,
    **options: Any,
) -> Solution:
    """Solve problems by `ot.sinkhorn`, one after the other, on their atoms with mass.

    `method` is "sinkhorn" (the fastest; its kernel is zero where C > 745 eps), "sinkhorn_log" or
    "sinkhorn_stabilized". `tol` is the L1 error of both marginals; POT tests the L2 error of one, every 10
    iterations (20 for the last method, unless `print_period` says otherwise), so it gets tol/sqrt(m).
    `options` go to `ot.sinkhorn`. Not converging is a result.
    """
    require_settings(tol, max_steps)
    entry, ot = _method(method), library("ot", "parity")
    outcomes = []
    for support, guess in each(problem, init):
        start = None if guess is None else entry.start(support, guess)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the solution says so
            P, log = ot.sinkhorn(
                support.a, support.b, support.C, support.eps, method=method, warmstart=start, log=True, warn=False,
                **{"stopThr": tol / math.sqrt(len(support.b)), "numItermax": max_steps, **options},
            )  # fmt: skip
            F, G = entry.potentials(support, log)
        outcomes.append(Outcome(support.completed(F, G), support.plan_error(P), log[entry.steps] + 1))
    return solution(problem, outcomes, tol, f"POT {method}")


@final
@dataclass(frozen=True)
class ExactTransport:
    """A plan without entropy, its cost, and the dual potentials that prove it: f + g <= C, equal where P > 0."""

    plan: Float[Tensor, "*batch n m"]
    cost: Float[Tensor, "*batch"]
    potentials: DualPotentials


def emd(
    problem: Problem, *, init: Init | None = None, max_pivots: int = 10_000_000, **options: Any
) -> ExactTransport:
    """Solve problems without entropy by `ot.emd` (network simplex), one after the other.

    eps matters for the start only: for a predictor, the lower the better. `options` go to `ot.emd`. Raises
    RuntimeError if POT does not find an optimum. POT 0.9.7 or newer takes a start. It saves pivots, but not always
    time (benchmarks/adapters.py).
    """
    ot, plans, costs, potentials = library("ot", "parity"), [], [], []
    for support, guess in each(problem, init):
        P, log = _simplex(ot.emd, support, guess, max_pivots, options)
        plans.append(_whole_plan(support, P))
        costs.append(log["cost"] + support.least)
        potentials.append(_hard_potentials(support, log["u"] + support.least, log["v"]))
    return _exact(problem, plans, costs, potentials)


def emd2(
    problem: Problem, *, init: Init | None = None, max_pivots: int = 10_000_000, **options: Any
) -> Float[Tensor, "*batch"]:
    """Return the costs of `emd`, by `ot.emd2`."""
    ot, costs = library("ot", "parity"), []
    for support, guess in each(problem, init):
        cost, _ = _simplex(ot.emd2, support, guess, max_pivots, options)
        costs.append(float(cost) + support.least)
    return torch.tensor(costs, dtype=torch.float64).to(problem.a).reshape(problem.batch_shape)


def _simplex(
    entry: Callable[..., Any],
    support: Support,
    guess: DualPotentials | None,
    max_pivots: int,
    options: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Return the result of a function of POT's network simplex for one problem, and its log."""
    start = _start_of(support, guess)
    found, log = entry(support.a, support.b, support.C, numItermax=max_pivots, log=True, **start, **options)
    _require_optimum(log)
    return found, log


@final
@dataclass(frozen=True)
class _Method:
    """How a method of `ot.sinkhorn` takes its start and returns its result."""

    start: Callable[[Support, DualPotentials], tuple[Array, Array]]
    potentials: Callable[[Support, dict[str, Any]], tuple[Array, Array]]
    steps: str


def _log_scalings(support: Support, guess: DualPotentials) -> tuple[Array, Array]:
    F, G = support.absorbed(guess)
    return F / support.eps, G / support.eps


def _of_scalings(support: Support, log: dict[str, Any]) -> tuple[Array, Array]:
    return support.eps * np.log(log["u"]), support.eps * np.log(log["v"])


def _of_log_scalings(support: Support, log: dict[str, Any]) -> tuple[Array, Array]:
    return support.eps * log["log_u"], support.eps * log["log_v"]


def _of_potentials(support: Support, log: dict[str, Any]) -> tuple[Array, Array]:
    return log["alpha"], log["beta"]


_METHODS = {
    "sinkhorn": _Method(_log_scalings, _of_scalings, "niter"),
    "sinkhorn_log": _Method(_log_scalings, _of_log_scalings, "niter"),
    "sinkhorn_stabilized": _Method(Support.absorbed, _of_potentials, "n_iter"),
}


def _method(name: str) -> _Method:
    if name not in _METHODS:
        raise ValueError(f"method must be one of {sorted(_METHODS)}, got {name!r}")
    return _METHODS[name]


def _start_of(support: Support, guess: DualPotentials | None) -> dict[str, tuple[Array, Array]]:
    return {} if guess is None else {"potentials_init": support.absorbed(guess)}


def _require_optimum(log: dict[str, Any]) -> None:
    if log["result_code"] != 1:
        raise RuntimeError(f"POT found no optimum ({log['warning']}): raise max_pivots, or check the costs")


def _whole_plan(support: Support, P: Array) -> Tensor:
    """Return a plan of all atoms."""
    problem = support.problem
    mask = (problem.a > 0)[:, None] & (problem.b > 0)
    return problem.a.new_zeros(mask.shape).masked_scatter(mask, torch.from_numpy(P).to(problem.a))


def _hard_potentials(support: Support, f: Array, g: Array) -> DualPotentials:
    """Return dual potentials of all atoms; on atoms without mass, the largest with f + g <= C."""
    problem = support.problem
    rows, columns = problem.a > 0, problem.b > 0
    low = torch.full_like(problem.b, -math.inf).masked_scatter(columns, torch.from_numpy(g).to(problem.b))
    f_all = torch.full_like(problem.a, -math.inf).masked_scatter(rows, torch.from_numpy(f).to(problem.a))
    f_all = torch.where(rows, f_all, problem.geometry.hardmin(low))
    return DualPotentials(f_all, torch.where(columns, low, problem.geometry.T.hardmin(f_all)))


def _exact(
    problem: Problem, plans: list[Tensor], costs: list[float], potentials: list[DualPotentials]
) -> ExactTransport:
    batch, (n, m), like = problem.batch_shape, problem.geometry.shape, problem.a
    f, g, P = (
        torch.cat([z.reshape(-1) for z in parts]).to(like).reshape(*batch, *sizes)
        for parts, sizes in (
            ([z.f for z in potentials], (n,)),
            ([z.g for z in potentials], (m,)),
            (plans, (n, m)),
        )
    )
    cost = torch.tensor(costs, dtype=torch.float64).to(like).reshape(batch)
    return ExactTransport(P, cost, DualPotentials(f, g))
