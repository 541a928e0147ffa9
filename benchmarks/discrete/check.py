"""The L1 error of both marginals from what a method returned: numpy in float64, apart from metaot's own code."""

import numpy as np

from benchmarks.discrete.problems import Instance
from metaot import Grid


def plan_error(instance: Instance, plan: np.ndarray) -> float:
    """Return the error of a plan between the atoms with mass."""
    error = np.abs(plan.sum(1) - instance.a).sum() + np.abs(plan.sum(0) - instance.b).sum()
    return float(error) if np.isfinite(error) else float("inf")


def potentials_error(instance: Instance, log_u: np.ndarray, log_v: np.ndarray) -> float:
    r"""Return the error of $P = \exp(u_i + v_j - C_{ij}/\epsilon)$; u, v of all atoms or of those with mass."""
    if len(log_u) == len(instance.problem.a) and isinstance(instance.problem.geometry, Grid):
        return _grid_error(instance, log_u, log_v)
    if len(log_u) != len(instance.a):
        log_u, log_v = log_u[instance.rows], log_v[instance.columns]
    with np.errstate(over="ignore", invalid="ignore"):
        return plan_error(instance, np.exp(log_u[:, None] + log_v - instance.cost / instance.eps))


def _grid_error(instance: Instance, log_u: np.ndarray, log_v: np.ndarray) -> float:
    """Sum over the grid one axis after the other: large images have no plan that fits into memory."""
    a, b = instance.problem.a.numpy(), instance.problem.b.numpy()
    sizes = instance.problem.geometry.sizes
    log_u, log_v = (np.where(w > 0, z, -np.inf) for w, z in ((a, log_u), (b, log_v)))
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.exp(log_u + _log_sums(log_v, sizes, instance.eps))
        columns = np.exp(log_v + _log_sums(log_u, sizes, instance.eps))
        error = np.abs(rows - a).sum() + np.abs(columns - b).sum()
    return float(error) if np.isfinite(error) else float("inf")


def _log_sums(z: np.ndarray, sizes: tuple[int, ...], eps: float) -> np.ndarray:
    z = z.reshape(sizes)
    for axis, size in enumerate(sizes):
        t = np.linspace(0, 1, size)
        lines = np.moveaxis(z, axis, -1)[..., None, :] - (t[:, None] - t) ** 2 / eps
        top = lines.max(-1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        with np.errstate(divide="ignore"):
            z = np.moveaxis(np.log(np.exp(lines - top).sum(-1)) + top[..., 0], -1, axis)
    return z.reshape(-1)
