"""The network that reads costs: compiled code against torch, for sizes that fill no block; bad input."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import metaot
from metaot import core
from metaot.core import compiled as packing

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")

WIDTH, HIDDEN, CELLS, ROWS, ROUNDS = 3, 5, 8, 4, (2, 1)
EPS = 0.03
SHAPES = [(13, 70), (8, 9), (3, 5), (40, 7), (2, 2), (17, 300)]
"""Sources that fill no vector or all of it, and targets fewer than cells or many more."""


def network() -> core.Learnt:
    """Return a network of random weights."""
    random, count = np.random.default_rng(0), 0
    for k in range(sum(ROUNDS)):
        read = 3 + (WIDTH if k else 0)
        layers = (read + 1) * WIDTH, (read + WIDTH + 1) * HIDDEN, (HIDDEN + 1) * (WIDTH + 1)
        count += sum(layers) + WIDTH + HIDDEN + 2
    weights = 0.3 * random.normal(size=count).astype(np.float32)
    temperatures = np.array([0.8, 0.4, 0, 0.3, 0.3, 0.3], dtype=np.float32)
    return core.Learnt((WIDTH, HIDDEN, CELLS, ROWS), ROUNDS, weights, temperatures)


def drawn(n: int, m: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return C, a, b and eps."""
    random = np.random.default_rng(n + m)
    C, a, b = (random.random((batch, *size)) + 0.01 for size in ((n, m), (n,), (m,)))
    return C, a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True), EPS * (1 + np.arange(batch))


def predicted(C: np.ndarray, *problems: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    m = C.shape[-1]
    return core.learnt_potentials(network(), [min(m, CELLS), min(m, 20)], C, problems, threads=threads)


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_each_problem_is_answered_as_if_alone_in_any_order(n: int, m: int):
    C, a, b, eps = drawn(n, m, 3)
    f, spreads = predicted(C, a, b, eps, threads=2)
    assert np.isfinite(f).all()
    assert (spreads > 0).all()
    for k in range(3):
        one, spread = predicted(C[k], a[k : k + 1], b[k : k + 1], eps[k : k + 1])
        assert_array_equal(one[0], f[k])
        assert_array_equal(spread, spreads[k : k + 1])
    rows, columns = (np.random.default_rng(1).permutation(size) for size in (n, m))
    turned, _ = predicted(C[:, rows][..., columns], a[:, rows], b[:, columns], eps)
    assert_allclose(turned, f[:, rows], atol=1e-4)
    shared, _ = predicted(C[0], a, b, eps)
    assert_array_equal(shared, predicted(np.stack([C[0]] * 3), a, b, eps)[0])


@pytest.mark.skipif(not hasattr(metaot, "Dense"), reason="the core is alone")
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_torch_has_the_same_potentials(n: int, m: int):
    import torch  # noqa: PLC0415, this file also runs without it

    from metaot import Dense, Problem  # noqa: PLC0415
    from metaot.amortize import costs  # noqa: PLC0415
    from metaot.models import single  # noqa: PLC0415
    from metaot.models.costs import CostNetwork  # noqa: PLC0415

    settings = {"width": WIDTH, "hidden": HIDDEN, "shares": [10, 3], "rounds": list(ROUNDS)}
    model = single(CostNetwork(**settings, cells=CELLS, rows=ROWS)).requires_grad_(False)
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    C, a, b, eps = map(torch.from_numpy, drawn(n, m, 3))
    alone = Problem(a[0], b[0], Dense(C[0]), EPS)
    problems = [Problem(a, b, Dense(C), eps), Problem(a, b, Dense(C[0]), eps), alone]
    by_core, by_torch = costs.CostPotential(model), costs.CostPotential(deepcopy(model).double())
    for problem in problems:
        assert by_core._by_core(problem.flat()) is not None
        assert by_torch._by_core(problem.flat()) is None
        off = (by_core.predict(problem).f - by_torch.predict(problem).f) / torch.as_tensor(problem.eps)[..., None]
        assert float(off.abs().max()) < 2e-4


def test_problems_that_torch_has_to_prepare_are_named():
    C, a, b, eps = drawn(13, 70, 3)
    C[0, 2, b[0].argmax()] = np.inf
    b[2] = 1 / 70
    _, spreads = predicted(C, a, b, eps)
    assert_array_equal(spreads < 0, [True, False, True])


B, N, M = 2, 6, 30


def call(**changes: Any) -> None:
    """Call the compiled function for two problems, with some arguments changed."""
    net, (C, a, b, eps) = network(), drawn(N, M, B)
    parts = {"C": C, "a": a, "b": b, "eps": eps, "settings": settings(), "weights": net.weights}
    parts |= {"temperatures": net.temperatures, "f": np.empty((B, N)), "spreads": np.empty(B)}
    packing._core.learnt_potentials(*(parts | changes).values(), 1)


def settings(*changed: int, counts: tuple[int, ...] = (8, 20), rounds: tuple[int, ...] = ROUNDS) -> np.ndarray:
    first = changed or (WIDTH, HIDDEN, CELLS, ROWS)
    return np.array([*first, len(counts), *counts, *rounds], dtype=np.int64)


WRONG: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "costs of float32": (TypeError, {"C": np.zeros((B, N, M), dtype=np.float32)}),
    "a list": (TypeError, {"a": [[1 / N] * N] * B}),
    "weights of float64": (TypeError, {"weights": network().weights.astype(float)}),
    "settings of int32": (TypeError, {"settings": settings().astype(np.int32)}),
    "sides exchanged": (ValueError, {"C": np.zeros((B, M, N))}),
    "another batch of costs": (ValueError, {"C": np.zeros((B + 1, N, M))}),
    "four dimensions": (ValueError, {"C": np.zeros((1, B, N, M))}),
    "no atoms": (ValueError, {"C": np.zeros((B, 0, M)), "a": np.zeros((B, 0)), "f": np.empty((B, 0))}),
    "small b": (ValueError, {"b": np.ones((B, M - 1))}),
    "small f": (ValueError, {"f": np.empty((B, N - 1))}),
    "small spreads": (ValueError, {"spreads": np.empty(B - 1)}),
    "columns first": (ValueError, {"a": np.full((N, B), 1 / N).T}),
    "one weight less": (ValueError, {"weights": network().weights[1:].copy()}),
    "one temperature less": (ValueError, {"temperatures": network().temperatures[1:].copy()}),
    "no settings": (ValueError, {"settings": np.zeros(0, dtype=np.int64)}),
    "a setting less": (ValueError, {"settings": settings()[:-1].copy()}),
    "more levels than settings": (ValueError, {"settings": settings(counts=(8, 20, 25))}),
    "no cells": (ValueError, {"settings": settings(WIDTH, HIDDEN, 0, ROWS)}),
    "a width that is negative": (ValueError, {"settings": settings(-WIDTH, HIDDEN, CELLS, ROWS)}),
    "more targets than there are": (ValueError, {"settings": settings(counts=(8, M + 1))}),
    "fewer targets later": (ValueError, {"settings": settings(counts=(20, 8))}),
    "a level without rounds": (ValueError, {"settings": settings(rounds=(3, 0))}),
}


@pytest.mark.parametrize(("error", "changes"), WRONG.values(), ids=WRONG)
def test_arrays_that_do_not_fit_are_errors(error: type[Exception], changes: dict[str, Any]):
    call()
    with pytest.raises(error):
        call(**changes)
