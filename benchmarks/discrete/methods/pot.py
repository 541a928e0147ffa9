"""POT on the support: Sinkhorn in three forms, batches, and the exact solver."""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import ot

from benchmarks.discrete.check import plan_error
from benchmarks.discrete.methods.base import EXACT, PEER, PEER_FROM_MODEL, Method, tolerances
from benchmarks.discrete.methods.ours import ModelStart, log_scalings
from benchmarks.discrete.problems import Family, Instance


@final
@dataclass(frozen=True)
class Pot(Method):
    """`ot.sinkhorn`: it tests the L2 error of one marginal every 10 (or 20) iterations, and returns the plan."""

    method: str = field(kw_only=True)
    entries: float = field(kw_only=True)
    start: ModelStart | None = field(kw_only=True, default=None)

    def suits(self, family: Family) -> bool:
        fits = self.start is None or self.start.fits(family)
        return fits and family.size == 1 and family.entries <= self.entries

    def settings(self, target: float) -> list[float]:
        return tolerances(target)

    def prepare(self, instance: Instance) -> Instance:
        _ = instance.a, instance.b, instance.cost
        return instance

    def solve(self, inputs: Instance, setting: float) -> tuple[np.ndarray, dict[str, Any]]:
        return ot.sinkhorn(
            inputs.a, inputs.b, inputs.cost, inputs.eps, method=self.method, stopThr=setting, numItermax=1_000_000,
            warn=False, log=True, warmstart=self._warm(inputs),
        )  # fmt: skip

    def _warm(self, inputs: Instance) -> tuple[np.ndarray, np.ndarray] | None:
        if self.start is None:
            return None
        guess = self.start.predict(inputs.problem)
        log_u, log_v = log_scalings(inputs.problem, guess.f.numpy(), guess.g.numpy())
        return log_u[inputs.rows], log_v[inputs.columns]

    def error(self, instance: Instance, output: tuple[np.ndarray, dict[str, Any]]) -> float:
        return plan_error(instance, output[0])

    def steps(self, output: tuple[np.ndarray, dict[str, Any]]) -> int | None:
        return output[1].get("niter")


@final
@dataclass(frozen=True)
class PotExact(Method):
    """`ot.emd`: the unregularised problem; its plan has exact marginals."""

    def suits(self, family: Family) -> bool:
        return family.size == 1 and family.entries <= 2e6  # it cannot be interrupted

    def settings(self, target: float) -> list[None]:
        return [None]

    def prepare(self, instance: Instance) -> Instance:
        _ = instance.a, instance.b, instance.cost
        return instance

    def solve(self, inputs: Instance, setting: None) -> np.ndarray:
        return ot.emd(inputs.a, inputs.b, inputs.cost, numItermax=10_000_000)

    def error(self, instance: Instance, output: np.ndarray) -> float:
        return plan_error(instance, output)


@final
@dataclass(frozen=True)
class PotBatch(Method):
    """`ot.batch.solve_batch` on supports that are padded to the largest one of the batch."""

    method: str = field(kw_only=True)

    def suits(self, family: Family) -> bool:
        return family.size > 1

    def settings(self, target: float) -> list[float]:
        return tolerances(target)

    def prepare(self, instance: Instance) -> tuple[list[Instance], tuple[np.ndarray, ...], float]:
        parts = instance.split()
        n, m = max(len(part.a) for part in parts), max(len(part.b) for part in parts)
        a = np.full((len(parts), n), 1e-300)
        b, cost = np.full((len(parts), m), 1e-300), np.zeros((len(parts), n, m))
        for k, part in enumerate(parts):
            a[k, : len(part.a)], b[k, : len(part.b)] = part.a, part.b
            cost[k, : len(part.a), : len(part.b)] = part.cost
        return parts, (a, b, cost), instance.eps

    def solve(self, inputs: tuple[list[Instance], tuple[np.ndarray, ...], float], setting: float) -> Any:
        parts, (a, b, cost), eps = inputs
        result = ot.batch.solve_batch(
            cost, eps, a, b, max_iter=1_000_000, tol=setting, method=self.method, grad="detach"
        )
        return parts, result.plan

    def error(self, instance: Instance, output: Any) -> float:
        return max(plan_error(part, P[: len(part.a), : len(part.b)]) for part, P in zip(*output, strict=True))


def methods(start: ModelStart) -> list[Method]:
    return [
        Pot("POT sinkhorn", "POT", PEER, method="sinkhorn", entries=2e7),
        Pot("POT sinkhorn_log", "POT", PEER, method="sinkhorn_log", entries=2e6),
        Pot("POT sinkhorn_stabilized", "POT", PEER, method="sinkhorn_stabilized", entries=2e6),
        PotBatch("POT batch, sinkhorn", "POT", PEER, method="sinkhorn"),
        PotBatch("POT batch, log_sinkhorn", "POT", PEER, method="log_sinkhorn"),
        Pot(
            "POT sinkhorn from our model", "POT", PEER_FROM_MODEL,
            method="sinkhorn", entries=2e7, start=start,
        ),
        PotExact("POT emd (exact, no eps)", "POT", EXACT),
    ]  # fmt: skip
