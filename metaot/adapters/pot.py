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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.adapters.support import Array, Init, Support, each, library, one, solved, stacked
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.solution import Solution


def arguments(problem: Problem) -> tuple[Array, Array, Array, float]:
    """Return (a, b, M, reg) of one problem on its atoms with mass, as functions of POT take them.

    A negative least cost is subtracted from M: add it to a total cost or a dual value.
    """
    support = Support.of(one(problem)[0])
    return support.a, support.b, support.C, support.eps


def warmstart(problem: Problem, init: Init, *, method: str = "sinkhorn") -> tuple[Array, Array]:
    """Return the argument `warmstart` of `ot.sinkhorn` for that method, on the atoms with mass of one problem.

    For "sinkhorn" and "sinkhorn_log" the logarithms of the scalings, for "sinkhorn_stabilized" potentials in the
    units of the cost. For the first two, POT uses only the first half.
    """
    single, guess = one(problem, init)
    return _method(method).start(Support.of(single), guess)


def potentials_init(problem: Problem, init: Init) -> tuple[Array, Array]:
    """Return the argument `potentials_init` of `ot.emd` and `ot.emd2`, on the atoms with mass of one problem.

    POT makes its first tree of the arcs with the least |C - F - G|. In the convention P = exp((F + G - C)/eps)
    these arcs carry most of the predicted plan: f and g in metaot's convention lead to more pivots.
    """
    single, guess = one(problem, init)
    return Support.of(single).absorbed(guess)


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
    entry, ot = _method(method), library("ot", "parity")

    def run(single: Problem, guess: DualPotentials | None) -> tuple[DualPotentials, float, int]:
        support = Support.of(single)
        start = None if guess is None else entry.start(support, guess)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the solution says so
            P, log = ot.sinkhorn(
                support.a, support.b, support.C, support.eps, method=method, warmstart=start, log=True, warn=False,
                **{"stopThr": tol / math.sqrt(len(support.b)), "numItermax": max_steps, **options},
            )  # fmt: skip
            F, G = entry.potentials(log, support.eps)
        return support.completed(F, G), support.plan_error(P), log[entry.steps] + 1

    return solved(problem, init, run, tol=tol, max_steps=max_steps, solver=f"POT {method}")


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
    plans, costs, potentials = [], [], []
    for support, P, log in _simplex("emd", problem, init, max_pivots, options):
        rows, columns, geometry = support.problem.a > 0, support.problem.b > 0, support.problem.geometry
        mask = rows[:, None] & columns
        plans.append(problem.a.new_zeros(mask.shape).masked_scatter(mask, torch.from_numpy(P).to(problem.a)))
        costs.append(log["cost"] + support.least)
        f, g = support.on_all_atoms(log["u"] + support.least, log["v"], -math.inf)
        f = torch.where(rows, f, geometry.hardmin(g))  # without mass, the largest with f + g <= C
        potentials.append(DualPotentials(f, torch.where(columns, g, geometry.T.hardmin(f))))
    plan = torch.stack(plans).reshape(*problem.batch_shape, *problem.geometry.shape)
    cost = problem.a.new_tensor(costs).reshape(problem.batch_shape)
    return ExactTransport(plan, cost, stacked(problem, potentials))


def emd2(
    problem: Problem, *, init: Init | None = None, max_pivots: int = 10_000_000, **options: Any
) -> Float[Tensor, "*batch"]:
    """Return the costs of `emd`, by `ot.emd2`."""
    found = _simplex("emd2", problem, init, max_pivots, options)
    costs = [float(cost) + support.least for support, cost, _ in found]
    return problem.a.new_tensor(costs).reshape(problem.batch_shape)


def _simplex(
    name: str, problem: Problem, init: Init | None, max_pivots: int, options: dict[str, Any]
) -> Iterator[tuple[Support, Any, dict[str, Any]]]:
    """Return the result and the log of a function of POT's network simplex for each problem."""
    run = getattr(library("ot", "parity"), name)
    for single, guess in each(problem, init):
        support = Support.of(single)
        start = {} if guess is None else {"potentials_init": support.absorbed(guess)}
        found, log = run(support.a, support.b, support.C, numItermax=max_pivots, log=True, **start, **options)
        if log["result_code"] != 1:
            raise RuntimeError(f"POT found no optimum ({log['warning']}): raise max_pivots, or check the costs")
        yield support, found, log


@final
class _Method(NamedTuple):
    """How a method of `ot.sinkhorn` takes its start and returns its result."""

    start: Callable[[Support, Any], tuple[Array, Array]]
    potentials: Callable[[dict[str, Any], float], tuple[Array, Array]]
    """(log, eps) -> (F, G)."""
    steps: str


def _log_scalings(support: Support, guess: DualPotentials) -> tuple[Array, Array]:
    F, G = support.absorbed(guess)
    return F / support.eps, G / support.eps


_METHODS = {
    "sinkhorn": _Method(_log_scalings, lambda log, eps: (eps * np.log(log["u"]), eps * np.log(log["v"])), "niter"),
    "sinkhorn_log": _Method(_log_scalings, lambda log, eps: (eps * log["log_u"], eps * log["log_v"]), "niter"),
    "sinkhorn_stabilized": _Method(Support.absorbed, lambda log, _: (log["alpha"], log["beta"]), "n_iter"),
}


def _method(name: str) -> _Method:
    if name not in _METHODS:
        raise ValueError(f"method must be one of {sorted(_METHODS)}, got {name!r}")
    return _METHODS[name]
