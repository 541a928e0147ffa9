"""Newton on the semi-dual, as `metaot.solvers.newton`, for one problem whose Hessian fits into memory."""

import math

import numpy as np

from metaot.single.plan import Array, DenseProblem, Refinement, distance

RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian, whose eigenvalues are at most one when both sides are divided by sqrt(P 1)."""

FAR = 200.0
"""A direction that changes a potential by more than this many eps is compared with more damped ones."""

_LENGTHS = 0.5 ** np.arange(12)
"""Lengths of a step that are compared where the whole of it brings too little."""


def newton(problem: DenseProblem, f: Array, *, tol: float, max_steps: int) -> Refinement:
    """Step from f until the error is at most `tol`; a step is one of Sinkhorn's, and then one of Newton's."""
    a, b, steps = problem.a, problem.b, 0
    with np.errstate(all="ignore"):
        following = problem.best_f(problem.best_g(f))
        while True:
            error = distance(a * np.exp(f - following), a)
            if not error > tol or steps == max_steps:
                return Refinement(f, error, steps)
            P, _ = problem.best_plan(following)
            shift = _ascent(P, a, b)
            growth = np.exp(shift)
            f = following + shift
            source = growth * (P @ (b / np.maximum(growth @ P, _TINY)))
            following = f - np.log(np.maximum(source, _TINY) / a)
            steps += 1


_TINY = np.finfo(np.float64).tiny


def _ascent(P: Array, a: Array, b: Array) -> Array:
    """Return the change of f that raises J most, of Newton directions with more and more damping.

    Almost always the undamped one alone. One that is very long shows a plan that nearly falls apart: there
    the masses of the parts hide all else, and damping lets the rest move.
    """
    source = P.sum(1)
    root = np.sqrt(np.maximum(source, _TINY))
    half = P / np.sqrt(b)
    half /= root[:, None]
    H = np.outer(root, root) - half @ half.T
    gradient = a - source * (a.sum() / source.sum())
    best, most = np.zeros_like(a), 0.0
    for ridge in RIDGES:
        direction = _direction(H, gradient, root, ridge)
        shift, gain = _best_length(P, a, b, direction, gradient)
        if gain > most:
            best, most = shift, gain
        if 0 < np.abs(direction).max() <= FAR:
            break
    return best


def _direction(H: Array, gradient: Array, root: Array, ridge: float) -> Array:
    """Return the damped Newton direction; zero where there is none."""
    damped = H.copy()
    damped.flat[:: len(H) + 1] += 1 + ridge
    try:
        direction = np.linalg.solve(damped, gradient / root) / root
    except np.linalg.LinAlgError:
        return np.zeros_like(root)
    return direction if np.isfinite(direction).all() else np.zeros_like(root)


def _best_length(P: Array, a: Array, b: Array, direction: Array, gradient: Array) -> tuple[Array, float]:
    """Return the direction if it brings about what a parabola promises, else the part of it that raises J most.

    J(f + d) - J(f) = <d, a> - <log (P/b)^T e^d, b>, in units of eps.
    """
    longest = math.log(np.finfo(np.float64).max) / 3.5
    size = float(np.abs(direction).max())
    whole = direction * min(1.0, longest / size) if size > 0 else direction
    gain = float(_gain(P, a, b, whole[:, None])[0])
    if size <= longest and gain >= 0.25 * float(gradient @ direction) - 10 * np.finfo(np.float64).eps:
        return whole, gain
    paths = whole[:, None] * _LENGTHS
    gains = _gain(P, a, b, paths)
    best = int(gains.argmax())
    return paths[:, best], float(gains[best])


def _gain(P: Array, a: Array, b: Array, paths: Array) -> Array:
    """Return how much each path raises J; right to rounding of the gain itself where the path is short."""
    change = (P.T @ np.expm1(paths)) / b[:, None]
    growth = np.where(np.abs(change) < 0.5, np.log1p(change), np.log((P.T @ np.exp(paths)) / b[:, None]))
    return np.nan_to_num(a @ paths - b @ growth, nan=-math.inf)
